"""CSV files of shapes: run lengths (Airbus, SIIM), gaze and clicks, boxes by their corners, ImageNet's of Kaggle."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from camtrain.data.formats.base import Annotations, ImageAnnotation, Region, category_names, number
from camtrain.data.formats.runs import Starts, counted
from camtrain.data.layouts import read_rows
from camtrain.data.shapes import Box, Disc, Shape
from camtrain.errors import DataError, MaskError

_RUNS = ("encodedpixels", "rlemask", "rle", "segmentation")
_IMAGES = ("imageid", "image", "img", "id", "file", "filename", "imageidclassid")
_CORNERS = (("xmin", "ymin", "xmax", "ymax"), ("x1", "y1", "x2", "y2"), ("left", "top", "right", "bottom"))
WITHOUT, WITH = "without object", "with object"


def read_table(path: Path) -> Annotations:
    """Decide by the columns what a CSV file holds."""
    rows, header = read_rows(path)
    plain = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in header}
    image = next((plain[name] for name in _IMAGES if name in plain), None)
    runs = next((plain[name] for name in _RUNS if name in plain), None)
    category = next((plain[name] for name in ("classid", "class", "label", "category") if name in plain), None)
    if image and runs:
        return _run_lengths(path, rows, image, runs, category)
    if image and "predictionstring" in plain:
        return _prediction_strings(path, rows, image, plain["predictionstring"])
    corners = next(([plain[name] for name in names] for names in _CORNERS if set(names) <= set(plain)), None)
    if image and corners:
        return _boxes(path, rows, image, corners, category)
    sides = [plain[name] for name in ("width", "height", "w", "h") if name in plain]
    if image and "x" in plain and "y" in plain and len(sides) == 2:
        raise DataError(
            f"{path} has the columns x, y, {', '.join(sides)}, which may be boxes or gaze on images of a size: save "
            "boxes by their corners xmin, ymin, xmax, ymax, or leave the size out."
        )
    if image and "x" in plain and "y" in plain:
        return _points(path, rows, image, plain["x"], plain["y"])
    raise DataError(
        f"{path} has the columns {list(plain.values())}: a CSV file of annotations has an image and EncodedPixels (run "
        "lengths), x and y (gaze), xmin, ymin, xmax and ymax (boxes), or PredictionString (ImageNet's boxes). Rename "
        "them."
    )


def _run_lengths(
    path: Path, rows: Sequence[Mapping[str, str]], image: str, runs: str, category: str | None
) -> Annotations:
    coded: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
    for position, row in enumerate(rows):
        numbers = _numbers(path, position, row[runs])
        entries = coded.setdefault(row[image].strip(), [])
        if numbers:
            entries.append((row[category].strip() if category else WITH, numbers))
    counting = counted([numbers for entries in coded.values() for _, numbers in entries], path)
    images = [
        ImageAnnotation(
            name,
            tuple(Region(kind, Starts(numbers, counting), float(sum(numbers[1::2]))) for kind, numbers in entries),
            label=None if category else (WITH if entries else WITHOUT),
        )
        for name, entries in coded.items()
    ]
    names = category_names(images) if category else [WITHOUT, WITH]
    return Annotations(f"run lengths ({path})", images, names, notes=(f"starts of runs are counted from {counting}",))


def _numbers(path: Path, position: int, text: str) -> tuple[int, ...]:
    words = text.split()
    if words in ([], ["-1"]) or text.strip().lower() == "nan":
        return ()
    if len(words) % 2 or not all(re.fullmatch(r"\d+", word) for word in words):
        raise DataError(f"Row {position + 2} of {path} has starts and lengths in turn; got {text[:60]!r}. Correct it.")
    return tuple(int(word) for word in words)


def _points(path: Path, rows: Sequence[Mapping[str, str]], image: str, x: str, y: str) -> Annotations:
    places: dict[str, list[tuple[float, float]]] = defaultdict(list)
    left_out = 0
    for row in rows:
        try:
            place = float(row[x]), float(row[y])
        except ValueError as error:
            raise DataError(
                f"{path} has x, y numbers; got {row[x]!r}, {row[y]!r}. Correct or remove the row."
            ) from error
        if not np.isfinite(place).all() or min(place) < 0:
            left_out += 1  # a blink, or a look beside the screen
        else:
            places[row[image].strip()].append(place)
    highest = max((max(place) for points in places.values() for place in points), default=2.0)
    if highest <= 1:
        raise MaskError(
            f"{path} has x and y in pixels; none is above {highest:g}. Multiply shares by width and height."
        )
    images = [ImageAnnotation(name, tuple(Region("", Disc(*place)) for place in of)) for name, of in places.items()]
    return Annotations(f"points ({path})", images, [], {"point outside the image": left_out} if left_out else {})


def _boxes(
    path: Path, rows: Sequence[Mapping[str, str]], image: str, corners: Sequence[str], category: str | None
) -> Annotations:
    boxes: dict[str, list[Region]] = {}
    highest = 0.0
    for position, row in enumerate(rows):
        regions = boxes.setdefault(row[image].strip(), [])
        if not any(row[name].strip() for name in corners):
            continue  # an image without a box
        left, top, right, bottom = (number(row[name].strip(), "a corner") for name in corners)
        if left >= right or top >= bottom:
            raise DataError(
                f"Row {position + 2} of {path} has a box from {left:g}, {top:g} to {right:g}, {bottom:g}, which holds "
                f"nothing. Correct it, or name what are corners {', '.join(_CORNERS[0])}."
            )
        highest = max(highest, right, bottom)
        regions.append(Region(row[category].strip() if category else WITH, Box(left, top, right, bottom)))
    if 0 < highest <= 1:
        raise MaskError(
            f"{path} has corners in pixels; none is above {highest:g}. Multiply shares by width and height."
        )
    images = [ImageAnnotation(name, tuple(regions)) for name, regions in boxes.items()]
    return Annotations(f"boxes ({path})", images, category_names(images))


def _prediction_strings(path: Path, rows: Sequence[Mapping[str, str]], image: str, column: str) -> Annotations:
    def read(words: list[str]) -> tuple[Region, ...]:
        boxes: list[tuple[str, Shape]] = []
        for start in range(0, len(words), 5):
            left, top, right, bottom = (number(word, "a corner") for word in words[start + 1 : start + 5])
            boxes.append((words[start], Box(left, top, right + 1, bottom + 1)))
        return tuple(Region(*box) for box in boxes)

    images: list[Any] = []
    for position, row in enumerate(rows):
        words = row[column].split()
        if len(words) % 5:
            raise DataError(
                f"Row {position + 2} of {path} has a class and four corners in turn; got {row[column][:60]!r}."
            )
        images.append(ImageAnnotation(row[image].strip(), read(words)))
    note = "corners of boxes are pixels counted from 0, both inside"
    return Annotations(f"ImageNet boxes ({path})", images, category_names(images), notes=(note,))
