"""Images for a command: a folder by classes, or a heap of files, with masks or without."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.utils.data import Dataset

from camtrain.data.files import ImageRule, Sample, about_volumes, list_images, read_image, require_folder
from camtrain.data.folders import MaskedImageFolder, SampleDataset
from camtrain.data.layouts import MaskFinder
from camtrain.data.masks import mask_rule
from camtrain.data.tasked import MarkedImages, ValuedImages, open_marked
from camtrain.data.transforms import JointTransform, transform_pair
from camtrain.errors import ConfigurationError, DataError

NO_LABEL = -1


class Unlabeled(Dataset[dict[str, Any]]):
    """Image files without labels: items are `{"image", "id"}`, and `"mask"` where some have one."""

    def __init__(self, dataset: SampleDataset) -> None:
        self.dataset = dataset
        self.masked = any(sample.mask is not None for sample in dataset.samples)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.dataset[index]
        return {name: item[name] for name in ("image", "id", *["mask"] * self.masked)}


class Relabeled(Dataset[dict[str, Any]]):
    """A dataset whose labels are the model's: the index of each class's name among the model's names."""

    def __init__(self, dataset: MaskedImageFolder, names: Sequence[str] | None) -> None:
        self.dataset = dataset
        self.class_names = list(names) if names is not None else dataset.class_names
        if doubled := [name for name in dataset.class_names if self.class_names.count(name) > 1]:
            raise ConfigurationError(
                f"The model has several classes called {doubled[0]!r}, and which the folder's is cannot be known: tell "
                "them apart in a file of names, with --classes."
            )
        if missing := sorted(set(dataset.class_names) - set(self.class_names)):
            raise ConfigurationError(
                f"The classes {missing[:5]} of the folder are none of the model's, which are {self.class_names[:5]}: "
                "name these, in order, with --classes."
            )
        self.labels = [self.class_names.index(name) for name in dataset.class_names]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.dataset[index]
        return {**item, "label": self.labels[item["label"]]}

    @property
    def masked(self) -> bool:
        """Does any image have a mask."""
        return any(sample.mask is not None or sample.regions for sample in self.dataset.samples)


def read_transformed(path: Path, transform: JointTransform) -> Tensor:
    """An image as the model takes it, float `(3, H, W)`."""
    image = read_image(path)
    return transform_pair(transform, image, torch.full(image.shape[1:], -1.0))[0]


def data_settings(folder: Path) -> dict[str, Any]:
    """The arguments of the data in the configuration of a run with this folder of records; none without one."""
    file = folder / "config.yaml"
    content = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return dict(((content or {}).get("data") or {}).get("init_args") or {})


def open_folder(
    root: Path, transform: JointTransform, names: Sequence[str] | None, **layout: Any
) -> Relabeled | Unlabeled:
    """The images of a folder as a model takes them: by class, or without labels.

    Raises DataError for a folder that does not exist or holds no images, or masks of which none is an image's.
    """
    dataset = open_dataset(root, **layout)
    dataset.transform = transform
    return Relabeled(dataset, names) if isinstance(dataset, MaskedImageFolder) else Unlabeled(dataset)


def open_task(
    root: Path, transform: JointTransform, names: Sequence[str] | None, task: str, **layout: Any
) -> Relabeled | Unlabeled | ValuedImages | MarkedImages:
    """The images of a folder with what is true of them in a task.

    Raises ConfigurationError for a task of which files are not read, and what `open_folder` and `open_marked` raise.
    """
    if task in ("auto", "single_label", "binary"):
        return open_folder(root, transform, names, **layout)
    if not root.is_dir():
        raise DataError(f"There is no folder {root}: name one with images.")
    if task in ("multi_label", "detection"):
        return open_marked(root, transform, names, boxes=task == "detection", **layout)
    if task != "regression":
        raise ConfigurationError(
            f"An audit reads files of one label an image, several labels, values and boxes, not of --task {task}: put "
            "ExplanationMonitor into a Trainer and call trainer.validate, which take every task."
        )
    dataset = open_dataset(root, **layout)
    if not isinstance(dataset, MaskedImageFolder):
        raise DataError(f"{root} says no values: name a CSV file with --index, or sort images in folders of numbers.")
    dataset.transform = transform
    return ValuedImages(dataset)


def open_dataset(root: Path, *, verify: str = "decode", **layout: Any) -> SampleDataset:
    """The images of a folder: by class where it has class folders, an index or annotations, else a heap.

    `layout` is what `MaskedImageFolder` takes beside the root.
    """
    if not root.is_dir():
        raise DataError(f"There is no folder {root}: name one with images in class folders, or just images.")
    folder = require_folder(root / layout.get("images", ""), "images")
    masks, suffix = layout.get("masks"), layout.get("mask_suffix", "")
    mask_folder = None if masks is None else require_folder(root / masks, "masks")
    inside = {path.resolve() for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")}
    by_class = bool(inside - ({mask_folder.resolve()} if mask_folder else set()))
    if by_class or layout.get("index") or layout.get("annotations"):
        return MaskedImageFolder(root, verify=verify, **layout)
    find_mask = MaskFinder(folder if mask_folder is None and suffix else mask_folder, suffix)
    files = [path for path in list_images(folder) if not find_mask.is_mask(path) and mask_folder not in path.parents]
    if not files:
        raise DataError(
            f"{folder} holds no images: name a folder with some, or with class folders."
            f"{about_volumes(sorted(folder.rglob('*')))}"
        )
    ids = [path.relative_to(folder) for path in files]
    samples = [
        Sample(path, NO_LABEL, next(iter(paths), None), id=relative.as_posix(), more_masks=paths[1:])
        for path, relative in zip(files, ids, strict=True)
        for paths in [find_mask(relative)]
    ]
    words = ("mask_values", "ignore_value", "mask_channel", "mask_from", "soft_masks", "upright")
    upright = layout.get("upright", True)
    heap = SampleDataset(
        samples,
        ["image"],
        image_rule=ImageRule(value_range=layout.get("image_range"), upright=upright),
        mask_rule=mask_rule(**{name: layout[name] for name in words if name in layout}),
    )
    heap.check(verify, skip_corrupt=False)
    if find_mask.folder is not None and not any(sample.mask is not None for sample in heap.samples):
        raise DataError(
            f"No file in {find_mask.folder} is the mask of an image: looked for {find_mask.name_for(ids[0])}, of "
            f"{ids[0]}. Save masks as PNG files of that name, or give neither --masks nor --mask-suffix."
        )
    return heap
