"""LabelMe: a JSON file beside each image."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from camtrain.data.formats.base import Annotations, ImageAnnotation, Region, category_names, each, read_json, unpacked
from camtrain.data.shapes import Bitmap, Box, Ellipse, Polygon, Shape, read_points
from camtrain.errors import DataError


def read_labelme(files: Sequence[Path], base: Path) -> Annotations:
    """One record per file; lines and points cover nothing and are left out and counted."""
    left_out: Counter[str] = Counter()
    images = [image for path in files for image in each(path, [read_json(path)], _Reader(path, base, left_out))]
    return Annotations(f"LabelMe ({base})", images, category_names(images), left_out)


class _Reader:
    """Reads the record of one file."""

    def __init__(self, path: Path, base: Path, left_out: Counter[str]) -> None:
        self.path, self.base, self.left_out = path, base, left_out

    def __call__(self, content: Any) -> ImageAnnotation:
        if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
            raise DataError("A LabelMe file holds a list 'shapes'. Export it again, or remove it.")
        regions = []
        for shape in content["shapes"]:
            if (drawn := _shape(shape)) is None:
                self.left_out[str(shape.get("shape_type") or "shape")] += 1
            else:
                regions.append(Region(str(shape["label"]), drawn))
        flags = [name for name, on in (content.get("flags") or {}).items() if on]
        size = (int(content["imageHeight"]), int(content["imageWidth"])) if content.get("imageHeight") else None
        name = str(content.get("imagePath") or self.path.stem).replace("\\", "/").rpartition("/")[2]
        parent = self.path.parent.relative_to(self.base) if self.path.parent.is_relative_to(self.base) else Path()
        return ImageAnnotation((parent / name).as_posix(), tuple(regions), size, flags[0] if len(flags) == 1 else None)


def _shape(record: dict[str, Any]) -> Shape | None:
    kind, points = record.get("shape_type") or "polygon", read_points(record["points"], f"shape {record['label']!r}")
    if kind in ("polygon", "oriented_rectangle"):
        return Polygon(points) if len(points) > 2 else None
    if kind == "rectangle":
        (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
        return Box(left, top, right, bottom)
    if kind == "circle":
        (x, y), (edge_x, edge_y) = points.tolist()
        radius = math.hypot(edge_x - x, edge_y - y)
        return Ellipse(x, y, radius, radius)
    if kind == "mask":
        left, top = (int(value) for value in points[0])
        return Bitmap.of(unpacked(record["mask"], "L", "A mask of LabelMe's"), left, top)
    if kind in ("line", "linestrip", "point", "points"):
        return None
    raise DataError(f"shape_type {kind!r} is none of LabelMe's. Redraw it as a polygon.")
