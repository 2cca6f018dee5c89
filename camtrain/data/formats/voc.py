"""PASCAL VOC's XML files, one for an image, which ImageNet's boxes share."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from xml.etree.ElementTree import Element

from camtrain.data.formats.base import Annotations, ImageAnnotation, Region, category_names, each, number, read_xml
from camtrain.data.layouts import split_of
from camtrain.data.shapes import Box
from camtrain.errors import DataError


def read_voc(files: Sequence[Path], base: Path) -> Annotations:
    """Boxes whose corners are pixels, both inside, counted from 1 as VOC does; from 0 where any corner is 0."""
    roots = [(path, read_xml(path)) for path in files]
    first = 0 if any(_has_zero(root) for _, root in roots) else 1
    splits = _splits(base)

    def read(path: Path, root: Element) -> ImageAnnotation:
        if root.tag != "annotation":
            raise DataError(f"The root of a VOC file is 'annotation'; got {root.tag!r}.")
        regions = tuple(Region(_text(item, "name"), _box(item, first)) for item in root.iterfind("object"))
        sides = [int(number(root.findtext(f"size/{side}") or 0, side)) for side in ("height", "width")]
        name = (root.findtext("filename") or path.stem).strip()
        name = name if Path(name).stem == path.stem else path.stem  # copied files keep the name they had
        relative = path.parent.relative_to(base) if path.parent.is_relative_to(base) else Path()
        size = (sides[0], sides[1]) if all(sides) else None
        return ImageAnnotation((relative / name).as_posix(), regions, size, split=splits.get(path.stem))

    images = [image for path, root in roots for image in each(path, [root], partial(read, path))]
    why = "a corner is 0" if first == 0 else "VOC's rule; no corner is 0"
    note = f"corners of boxes are pixels counted from {first} ({why}), both inside"
    return Annotations(f"VOC ({base})", images, category_names(images), notes=(note,))


def _box(item: Element, first: int) -> Box:
    box = item.find("bndbox")
    if box is None:
        raise DataError(f"The object {_text(item, 'name')!r} has no bndbox. Complete or remove it.")
    left, top, right, bottom = (number(_text(box, name), name) for name in ("xmin", "ymin", "xmax", "ymax"))
    if right < left or bottom < top or (0 < max(right, bottom) <= 1 and (left, top) != (right, bottom)):
        raise DataError(
            f"The object {_text(item, 'name')!r} has a box from {left:g}, {top:g} to {right:g}, {bottom:g}: corners "
            "are pixels, the upper left one first. Correct it."
        )
    return Box(left - first, top - first, right - first + 1, bottom - first + 1)


def _has_zero(root: Element) -> bool:
    names = ("bndbox/xmin", "bndbox/ymin")
    return any(float(item.findtext(name) or 1) == 0 for item in root.iterfind("object") for name in names)


def _text(element: Element, name: str) -> str:
    text = element.findtext(name)
    if text is None:
        raise DataError(f"A {element.tag} has no {name}. Complete or remove it.")
    return text.strip()


def _splits(base: Path) -> dict[str, str]:
    """What ImageSets beside the annotations says of each image."""
    splits = {}
    for folder in ("Main", "Segmentation"):
        for path in sorted((base.parent / "ImageSets" / folder).glob("*.txt")):
            split = split_of(path.stem)
            if split:
                splits.update({line.split()[0]: split for line in path.read_text().splitlines() if line.strip()})
    return splits
