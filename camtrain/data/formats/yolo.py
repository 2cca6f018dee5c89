"""YOLO as Ultralytics lays it out: `data.yaml`, and a text file of boxes or polygons beside each image's folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from camtrain.data.files import list_images
from camtrain.data.formats.base import Annotations, ImageAnnotation, Region, each, number
from camtrain.data.shapes import BEYOND, Box, Polygon, Shape
from camtrain.data.subsets import SPLITS
from camtrain.errors import DataError, MaskError


def read_yolo(path: Path) -> Annotations:
    """The images of all splits that `data.yaml` names, in the order of its `names`."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path} is no YAML ({error}). Set annotations to the data.yaml of the data set.") from error
    if not isinstance(content, dict) or not isinstance(content.get("names"), dict | list) or "train" not in content:
        raise DataError(f"{path} has no names and train: set annotations to the data.yaml of the data set.")
    given = content["names"]
    names = {int(key): str(name) for key, name in (given.items() if isinstance(given, dict) else enumerate(given))}
    base = path.parent / str(content.get("path") or "")
    root = base if base.is_dir() else path.parent  # the path is that of the machine where the file was written
    keypoints = "kpt_shape" in content
    images: list[ImageAnnotation] = []
    for split in SPLITS:
        for image in _images(content.get(split), root, path):
            labels = _labels_of(image)
            rows = _lines(labels) if labels.is_file() else []
            regions = _regions(labels, rows, names, keypoints)
            images.append(ImageAnnotation(_relative(image, root), regions, split=split))
    return Annotations(f"YOLO ({path})", images, list(names.values()), folder=root)


def _images(given: Any, root: Path, path: Path) -> list[Path]:
    images: list[Path] = []
    for name in given if isinstance(given, list) else [given] if given else []:
        places = [root / str(name), path.parent / str(name), path.parent / str(name).removeprefix("../")]
        place = next((place for place in places if place.exists()), places[0])
        if place.is_file() and place.suffix == ".txt":
            images += [(place.parent / line.strip()) for line in _lines(place) if line.strip()]
        elif place.is_dir():
            images += list_images(place)
        else:
            raise DataError(f"{path} names the images {name}, which do not exist. Correct it.")
    return [image.resolve() for image in images]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8: {error}. Save it as one.") from error


def _labels_of(image: Path) -> Path:
    """Ultralytics' rule: the last folder `images` becomes `labels`."""
    parts = list(image.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts).with_suffix(".txt")


def _relative(image: Path, root: Path) -> str:
    resolved = root.resolve()
    return image.relative_to(resolved).as_posix() if image.is_relative_to(resolved) else str(image)


def _regions(path: Path, rows: list[str], names: Mapping[int, str], keypoints: bool) -> tuple[Region, ...]:
    def read(row: str) -> ImageAnnotation | None:
        cells = row.split()
        if not cells:
            return None
        kind = number(cells[0], "a class")
        if kind not in names:
            raise DataError(f"Class {kind:g} has no name; data.yaml has {len(names)}.")
        return ImageAnnotation("", (Region(names[int(kind)], _shape(cells[1:], keypoints)),))

    return tuple(region for image in each(path, rows, read) for region in image.regions)


def _shape(cells: list[str], keypoints: bool) -> Shape:
    values = [number(cell, "a coordinate") for cell in (cells[:4] if keypoints else cells)]
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise DataError(f"A row is a class with a box (4 numbers) or a polygon (6 or more); it has {len(values)}.")
    if min(values) < -0.01 or max(values) > 1.01:
        raise MaskError(
            f"Coordinates are shares of the image, 0 to 1; got {max(values, key=abs):g}. Divide by its size."
        )
    if len(values) == 4:
        x, y, width, height = values
        if min(x - width / 2, y - height / 2) < -BEYOND or max(x + width / 2, y + height / 2) > 1 + BEYOND:
            raise MaskError(
                f"A box is its center, width and height; {values} reaches beyond the image. Convert corners, where "
                "these are some."
            )
        return Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2, shares=True)
    return Polygon(np.reshape(values, (-1, 2)), shares=True)
