"""Images for a command: a folder by classes, with masks or without, or a heap of files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from camtrain.data.files import list_images, read_image
from camtrain.data.folders import MaskedImageFolder
from camtrain.data.transforms import JointTransform, transform_pair
from camtrain.errors import ConfigurationError, DataError


class Unlabeled(Dataset[dict[str, Any]]):
    """Image files without labels: items are `{"image", "id"}`."""

    def __init__(self, files: Sequence[Path], transform: JointTransform) -> None:
        self.files = list(files)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": read_transformed(self.files[index], self.transform), "id": str(self.files[index])}


class Relabeled(Dataset[dict[str, Any]]):
    """A dataset whose labels are the model's: the index of each class's name among the model's names."""

    def __init__(self, dataset: MaskedImageFolder, names: Sequence[str] | None) -> None:
        self.dataset = dataset
        self.class_names = list(names) if names is not None else dataset.class_names
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
        return any(sample.mask is not None for sample in self.dataset.samples)


def read_transformed(path: Path, transform: JointTransform) -> Tensor:
    """An image as the model takes it, float `(3, H, W)`."""
    image = read_image(path)
    return transform_pair(transform, image, torch.full(image.shape[1:], -1.0))[0]


def open_folder(
    root: Path, transform: JointTransform, names: Sequence[str] | None, **layout: Any
) -> Relabeled | Unlabeled:
    """The images of a folder: by class where it has class folders or an index, without labels otherwise.

    Raises DataError for a folder that does not exist or holds no images.
    """
    if not root.is_dir():
        raise DataError(f"There is no folder {root}: name one with images in class folders, or just images.")
    lies_flat = not any(path.is_dir() and not path.name.startswith(".") for path in root.iterdir())
    if not lies_flat or layout.get("index"):
        return Relabeled(MaskedImageFolder(root, transform=transform, **layout), names)
    if asked := [name for name in ("images", "masks", "mask_suffix") if layout.get(name)]:
        raise DataError(f"{root} has no class folders, which {asked[0]}={layout[asked[0]]!r} needs: name their parent.")
    files = list_images(root)
    if not files:
        raise DataError(f"{root} holds no images: name a folder with some, or with class folders.")
    return Unlabeled(files, transform)
