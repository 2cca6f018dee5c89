"""Your own images for tasks of several labels, of values and of boxes: what is true of each file, and where it lies."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from camtrain.data.annotated import FileFinder
from camtrain.data.files import ImageRule, announce, read_interleaved, require_folder
from camtrain.data.folders import SampleDataset
from camtrain.data.formats import read_annotations
from camtrain.data.layouts import MaskFinder, check_names, column_of, existing_file, read_class_folders, read_rows
from camtrain.data.masks import MaskRule, mask_rule, read_mask_array
from camtrain.data.shapes import Box, Shape, drawn
from camtrain.data.transforms import JointTransform, transform_pair
from camtrain.errors import ConfigurationError, DataError

_YES_OR_NO = {"1": 1.0, "1.0": 1.0, "true": 1.0, "0": 0.0, "0.0": 0.0, "false": 0.0, "-1": -1.0, "-1.0": -1.0, "": -1.0}
_ALL = ""  # in place of a label: the mask is that of all of them


@dataclass(frozen=True, eq=False)
class Facts:
    """What is known of an image file.

    Attributes:
        image: the file.
        id: its name in the dataset.
        labels: by name 1 where it is there and 0 where it is not; of others it is not known.
        shapes: by category, where annotations have some.
        masks: mask files by label; of all labels under "".
    """

    image: Path
    id: str
    labels: Mapping[str, float] = field(default_factory=dict)
    shapes: Sequence[tuple[str, Shape]] = ()
    masks: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)


class ValuedImages(Dataset[dict[str, Any]]):
    """Images whose class names are numbers, as those of an index with a column of values: `"label"` is the value."""

    def __init__(self, dataset: SampleDataset) -> None:
        self.dataset = dataset
        self.values = [_number(name) for name in dataset.class_names]
        self.masked = any(sample.mask is not None or sample.regions for sample in dataset.samples)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.dataset[index]
        return {**item, "label": torch.tensor(self.values[item["label"]], dtype=torch.float32)}


class MarkedImages(Dataset[dict[str, Any]]):
    """Images with several labels, or with boxes, each.

    Items are `{"image", "label", "mask", "id"}`. With labels: `"label"` `(C,)` of 1, 0 and -1 where it is not known,
    `"mask"` `(C, H, W)` where labels have masks of their own, else `(H, W)`. With boxes: `"label"` is `{"boxes",
    "labels"}` in pixels of the image as the transform leaves it, and there is no mask: collate with
    `camtrain.data.collate.collated`.

    Args:
        facts: what is known of each file.
        class_names: of labels the model's, in its order; of boxes that of label 0, of label 1 and so on.
        transform: joint `(image, mask) -> (image, mask)`, which resizes and cuts nothing off.
        boxes: whether it is boxes.
        rule: what the values of mask files mean.
        upright: turn photographs as their EXIF orientation says.
    """

    def __init__(
        self,
        facts: Sequence[Facts],
        class_names: Sequence[str],
        transform: JointTransform | None = None,
        *,
        boxes: bool = False,
        rule: MaskRule = MaskRule(),  # noqa: B008 - frozen
        upright: bool = True,
    ) -> None:
        self.facts, self.class_names, self.transform = list(facts), list(class_names), transform
        self.boxes, self.rule, self.image_rule = boxes, rule, ImageRule(upright=upright)
        self.by_label = any(each.shapes or set(each.masks) - {_ALL} for each in self.facts)
        self.masked = not boxes and (self.by_label or any(each.masks for each in self.facts))
        stray = {name for each in self.facts for name in [*each.labels, *(kind for kind, _ in each.shapes)]}
        if stray := stray - set(self.class_names):
            raise ConfigurationError(
                f"The labels {sorted(stray)[:5]} of the files are none of the model's, which are "
                f"{self.class_names[:5]}: name these, in order, with --classes."
            )

    def __len__(self) -> int:
        return len(self.facts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        facts = self.facts[index]
        image = read_interleaved(facts.image, self.image_rule)
        size = (int(image.shape[1]), int(image.shape[2]))
        if self.boxes:
            shown, _ = transform_pair(self.transform, image, torch.full(size, -1.0))
            return {"image": shown, "label": self._boxed(facts, size, shown.shape[1:]), "id": facts.id}
        masks = {name: mask for name in self._places(facts) if (mask := self._mask(facts, name, size)) is not None}
        stacked = torch.stack(list(masks.values())) if masks else torch.full((1, *size), -1.0)
        shown, moved = transform_pair(self.transform, image, stacked)
        whole = torch.full((len(self.class_names) if self.by_label else 1, *moved.shape[1:]), -1.0)
        for name, mask in zip(masks, moved, strict=False):
            whole[self.class_names.index(name) if self.by_label else 0] = mask
        labels = torch.tensor([facts.labels.get(name, -1.0) for name in self.class_names])
        return {"image": shown, "label": labels, "mask": whole if self.by_label else whole[0], "id": facts.id}

    def _places(self, facts: Facts) -> list[str]:
        """What may have a mask: the labels that are there, or all of them together."""
        return [name for name, value in facts.labels.items() if value == 1] if self.by_label else [_ALL]

    def _mask(self, facts: Facts, name: str, size: tuple[int, int]) -> Tensor | None:
        if of_label := [shape for kind, shape in facts.shapes if kind == name]:
            mask = drawn(of_label, size)[0]
            return None if mask is None else torch.from_numpy(mask)
        parts = [torch.from_numpy(read_mask_array(path, self.rule, name)[0]) for path in facts.masks.get(name, ())]
        if any(part.shape != torch.Size(size) for part in parts):
            raise DataError(
                f"Masks have the size of their images: {facts.image} has {size}, {facts.masks[name][0]} "
                f"{tuple(parts[0].shape)}. Save them as large."
            )
        return torch.stack(parts).amax(dim=0) if parts else None

    def _boxed(self, facts: Facts, size: tuple[int, int], shown: torch.Size) -> dict[str, Tensor]:
        rows = [(corners, self.class_names.index(kind)) for kind, s in facts.shapes if (corners := corners_of(s, size))]
        scale = torch.tensor([shown[1] / size[1], shown[0] / size[0]] * 2)
        boxes = torch.tensor([corners for corners, _ in rows], dtype=torch.float32).view(-1, 4) * scale
        return {"boxes": boxes, "labels": torch.tensor([label for _, label in rows], dtype=torch.long)}


def open_marked(
    root: Path, transform: JointTransform | None, names: Sequence[str] | None, *, boxes: bool, **layout: Any
) -> MarkedImages:
    """The images of a folder with several labels or boxes each.

    Labels come from annotations (those of its shapes), from an index (a column of 0 and 1 for each label, or one column
    that lists those that are there, with |, ; or , between), or from class folders, where the same file in several
    folders has several labels. Boxes come from annotations.

    Args:
        root: the folder.
        transform: joint, as `MarkedImages` takes it.
        names: the model's classes in their order; None takes those of the files, which boxes never do.
        boxes: whether boxes are meant.
        layout: `images`, `masks`, `mask_suffix`, `index`, `annotations`, `image_column`, `label_column` and what the
            values of masks mean, as `MaskedImageFolder` takes them; masks may lie in a folder for each label.

    Raises DataError for what is missing or cannot be read, ConfigurationError where it is not known which class of the
    model a label is.
    """
    folder = require_folder(root / layout.get("images", ""), "images")
    annotations, index = layout.get("annotations"), layout.get("index")
    if boxes and names is None:
        raise ConfigurationError(
            "Which number a detector gives to a class is not known: name its classes with --classes FILE, a name a "
            "line, the first for label 0 (__background__, of torchvision's detectors)."
        )
    if annotations is not None:
        facts, own = _of_annotations(annotations, root, folder)
    elif boxes:
        raise ConfigurationError("Boxes are read from annotations: name them with --annotations FILE.")
    elif index is not None:
        columns = layout.get("image_column"), layout.get("label_column")
        facts, own = _of_index(root / index, folder, *columns, names)
    else:
        facts, own = _of_folders(folder)
    check_names(own, str(root))
    if annotations is None:
        masks = layout.get("masks")
        place = None if masks is None else require_folder(root / masks, "masks")
        facts = _with_masks(facts, own, place, layout.get("mask_suffix", ""), folder)
    words = ("mask_values", "ignore_value", "mask_channel", "mask_from", "soft_masks")
    upright = layout.get("upright", True)
    rule = mask_rule(**{name: layout[name] for name in words if name in layout}, upright=upright)
    if boxes and names is not None:
        announce("labels of boxes: " + ", ".join(f"{number} is {name}" for number, name in list(enumerate(names))[:6]))
    return MarkedImages(facts, own if names is None else names, transform, boxes=boxes, rule=rule, upright=upright)


def corners_of(shape: Shape, size: tuple[int, int]) -> tuple[float, float, float, float] | None:
    """The box `(x1, y1, x2, y2)` in pixels around a shape; None where it covers nothing.

    >>> corners_of(Box(1.0, 0.0, 3.0, 1.0), (2, 4))
    (1.0, 0.0, 3.0, 1.0)
    """
    if isinstance(shape, Box) and not shape.angle:
        across, down = (size[1], size[0]) if shape.shares else (1, 1)
        corners = shape.left * across, shape.top * down, shape.right * across, shape.bottom * down
        return corners if corners[0] < corners[2] and corners[1] < corners[3] else None
    rows, columns = np.nonzero(shape.draw(size))
    if not len(rows):
        return None
    return float(columns.min()), float(rows.min()), float(columns.max()) + 1, float(rows.max()) + 1


def _of_annotations(sources: Any, root: Path, folder: Path) -> tuple[list[Facts], list[str]]:
    annotations = read_annotations(sources, root)
    find = FileFinder(annotations.folder or folder)
    facts, names = [], list(annotations.categories)
    for image in annotations.images:
        path = find(image.file)
        if path is None:
            raise DataError(f"The annotations name {image.file}, which is not in {find.folder}. Correct the folder.")
        present = {region.category for region in image.regions} | ({image.label} if image.label else set())
        if "" in present:
            raise DataError(f"{annotations.kind}: {image.file} has shapes without a category, which are no label.")
        shapes = [(region.category, region.shape) for region in image.regions if region.shape is not None]
        facts.append(Facts(path, image.id or image.file, {n: float(n in present) for n in names}, shapes))
    if not facts:
        raise DataError(f"The annotations, {annotations.kind}, are of no image. Name others.")
    announce(f"{annotations.kind} annotations: {len(facts)} images, {sum(len(each.shapes) for each in facts)} shapes")
    for note in annotations.notes:
        announce(note)
    return facts, names


def _of_index(
    index: Path, folder: Path, image_column: str | None, label_column: str | None, model: Sequence[str] | None
) -> tuple[list[Facts], list[str]]:
    rows, header = read_rows(index)
    place = column_of("image", header, image_column, index) or ""
    listed = column_of("label", header, label_column, index, needed=label_column is not None)
    if listed is not None:
        names, labels = _listed(rows, listed)
    else:
        names, labels = _hot(rows, [name for name in header if name != place and name in (model or header)], index)
    facts = [
        Facts(existing_file(row[place].strip(), [folder, index.parent]), row[place].strip(), each)
        for row, each in zip(rows, labels, strict=True)
    ]
    if missing := [each.image for each in facts if not each.image.is_file()]:
        raise DataError(f"{index} names {len(missing)} images that do not exist, first {missing[0]}. Correct it.")
    if not facts:
        raise DataError(f"{index} has no rows. Add some.")
    return facts, names


def _listed(rows: Sequence[Mapping[str, str]], column: str) -> tuple[list[str], list[dict[str, float]]]:
    """Labels that a cell lists; those that it leaves out are not there."""
    cells = [{part.strip() for part in re.split(r"[|;,]", row[column]) if part.strip()} for row in rows]
    names = sorted(set().union(*cells))
    return names, [{name: float(name in cell) for name in names} for cell in cells]


def _hot(
    rows: Sequence[Mapping[str, str]], columns: Sequence[str], index: Path
) -> tuple[list[str], list[dict[str, float]]]:
    """Labels that have a column each; -1 and empty cells are not known."""
    cells = {name: [row[name].strip().lower() for row in rows] for name in columns}
    names = [name for name in columns if set(cells[name]) <= set(_YES_OR_NO) and set(cells[name]) != {""}]
    if not names:
        raise DataError(
            f"{index} has the columns {list(columns)}: several labels have a column of 0 and 1 each, or one column "
            "'labels' that lists those that are there, with | between."
        )
    values = {name: [_YES_OR_NO[cell] for cell in cells[name]] for name in names}
    every = {value for each in values.values() for value in each}
    if -1 in every and 0 not in every:
        raise DataError(
            f"{index} has labels of 1 and -1: whether -1 is absent or not known is not. Write 0 for absent."
        )
    if others := [name for name in columns if name not in names]:
        announce(f"{index.name}: labels are {', '.join(names[:6])}; left out: {', '.join(others)}")
    return names, [{name: v for name in names if (v := values[name][row]) >= 0} for row in range(len(rows))]


def _of_folders(folder: Path) -> tuple[list[Facts], list[str]]:
    """A file of one name and content that lies in several class folders is one image with several labels."""
    layout = read_class_folders(folder, MaskFinder(None), exclude=())
    files: dict[tuple[str, bytes], list[tuple[str, Path]]] = defaultdict(list)
    for sample in layout.samples:
        content = hashlib.sha256(sample.image.read_bytes()).digest()
        files[sample.image.name, content].append((layout.class_names[sample.label], sample.image))
    facts = []
    for of_one in files.values():
        there = {name for name, _ in of_one}
        path = of_one[0][1]
        labels = {name: float(name in there) for name in layout.class_names}
        facts.append(Facts(path, path.relative_to(folder).as_posix(), labels))
    return facts, layout.class_names


def _with_masks(
    facts: Sequence[Facts], names: Sequence[str], masks: Path | None, suffix: str, folder: Path
) -> list[Facts]:
    """With the mask files of each label, where the masks lie in folders of labels, or of all."""
    if masks is None and not suffix:
        return list(facts)
    place = masks or folder
    of_labels = [name for name in names if masks is not None and (masks / name).is_dir()]
    finders = {name: MaskFinder(place / name, suffix) for name in of_labels} or {_ALL: MaskFinder(place, suffix)}
    masked = []
    for each in facts:
        relative = each.image.relative_to(folder) if each.image.is_relative_to(folder) else Path(each.image.name)
        files = {name: find(relative) for name, find in finders.items()}
        own = {name: paths for name, paths in files.items() if paths}
        masked.append(Facts(each.image, each.id, each.labels, each.shapes, own))
    if not any(each.masks for each in masked):
        name = next(iter(finders.values())).name_for(Path(facts[0].image.name))
        raise DataError(
            f"No file in {place} is the mask of an image: looked for {name}, of {facts[0].id}. Save masks as PNG files "
            "of that name, in a folder for each label or for all."
        )
    return masked


def _number(name: str) -> float:
    try:
        value = float(name)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise DataError(f"A regression's labels are numbers; got {name!r}: name their column with --label_column.")
    return value
