"""COCO instances: polygons, run lengths and boxes of categories, in one JSON file or one for each split."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from camtrain.data.formats.base import Annotations, ImageAnnotation, Region, each, number, read_json
from camtrain.data.layouts import split_of
from camtrain.data.shapes import BEYOND, Array, Box, Covered, Runs, Shape, read_points, require_near
from camtrain.errors import CamtrainError, DataError, MaskError

Record = Mapping[str, Any]
_NEEDED = {
    "images": ("id", "file_name", "height", "width"),
    "annotations": ("image_id", "category_id"),
    "categories": ("id", "name"),
}


@dataclass(frozen=True, eq=False)
class CocoPolygons:
    """The parts of one object, filled as pycocotools fills them, which is what COCO's own masks are."""

    parts: tuple[Array, ...]

    def draw(self, size: tuple[int, int]) -> Covered:
        """See `camtrain.data.shapes.Shape`."""
        from pycocotools import mask as rle_tools

        mask = np.zeros(size, bool)
        for points in self.parts:
            require_near(points, size)
            # Taken one by one: a list whose first entry has four numbers would be read as boxes.
            code = rle_tools.frPyObjects([points.ravel().tolist()], *size)[0]
            mask |= Runs(counts_of(code["counts"]), size).draw(size)
        return mask

    @property
    def area(self) -> float:
        """Of the polygons, in pixels."""
        return float(sum(_polygon_area(points) for points in self.parts))


def read_coco(path: Path) -> dict[str, list[Record]]:
    """The three lists of a COCO file.

    Raises:
        DataError: when it is missing, no JSON, or lacks one of them.
    """
    if not path.is_file():
        raise DataError(f"There is no annotation file {path}. Set annotation_file to a COCO JSON file.")
    content = read_json(path)
    for key, fields in _NEEDED.items():
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise DataError(f"A COCO file holds a list {key!r}; {path} does not. Export it as COCO instances.")
        for entry in entries:
            absent = [field for field in fields if field not in entry] if isinstance(entry, dict) else fields
            if absent:
                raise DataError(
                    f"Every entry of {key!r} has {', '.join(fields)}; {path} has one without {', '.join(absent)}: "
                    f"{str(entry)[:120]}. Complete or remove it."
                )
    return {key: content[key] for key in _NEEDED}


def read_coco_annotations(path: Path, boxes: bool = False) -> Annotations:
    """The shapes of a COCO file; what has no area is left out and counted.

    Args:
        path: the file.
        boxes: use the boxes even where there are polygons or run lengths.
    """
    content = read_coco(path)
    names = _category_names(content, path)
    regions: dict[str, list[Region]] = {str(record["id"]): [] for record in content["images"]}
    if len(regions) < len(content["images"]):
        ids = [str(record["id"]) for record in content["images"]]
        twice = next(key for key in ids if ids.count(key) > 1)
        raise DataError(f"{path} gives several images the id {twice}. Give each its own.")
    sizes = {str(record["id"]): _size_of(record, path) for record in content["images"]}
    left_out: Counter[str] = Counter()
    for annotation in content["annotations"]:
        key = str(annotation["image_id"])
        if key not in regions:
            raise DataError(
                f"{path} annotates image {key}, which it does not list. Add it to 'images' or remove the annotation."
            )
        if (category := _hashable(annotation["category_id"])) not in names:
            raise DataError(
                f"{path} annotates category {category}, which it does not list. "
                "Add it to 'categories' or remove the annotation."
            )
        try:
            shape = shape_of(annotation, sizes[key], boxes)
        except CamtrainError as error:
            raise type(error)(f"{path}: {error}") from error
        if shape is None:
            left_out["shape without an area"] += 1
        regions[key].append(Region(names[category], shape, _area(annotation, shape)))
    split = split_of_file(path)

    def read(record: Record) -> ImageAnnotation:
        key = str(record["id"])
        return ImageAnnotation(str(record["file_name"]), tuple(regions[key]), sizes[key], split=split, id=key)

    images = each(path, content["images"], read)
    return Annotations(f"COCO ({path})", images, list(dict.fromkeys(names.values())), left_out)


def shape_of(annotation: Record, size: tuple[int, int], boxes: bool = False) -> Shape | None:
    """The shape of one annotation of an image of a height and width; None where it has no area.

    Raises:
        DataError: when it holds neither segmentation nor box.
        MaskError: when the run lengths are of another size or do not fill it, or points are no numbers.
    """
    segmentation, name = annotation.get("segmentation"), f"annotation {annotation.get('id')}"
    if boxes or not segmentation:
        return _box(annotation, size)
    if isinstance(segmentation, list):
        parts = [segmentation] if isinstance(segmentation[0], int | float) else segmentation
        polygons = tuple(points for part in parts if len(points := read_points(part, name)) > 2)
        return CocoPolygons(polygons) if any(_polygon_area(points) > 0 for points in polygons) else None
    if not isinstance(segmentation, Mapping) or "counts" not in segmentation:
        raise DataError(f"The segmentation of {name} is no polygon and no run lengths: {str(segmentation)[:80]}.")
    if segmentation.get("size") not in (list(size), size):
        raise MaskError(
            f"Run lengths have the size of their image, {size}; those of {name} have {segmentation.get('size')}. "
            "Annotate the image at its present size."
        )
    try:
        return Runs(counts_of(segmentation["counts"]), size)
    except MaskError as error:
        raise MaskError(f"{name[0].upper()}{name[1:]}: {error}") from error


def counts_of(code: Any) -> Array:
    """Run lengths from a list, or from COCO's text: six bits a letter, each less the one before the last."""
    if isinstance(code, list):
        if not all(isinstance(count, int) for count in code):
            raise MaskError(f"Run lengths are whole numbers; got {str(code)[:80]}. Export them again.")
        return np.array(code, np.int64)
    letters = code.encode("ascii", "replace") if isinstance(code, str) else code
    if not isinstance(letters, bytes):
        raise MaskError(f"Run lengths are a list or a text; got {str(code)[:80]}. Export them again.")
    counts: list[int] = []
    value, shift = 0, 0
    for letter in letters:
        bits = letter - 48
        if not 0 <= bits < 64 or shift > 60:
            raise MaskError(
                f"Run lengths hold the letter {chr(letter)!r}, which is none of COCO's code. Export them again."
            )
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value, shift = 0, 0
    if shift:
        raise MaskError("Run lengths end in the middle of a number. Export them again.")
    return np.array(counts, np.int64)


def _box(annotation: Record, size: tuple[int, int]) -> Box | None:
    box = annotation.get("bbox")
    if not isinstance(box, Sequence) or len(box) != 4:
        raise DataError(
            f"An annotation has a segmentation or a bbox [x, y, width, height]; annotation {annotation.get('id')} has "
            f"bbox {box}. Complete or remove it."
        )
    x, y, width, height = (number(value, f"bbox of annotation {annotation.get('id')}") for value in box)
    may_be_corners = 0 <= x < width and 0 <= y < height
    if may_be_corners and (x + width > (1 + BEYOND) * size[1] or y + height > (1 + BEYOND) * size[0]):
        raise MaskError(
            f"A bbox is [x, y, width, height]; that of annotation {annotation.get('id')}, {list(box)}, reaches beyond "
            f"its image of {size[1]}x{size[0]}. Where the numbers are corners, subtract the first from the last."
        )
    return Box(x, y, x + width, y + height) if width > 0 and height > 0 else None


def _area(annotation: Record, shape: Shape | None) -> float:
    """Of the shape itself; what the file states counts for a box alone, which the object does not fill."""
    if isinstance(shape, CocoPolygons):
        return shape.area
    if isinstance(shape, Runs):
        return float(shape.counts[1::2].sum())
    if isinstance(shape, Box):
        stated = annotation.get("area")
        is_positive = isinstance(stated, int | float) and 0 < stated < float("inf")
        return float(stated or 0) if is_positive else (shape.right - shape.left) * (shape.bottom - shape.top)
    return 0.0


def _polygon_area(points: Array) -> float:
    x, y = points[:, 0], points[:, 1]
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def _category_names(content: Mapping[str, Sequence[Record]], path: Path) -> dict[Any, str]:
    """Names by id, without a root category; two of one name are refused where both are in use."""
    used = {_hashable(annotation["category_id"]) for annotation in content["annotations"]}
    parents = {str(category.get("supercategory")) for category in content["categories"]}
    names: dict[Any, str] = {}
    owners: dict[str, Any] = {}
    for category in content["categories"]:
        key, name = _hashable(category["id"]), str(category["name"])
        is_root = key not in used and name in parents and str(category.get("supercategory")) in ("none", "None", "")
        if is_root:
            continue  # Roboflow lists what all of its categories belong to
        if name in owners and owners[name] in used and key in used:
            raise DataError(f"{path} has two categories {name!r}, {owners[name]} and {key}. Rename one of them.")
        owners[name] = key if key in used else owners.get(name, key)
        names[key] = name
    return names


def _hashable(value: Any) -> Any:
    return value if isinstance(value, int | str) else str(value)


def _size_of(record: Record, path: Path) -> tuple[int, int]:
    sides = (record["height"], record["width"])
    if not all(isinstance(side, int | float) and 0 < side < 1 << 20 and side == int(side) for side in sides):
        raise DataError(f"{path} gives image {record['id']} the height and width {sides}. Correct them.")
    return int(sides[0]), int(sides[1])


def split_of_file(path: Path) -> str | None:
    """The split in a file's name (`instances_train2017.json`) or its folder's (`valid/_annotations.coco.json`)."""
    words = [word for word in path.stem.replace(".", "_").split("_") if word]
    return next((split for word in [*words, path.parent.name] if (split := split_of(word))), None)
