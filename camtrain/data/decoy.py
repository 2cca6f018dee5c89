"""Decoy MNIST and Decoy Fashion-MNIST: a patch in a corner whose gray value tells the label, in training only.

After Ross, Hughes and Doshi-Velez, "Right for the Right Reasons" (2017).
"""

from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torchvision import datasets

from camtrain.data.memory import InMemoryDataset, Pictures
from camtrain.data.subsets import SPLITS, annotated_subset, held_out, permutation
from camtrain.data.transforms import JointTransform
from camtrain.errors import DataError

PATCH = 4


class DecoyDigits(InMemoryDataset):
    """Base of `DecoyMNIST` and `DecoyFashionMNIST`.

    Every image gets a 4x4 patch in a random corner. Its gray value is `255 - 25 * label` in training and
    validation, and `255 - 25 * (a random label)` in the test set: a model that reads the patch fails there.

    Items are `{"image", "label", "mask", "group", "id"}`: image float `(1, 28, 28)` in [0, 1] unless a transform
    says otherwise. The mask is 1 everywhere except on the patch: evidence may lie anywhere but there; without decoys
    it is 1 everywhere. Group 0 holds the images whose patch tells the true label, group 1 all others.

    Args:
        root: the folder that holds `MNIST/raw` or `FashionMNIST/raw`, as torchvision expects it.
        split: "train", "val" (a share of the training files, decoys as in training) or "test".
        decoy: False leaves the images as they are.
        download: fetch the files if they are missing.
        seed: of corners, random labels and subsets.
        size: number of images, a random part of the split; None for all.
        val_fraction: share of the training files that form "val".
        transform: joint `(image, mask) -> (image, mask)`, see `camtrain.data.transforms`.
        mask_fraction: share of images that keep their mask; the masks of the others are all -1.

    Raises:
        DataError: when files are missing or cannot be read, naming the folder.
    """

    source: type[datasets.MNIST]
    group_names = ("matching decoy", "no matching decoy")

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        decoy: bool = True,
        download: bool = False,
        seed: int = 0,
        size: int | None = None,
        val_fraction: float = 0.1,
        transform: JointTransform | None = None,
        mask_fraction: float = 1.0,
    ) -> None:
        if split not in SPLITS:
            raise DataError(f"split is one of {', '.join(SPLITS)}; got {split!r}.")
        images, labels = read_digits(self.source, root, train=split != "test", download=download)
        if split != "test":
            chosen = held_out(len(labels), val_fraction, seed)[SPLITS.index(split)]
            images, labels = images[chosen], labels[chosen]
        if size is not None:
            chosen = first_of_shuffled(len(labels), size, seed)
            images, labels = images[chosen], labels[chosen]
        count = len(labels)
        generator = torch.Generator().manual_seed(3 * seed + SPLITS.index(split))
        self.corners = torch.randint(4, (count,), generator=generator)
        random_labels = torch.randint(10, (count,), generator=generator)
        self.shown = random_labels if split == "test" else labels
        self.originals, self.decoy = images, decoy
        groups = 1 - ((self.shown == labels) & decoy).long()
        super().__init__(split, labels, groups, annotated_subset(count, mask_fraction, seed), transform)

    @cached_property
    def pictures(self) -> Pictures:
        """All images with their decoys, and all masks."""
        if not self.decoy:
            return Pictures(self.originals[:, None], torch.ones_like(self.originals))
        images, masks = plant_decoys(self.originals, self.shown, self.corners)
        return Pictures(images[:, None], masks)


class DecoyMNIST(DecoyDigits):
    """MNIST with a decoy patch in every image; see `DecoyDigits` for the arguments."""

    source = datasets.MNIST
    class_names = tuple(map(str, range(10)))


class DecoyFashionMNIST(DecoyDigits):
    """Fashion-MNIST with a decoy patch in every image; see `DecoyDigits` for the arguments."""

    source = datasets.FashionMNIST
    class_names = tuple(datasets.FashionMNIST.classes)


def plant_decoys(
    images: UInt8[Tensor, " N H W"], labels: Int[Tensor, " N"], corners: Int[Tensor, " N"]
) -> tuple[UInt8[Tensor, " N H W"], UInt8[Tensor, " N H W"]]:
    """Draw a patch of gray value `255 - 25 * label` on copies of the images.

    Args:
        images: gray images.
        labels: the label that each patch tells, 0 to 9.
        corners: 0 upper left, 1 upper right, 2 lower left, 3 lower right.

    Returns:
        The images, and masks that are 1 except on the patch.

    >>> images, masks = plant_decoys(torch.zeros(1, 6, 6, dtype=torch.uint8), torch.tensor([3]), torch.tensor([1]))
    >>> images[0, 0].tolist()
    [0, 0, 180, 180, 180, 180]
    """
    rows, columns = (torch.arange(side) for side in images.shape[1:])
    upper, left = rows < PATCH, columns < PATCH
    lower, right = upper.flip(0), left.flip(0)
    in_rows = torch.where((corners < 2)[:, None], upper, lower)
    in_columns = torch.where((corners % 2 == 0)[:, None], left, right)
    patch = in_rows[:, :, None] & in_columns[:, None, :]
    values = (255 - 25 * labels).to(torch.uint8)[:, None, None]
    return torch.where(patch, values, images), (~patch).to(torch.uint8)


def read_digits(source: type[datasets.MNIST], root: str | Path, train: bool, download: bool) -> tuple[Tensor, Tensor]:
    """Images uint8 `(N, 28, 28)` and labels of a torchvision dataset in MNIST's format.

    Raises:
        DataError: when the files are missing or cannot be read.
    """
    folder = Path(root) / source.__name__ / "raw"
    try:
        dataset = source(str(root), train=train, download=download)
    except RuntimeError as error:
        if "not found" not in str(error):
            raise DataError(f"Cannot get the files of {source.__name__} into {folder}: {error}") from error
        raise DataError(
            f"The files of {source.__name__} are not in {folder}. Set root to the folder that holds "
            f"{source.__name__}/raw, or download=True."
        ) from error
    except (ValueError, TypeError, AssertionError, EOFError, OSError, IndexError) as error:
        raise DataError(
            f"A file of {source.__name__} in {folder} cannot be read ({error}). Delete it and set download=True."
        ) from error
    return dataset.data, dataset.targets


def first_of_shuffled(count: int, size: int, seed: int) -> Int[Tensor, " M"]:
    """`size` indices out of `count`, chosen at random, in ascending order.

    Raises:
        DataError: when there are not so many.
    """
    if not 1 <= size <= count:
        raise DataError(f"size is at least 1 and at most the {count} images of the split; got {size}.")
    return permutation(count, seed)[:size].sort().values
