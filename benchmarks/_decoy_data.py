"""Decoy data as whole tensors in memory, annotated in several ways, and shuffled batches of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from camtrain.data.decoy import DecoyDigits
from camtrain.data.modules import DecoyDataModule
from camtrain.data.subsets import permutation
from camtrain.swaps.compositing import dilate

Dataset = Literal["fashion_mnist", "mnist"]
Annotation = Callable[[DecoyDigits], Tensor]
INK = 1  # a gray value above it is part of the garment or digit, as in the code of Friedrich et al.


@dataclass(frozen=True)
class Split:
    """Images uint8 `(N, 1, H, W)`, labels, masks int8 `(N, H, W)`, and how images are normalized.

    `allowed` is 0 on the patch and 1 elsewhere, whatever the annotation in `masks` says.
    """

    images: Tensor
    labels: Tensor
    masks: Tensor
    allowed: Tensor
    mean: float
    std: float

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: str) -> "Split":
        """The same on another device."""
        names = ("images", "labels", "masks", "allowed")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def batch(self, index: Tensor) -> dict[str, Tensor]:
        """The items at `index`, as camtrain reads them."""
        images = (self.images[index].float() / 255 - self.mean) / self.std
        return {"image": images, "label": self.labels[index], "mask": self.masks[index].float()}

    def batches(self, size: int) -> Iterator[dict[str, Tensor]]:
        """All items in order."""
        for index in torch.split(torch.arange(len(self), device=self.labels.device), size):
            yield self.batch(index)


class Batches:
    """An epoch's batches in a new random order each time, cut out of the tensors without a loader's collation."""

    def __init__(self, split: Split, size: int, seed: int) -> None:
        self.split, self.size = split, size
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return -(-len(self.split) // self.size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        order = torch.randperm(len(self.split), generator=self.generator).to(self.split.labels.device)
        return map(self.split.batch, torch.split(order, self.size))


def load(
    root: Path, dataset: Dataset, part: str, seed: int, *, annotation: Annotation, share: float = 1.0, **options: Any
) -> Split:
    """A part ("train", "val" or "test") of a data set, a class-balanced share of it annotated."""
    module = DecoyDataModule(str(root), dataset, seed=seed, **options)
    digits = module.build(part)
    masks = annotation(digits).to(torch.int8)
    masks[~balanced_subset(digits.labels, share, seed)] = -1
    return Split(digits.pictures.images, digits.labels, masks, digits.pictures.masks, module.mean[0], module.std[0])


def all_but_patch(digits: DecoyDigits) -> Tensor:
    """1 everywhere except on the patch: the exact annotation of what must not matter."""
    return digits.pictures.masks


def dilated_patch(digits: DecoyDigits) -> Tensor:
    """The patch's 4x4 pixels grown to 6x6, 1.5 times each side and 2.25 times the area, inward from the corner."""
    return 1 - dilate(1 - digits.pictures.masks.float(), 2)


def ink(digits: DecoyDigits) -> Tensor:
    """The pixels of the garment or digit, where no patch hides them: what should matter."""
    return (digits.originals > INK) & (digits.pictures.masks > 0)


def boxes(digits: DecoyDigits) -> Tensor:
    """The tight box around the garment or digit: a seventh of Fashion-MNIST's patch pixels lie inside as well."""
    drawn = digits.originals > INK
    return _between_extremes(drawn.any(dim=2))[:, :, None] & _between_extremes(drawn.any(dim=1))[:, None, :]


def _between_extremes(marked: Tensor) -> Tensor:
    from_left = marked.cumsum(dim=1) > 0
    from_right = marked.flip(1).cumsum(dim=1).flip(1) > 0
    return from_left & from_right


def balanced_subset(labels: Tensor, share: float, seed: int = 0) -> Tensor:
    """Which images are annotated: as many of every class, at least one of a share above 0; less is part of more.

    >>> balanced_subset(torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]), 0.25).view(2, 4).sum(1)
    tensor([1, 1])
    """
    order = permutation(len(labels), seed)
    classes = torch.unique(labels)
    count = max(1, round(share * len(labels) / len(classes))) if share > 0 else 0
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label in classes:
        chosen[order[labels[order] == label][:count]] = True
    return chosen | torch.tensor(share >= 1)


def swap_patches(split: Split, seed: int = 0) -> Split:
    """Each image with what another image has at the place of its patch: an intervention that needs only masks."""
    donors = split.images[permutation(len(split), seed).to(split.images.device)]
    return replace(split, images=torch.where(split.allowed[:, None] > 0, split.images, donors))
