"""From annotation files to samples: the image of a record, its label, and the shapes that are its object."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from camtrain.data.files import Sample, announce, image_size, list_images
from camtrain.data.formats import Annotations, ImageAnnotation
from camtrain.data.layouts import FolderLayout, check_names, split_of
from camtrain.data.shapes import Shape, area_of
from camtrain.errors import DataError


def from_annotations(
    annotations: Annotations, folder: Path, categories: Sequence[str] | None = None, upright: bool = True
) -> FolderLayout:
    """Images labeled with the category that covers most of them, and the union of its shapes as the object.

    Images without a shape or a label are left out, and counted.
    """
    names = list(annotations.categories) if categories is None else list(categories)
    if unknown := [name for name in names if name not in annotations.categories]:
        there = sorted(annotations.categories)
        raise DataError(f"The annotations have no category {unknown}; they have {there}. Correct categories.")
    check_names(names, annotations.kind)
    find = FileFinder(annotations.folder or folder)
    samples, missing, owners = [], [], _Owners(find, annotations.kind)
    for image in annotations.images:
        label, shapes = _largest(image, names, find, upright)
        if label is None:
            continue
        path = owners.path_of(image.file)
        if path is None:
            missing.append(find.folder / image.file)
        else:
            split = image.split or _split_of_path(path, find.folder)
            samples.append(
                Sample(path, names.index(label), None, None, split, image.id or image.file, (), shapes, image.size)
            )
    if missing:
        raise DataError(
            f"The annotations name {len(missing)} images that do not exist, first {missing[0]}. "
            "Correct the folder of the images, or remove their entries."
        )
    if not samples:
        raise DataError(
            f"The annotations, {annotations.kind}, are of no image with the chosen categories. Choose others."
        )
    _say(annotations, len(samples), len(annotations.images))
    return FolderLayout(samples, names, [])


def attached(samples: Sequence[Sample], names: Sequence[str], annotations: Annotations, folder: Path) -> list[Sample]:
    """Samples whose labels are known, with the shapes of their class; all shapes where no category is a class."""
    by_class = bool(set(names) & set(annotations.categories))
    _require_names_alike(names, annotations)
    owners = _Owners(FileFinder(folder), annotations.kind)
    records: dict[Path, list[ImageAnnotation]] = defaultdict(list)
    for image in annotations.images:
        if (path := owners.path_of(image.file)) is not None:
            records[path].append(image)
    result, matched = [], 0
    for sample in samples:
        images = records.get(sample.image, [])
        matched += bool(images)
        shapes = tuple(
            region.shape
            for image in images
            for region in image.regions
            if region.shape is not None and (not by_class or region.category == names[sample.label])
        )
        size = next((image.size for image in images if image.size), None)
        result.append(replace(sample, regions=shapes or None, size=size))
    if not matched:
        first = annotations.images[0].file if annotations.images else "no image"
        raise DataError(
            f"The {annotations.kind} annotations are of none of the images in {folder}: they name {first}, and "
            f"there is {samples[0].id}. Correct images or annotations."
        )
    _say(annotations, matched, len(samples))
    return result


def _require_names_alike(names: Sequence[str], annotations: Annotations) -> None:
    """Refuse a class that is a category but for its spelling: its shapes would be no image's object."""
    plain = {_plain(category): category for category in annotations.categories}
    for name in names:
        other = plain.get(_plain(name), name)
        if name not in annotations.categories and other != name:
            raise DataError(
                f"The class {name!r} of the images is {other!r} in the {annotations.kind} annotations. Rename one, so "
                "that its shapes are known to be the object."
            )


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name.casefold()).strip()


class _Owners:
    """Which record of an annotation file has an image file: `train/1.jpg` and `val/1.jpg` are not both `1.jpg`."""

    def __init__(self, find: "FileFinder", kind: str) -> None:
        self.find, self.kind = find, kind
        self.names: dict[Path, str] = {}

    def path_of(self, name: str) -> Path | None:
        """The file of a record, or None; DataError where another record has it."""
        path = self.find(name)
        if path is not None and self.names.setdefault(path, name) != name:
            raise DataError(
                f"The {self.kind} annotations name {self.names[path]} and {name}, and only {path} is there, which "
                "cannot be both. Restore the missing image, or remove its entry."
            )
        return path


def _say(annotations: Annotations, matched: int, count: int) -> None:
    announce(f"{annotations.kind} annotations: of {matched} of {count} images")
    for note in annotations.notes:
        announce(note)
    if annotations.left_out:
        kinds = ", ".join(f"{number} {kind}" for kind, number in annotations.left_out.items())
        announce(f"left out of the annotations, as they cover no area or none that is read: {kinds}")


def _largest(
    image: ImageAnnotation, names: Iterable[str], find: "FileFinder", upright: bool
) -> tuple[str | None, tuple[Shape, ...] | None]:
    """The label of an image, and the shapes that belong to it."""
    chosen = set(names)
    regions = [region for region in image.regions if region.category in chosen]
    label = image.label if image.label in chosen else None
    if label is None and regions:
        label = regions[0].category
        if len({region.category for region in regions}) > 1:
            label = max(areas := _areas(image, find, upright, chosen), key=lambda name: areas[name])
    of_label = [region.shape for region in image.regions if region.category in (label, "") and region.shape is not None]
    return label, tuple(of_label) or None


def _areas(image: ImageAnnotation, find: "FileFinder", upright: bool, chosen: set[str]) -> Mapping[str, float]:
    areas: dict[str, float] = {}
    size = image.size
    for region in image.regions:
        if region.category not in chosen:
            continue
        area = region.area
        if area is None and region.shape is not None:
            path = find(image.file)
            size = size or (image_size(path, upright) if path else (1, 1))
            area = float(area_of(region.shape, size))
        areas[region.category] = areas.get(region.category, 0.0) + (area or 0.0)
    return areas


class FileFinder:
    """The image file that a name in an annotation file means: its path, its name, or its stem where only one has it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._by_name: dict[str, set[Path]] | None = None

    def __call__(self, name: str) -> Path | None:
        """The file, None where there is none; DataError where it may be two."""
        direct = self.folder / name
        if direct.is_file():
            return direct
        if self._by_name is None:
            self._by_name = defaultdict(set)
            for path in list_images(self.folder):
                relative = path.relative_to(self.folder)
                for key in (relative.with_suffix("").as_posix(), path.name, path.stem):
                    self._by_name[key].add(path)
        plain = Path(name.replace("\\", "/"))
        for key in (plain.with_suffix("").as_posix(), plain.as_posix(), plain.name, plain.stem):
            paths = self._by_name.get(key, set())
            if len(paths) > 1:
                raise DataError(f"The annotations name {name}, which may be {sorted(paths)[0]} or {sorted(paths)[1]}.")
            if paths:
                return next(iter(paths))
        return None


def _split_of_path(path: Path, folder: Path) -> str | None:
    parts = path.relative_to(folder).parts[:-1] if path.is_relative_to(folder) else ()
    return next((split for part in parts if (split := split_of(part))), None)
