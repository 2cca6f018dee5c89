"""CVAT for images 1.1: one XML file with a record per image."""

from collections import Counter
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from camtrain.data.formats.base import Annotations, ImageAnnotation, Region, category_names, each, number, read_xml
from camtrain.data.layouts import split_of
from camtrain.data.shapes import Box, Ellipse, Polygon, Runs, Shape, read_points
from camtrain.errors import DataError

_WITHOUT_AREA = ("skeleton", "points", "polyline")  # labels whose shapes cover nothing


def read_cvat(path: Path) -> Annotations:
    """Polygons, boxes, ellipses and masks; other shapes cover nothing and are left out and counted."""
    root = read_xml(path)
    if root.tag != "annotations" or root.find(".//image") is None:
        raise DataError(f"{path} lists no images: export it from CVAT as 'CVAT for images 1.1'.")
    left_out: Counter[str] = Counter()
    labels = root.iterfind("./meta//labels/label")
    names = [str(label.findtext("name")) for label in labels if label.findtext("type") not in _WITHOUT_AREA]

    def read(image: Element) -> ImageAnnotation:
        regions, labels = [], [tag.get("label") for tag in image.iterfind("tag")]
        for element in image:
            if element.tag == "tag":
                continue
            shape = _shape(element)
            if shape is None:
                left_out[element.tag] += 1
            else:
                regions.append(Region(str(element.attrib["label"]), shape))
        size = (int(image.attrib["height"]), int(image.attrib["width"]))
        split = split_of(image.get("subset", ""))
        return ImageAnnotation(
            image.attrib["name"], tuple(regions), size, labels[0] if len(labels) == 1 else None, split
        )

    images = each(path, root.iter("image"), read)
    return Annotations(f"CVAT ({path})", images, category_names(images, names), left_out)


def _shape(element: Element) -> Shape | None:
    def of(name: str) -> float:
        return number(element.attrib[name], f"{name} of a {element.tag}")

    angle = number(element.get("rotation", 0), "rotation")
    if element.tag == "polygon":
        points = read_points([pair.split(",") for pair in element.attrib["points"].split(";")], "a polygon")
        return Polygon(points) if len(points) > 2 else None
    if element.tag == "box":
        return Box(of("xtl"), of("ytl"), of("xbr"), of("ybr"), angle)
    if element.tag == "ellipse":
        return Ellipse(of("cx"), of("cy"), of("rx"), of("ry"), angle)
    if element.tag == "mask":
        counts = np.array([int(count) for count in element.attrib["rle"].split(",")])
        shape = (int(of("height")), int(of("width")))
        return Runs(counts, shape, down=False, left=int(of("left")), top=int(of("top")))
    return None
