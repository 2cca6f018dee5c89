"""Annotation files of the common tools, each read by the rules of its own format."""

from camtrain.data.formats.base import Annotations, ImageAnnotation, Region
from camtrain.data.formats.reading import read_annotations

__all__ = ["Annotations", "ImageAnnotation", "Region", "read_annotations"]
