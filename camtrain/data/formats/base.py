"""What every annotation file says: of each image, which shapes of which category it shows."""

import base64
import io
import json
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from camtrain.data.shapes import Array, Shape
from camtrain.errors import CamtrainError, DataError, MaskError


@dataclass(frozen=True, eq=False)
class Region:
    """A shape and the category of what it shows.

    Attributes:
        category: "" where the format has none.
        shape: None where it covers nothing.
        area: in pixels, where it is known without drawing.
    """

    category: str
    shape: Shape | None
    area: float | None = None


@dataclass(frozen=True, eq=False)
class ImageAnnotation:
    """What an annotation file says of an image.

    Attributes:
        file: name of the image, as the file gives it.
        regions: the shapes drawn on it; empty where it is listed without any.
        size: height and width that the file states.
        label: class of the whole image where the file states one.
        split: "train", "val" or "test" where the file says so.
        id: the file's own name of the record.
    """

    file: str
    regions: tuple[Region, ...]
    size: tuple[int, int] | None = None
    label: str | None = None
    split: str | None = None
    id: str | None = None


@dataclass(frozen=True, eq=False)
class Annotations:
    """An annotation file, or several of one kind.

    Attributes:
        kind: name of the format and of the file.
        images: one record per image.
        categories: names in the order of the file, or sorted where it has none.
        left_out: what the file holds that is no shape with an area, by kind, with its number.
        folder: of the images where the file names one.
        notes: how the file was read where its format leaves two ways, for a person.
    """

    kind: str
    images: list[ImageAnnotation]
    categories: list[str] = field(default_factory=list)
    left_out: Mapping[str, int] = field(default_factory=dict)
    folder: Path | None = None
    notes: tuple[str, ...] = ()


def read_json(path: Path) -> Any:
    """The content of a JSON file; what is none is a `DataError`."""
    if not path.is_file():
        raise DataError(f"There is no annotation file {path}. Set annotations to an existing one.")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON ({error}). Export it again.") from error


def read_xml(path: Path) -> ET.Element:
    """The root of an XML file; what is none is a `DataError`."""
    try:
        return ET.fromstring(path.read_bytes())
    except (ET.ParseError, ValueError, LookupError) as error:
        raise DataError(f"{path} is no XML ({error}). Export it again.") from error


def each(path: Path, records: Iterable[Any], read: Callable[[Any], ImageAnnotation | None]) -> list[ImageAnnotation]:
    """Read record by record; one that is not as its format says is a `DataError` that names the file and the record."""
    images = []
    for number, record in enumerate(records):
        try:
            image = read(record)
        except CamtrainError as error:
            raise type(error)(f"{path}, entry {number}: {error}") from error
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            shown = str(record)[:80] if not isinstance(record, ET.Element) else record.tag
            raise DataError(
                f"{path}, entry {number} ({shown}) is not as its format says: {type(error).__name__} {error}. "
                "Complete or remove it."
            ) from error
        if image is not None:
            images.append(image)
    return images


def category_names(images: Sequence[ImageAnnotation], stated: Sequence[str] = ()) -> list[str]:
    """The names in the order that the file states, else those met, sorted."""
    met = {region.category for image in images for region in image.regions if region.category}
    met |= {image.label for image in images if image.label is not None}
    return [*dict.fromkeys(stated), *sorted(met - set(stated))]


def number(value: Any, what: str) -> float:
    """A finite number, from a number or its text."""
    try:
        result = float(value)
    except (TypeError, ValueError) as error:
        raise MaskError(f"{what} is a number; got {value!r}. Correct or remove it.") from error
    if result != result or result in (float("inf"), float("-inf")):
        raise MaskError(f"{what} is finite; got {value!r}. Correct or remove it.")
    return result


def unpacked(text: str, channel: str, what: str) -> Array:
    """The mask `(H, W)` in a PNG in base64: where its gray ("L") or its opacity ("A") is above 0."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(text))) as file:
            image = file.convert("RGBA").getchannel("A") if channel == "A" else file.convert("L")
            return np.asarray(np.array(image) > 0)
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{what} is a PNG in base64: {error}. Redraw it.") from error
