"""Label Studio's JSON: a list of tasks, shapes in hundredths of the image, brushes as packed run lengths."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

import numpy as np

from camtrain.data.formats.base import (
    Annotations,
    ImageAnnotation,
    Region,
    category_names,
    each,
    number,
    read_json,
    unpacked,
)
from camtrain.data.shapes import Array, Bitmap, Box, Ellipse, Polygon, Shape, read_points, turned
from camtrain.errors import DataError, MaskError

_SHAPES = ("polygon", "rectangle", "brush", "bitmask", "ellipse")


def read_label_studio(path: Path) -> Annotations:
    """The first annotation of each task that was not cancelled, or the one marked as ground truth."""
    content = read_json(path)
    left_out: Counter[str] = Counter()

    def read(task: Mapping[str, Any]) -> ImageAnnotation | None:
        annotations = [each for each in task["annotations"] if not each.get("was_cancelled")]
        annotations.sort(key=lambda annotation: not annotation.get("ground_truth"))
        if not annotations:
            return None
        left_out["annotation by a further person"] += len(annotations) - 1
        results = [result for result in annotations[0]["result"] if "value" in result]  # relations have none
        drawn = {result["id"] for result in results if _shape_name(result) and "id" in result}
        # Where shapes and names are tags of their own, the names are in a second result of the same id.
        named = {result["id"]: names for result in results if result.get("id") in drawn and (names := _names(result))}
        choices = [name for result in results if result.get("id") not in drawn for name in _names(result)]
        regions, size = [], None
        for result in results:
            kind, value, shape = result["type"], result["value"], _shape_name(result)
            if not shape:
                left_out[kind] += kind not in ("choices", "labels")
                continue
            _require_plain(result)
            size = (int(result["original_height"]), int(result["original_width"]))
            labels = value.get(kind) or named.get(result.get("id")) or [""]
            regions.append(Region(str(labels[0]), _shape(shape, value, size)))
        return ImageAnnotation(_image_of(task), tuple(regions), size, choices[0] if len(choices) == 1 else None)

    images = each(path, content, read)
    kinds = {kind: count for kind, count in left_out.items() if count}
    return Annotations(f"Label Studio ({path})", images, category_names(images), kinds)


def _shape_name(result: Mapping[str, Any]) -> str:
    """Of a result that draws something; "" of others."""
    name = str(result["type"]).removesuffix("labels")
    return name if name in _SHAPES else ""


def _names(result: Mapping[str, Any]) -> list[str]:
    """What a result of names or choices says."""
    kind = result["type"]
    return [str(name) for name in result["value"][kind]] if kind in ("choices", "labels") else []


def _require_plain(result: Mapping[str, Any]) -> None:
    """Refuse shapes on an image that was turned in the editor, and on one of several images of a task."""
    if turn := result.get("image_rotation"):
        raise MaskError(
            f"A shape was drawn on an image turned by {turn} degrees in the editor, and its numbers are of the image "
            "as it was shown. Turn the image back there, or turn the file itself, and export again."
        )
    if number := result.get("item_index"):
        raise MaskError(f"A shape is on image {number} of a task of several images. Make a task of each image.")


def decode_brush(code: Sequence[int]) -> Array:
    """The bytes that a brush's run lengths unpack to: runs of one value and runs of single ones, in words of bits.

    The format is thi.ng's rle-pack, with a head of 32 bits of length, 5 of word size and 4 x 4 of run sizes.
    """
    bits = np.unpackbits(np.asarray(code, np.uint8)).astype(np.int64)
    position = 0

    def take(count: int) -> int:
        nonlocal position
        word = bits[position : position + count]
        if len(word) < count:
            raise MaskError("The run lengths of a brush end before its image does. Export it again.")
        position += count
        return int(word @ (1 << np.arange(count - 1, -1, -1)))

    length, word = take(32), take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    if length > 4 * 178_956_970:
        raise MaskError(f"The run lengths of a brush are said to have {length} bytes. Export it again.")
    values, start = np.zeros(length, np.uint8), 0
    while start < length:
        repeated = take(1)
        stop = start + 1 + take(sizes[take(2)])
        if stop > length:
            raise MaskError("The run lengths of a brush reach beyond its image. Export it again.")
        if repeated:
            values[start:stop] = take(word)
        else:
            single = bits[position : position + word * (stop - start)].reshape(stop - start, word)
            values[start:stop] = single @ (1 << np.arange(word - 1, -1, -1))
            position += word * (stop - start)
        start = stop
    return values


def _shape(kind: str, value: Mapping[str, Any], size: tuple[int, int]) -> Shape:
    height, width = size
    scale = np.array([width, height]) / 100
    angle = number(value.get("rotation") or 0, "rotation")
    if kind == "polygon":
        return Polygon(read_points(value["points"], "a polygon") * scale)
    if kind == "bitmask":
        bits = unpacked(value["imageDataURL"].rpartition(",")[2], "A", "A mask of Label Studio's")
        if bits.shape != size:
            raise MaskError(
                f"A mask of an image of {width}x{height} has its size; got {bits.shape[1]}x{bits.shape[0]}."
            )
        return Bitmap.of(bits)
    if kind == "brush":
        values = decode_brush(value["rle"])
        if len(values) != height * width * 4:
            raise MaskError(
                f"A brush of an image of {width}x{height} has {height * width * 4} bytes; got {len(values)}."
            )
        return Bitmap.of(values.reshape(height, width, 4)[..., 3] > 0)
    x, y = number(value["x"], "x") * scale[0], number(value["y"], "y") * scale[1]
    if kind == "ellipse":
        return Ellipse(
            x, y, number(value["radiusX"], "radiusX") * scale[0], number(value["radiusY"], "radiusY") * scale[1], angle
        )
    across, down = number(value["width"], "width") * scale[0], number(value["height"], "height") * scale[1]
    if not angle:
        return Box(x, y, x + across, y + down)
    corners = np.array([[x, y], [x + across, y], [x + across, y + down], [x, y + down]])
    return Polygon(turned(corners, (x, y), angle))  # turned around its upper left corner


def _image_of(task: Mapping[str, Any]) -> str:
    """The image's file name: of a local file, an upload (which has a prefix of eight digits) or an address."""
    data = task["data"]
    source = next((str(data[key]) for key in ("image", "img", "ocr", "photo") if key in data), None)
    if source is None:
        source = next((str(value) for value in data.values() if re.search(r"\.\w{3,4}$", str(value))), None)
    if source is None:
        raise DataError(f"A task names its image; got data {str(data)[:80]}. Export it again.")
    query = parse_qs(urlparse(source).query)
    path = query["d"][0] if "d" in query else unquote(urlparse(source).path or source)
    folder, _, name = path.lstrip("/").rpartition("/")
    if folder.startswith("data/upload"):
        return re.sub(r"^[0-9a-f]{8}-", "", name)
    return f"{folder}/{name}" if folder else name
