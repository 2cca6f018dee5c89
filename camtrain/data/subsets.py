"""Which images keep their annotation, and how a training set is divided: the same choice for the same seed."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from camtrain.errors import DataError

SPLITS = ("train", "val", "test")


def annotated_subset(count: int, fraction: float, seed: int = 0) -> Bool[Tensor, " N"]:
    """Choose the images that keep their masks.

    Args:
        count: number of images.
        fraction: share of them, from 0 to 1; the number is rounded, and at least one for a positive fraction.
        seed: of the choice; a smaller fraction chooses a subset of what a larger one chooses.

    >>> annotated_subset(8, 0.25).sum()
    tensor(2)
    """
    check_share("mask_fraction", fraction)
    keep = max(round(count * fraction), 1 if fraction > 0 else 0)
    chosen = torch.zeros(count, dtype=torch.bool)
    chosen[permutation(count, seed)[:keep]] = True
    return chosen


def held_out(count: int, fraction: float, seed: int = 0) -> tuple[Int[Tensor, " M"], Int[Tensor, " V"]]:
    """Indices of a training part and a validation part, in ascending order.

    Args:
        count: number of images.
        fraction: share of the validation part, from 0 to 1.
        seed: of the choice.

    >>> [len(part) for part in held_out(10, 0.2)]
    [8, 2]
    """
    check_share("val_fraction", fraction)
    order = permutation(count, seed)
    cut = round(count * fraction)
    return order[cut:].sort().values, order[:cut].sort().values


def permutation(count: int, seed: int) -> Int[Tensor, " N"]:
    """A random order of `range(count)` that leaves torch's global generator alone."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def check_share(name: str, value: float) -> None:
    """Refuse a share outside 0..1."""
    if not 0 <= value <= 1:
        raise DataError(f"{name} is a share from 0 to 1; got {value}.")


def stratified(labels: Tensor, shares: Sequence[float], seed: int = 0) -> list[list[int]]:
    """Divide indices into parts in which every class has about its share.

    Args:
        labels: `(N,)` class indices.
        shares: of the second, third, ... part, from 0 to 1; the first part gets the rest.
        seed: of the choice.

    >>> [len(part) for part in stratified(torch.tensor([0] * 8 + [1] * 4), [0.25, 0.25])]
    [6, 3, 3]
    """
    if any(share < 0 for share in shares) or sum(shares) >= 1:
        raise DataError(f"The shares held out for validation and test sum to less than 1; got {list(shares)}.")
    parts: list[list[int]] = [[] for _ in range(len(shares) + 1)]
    for label in torch.unique(labels):
        members = (labels == label).nonzero().flatten()
        members = members[permutation(len(members), seed)].tolist()
        start = 0
        for part, share in zip(parts[1:], shares, strict=True):
            stop = start + round(len(members) * share)
            part += members[start:stop]
            start = stop
        parts[0] += members[start:]
    return [sorted(part) for part in parts]


def divide(
    labels: Tensor, splits: Sequence[str | None], val_fraction: float, test_fraction: float, seed: int = 0
) -> dict[str, list[int]]:
    """Indices of "train", "val" and "test".

    Args:
        labels: `(N,)` class indices.
        splits: what the files say of each image; where they say nothing, a random division within each class.
        val_fraction: share held out for validation, where the files name no validation images.
        test_fraction: share held out for the test, where the files name no splits at all.
        seed: of the division.

    Returns:
        The three parts; without test images the test part is the validation part.

    Raises:
        DataError: when training or validation would be empty.

    >>> divide(torch.zeros(4), ["train", "train", "val", "test"], 0.5, 0.0)
    {'train': [0, 1], 'val': [2], 'test': [3]}
    """
    train, val, test = ([i for i, split in enumerate(splits) if split == name] for name in SPLITS)
    if not (train or val or test):
        train, val, test = stratified(labels, [val_fraction, test_fraction], seed)
    elif not val:
        kept, held = stratified(labels[train], [val_fraction], seed)
        train, val = [train[i] for i in kept], [train[i] for i in held]
    if not train or not val:
        raise DataError(
            f"Training and validation need images; {len(labels)} images with val_fraction={val_fraction} and "
            f"test_fraction={test_fraction} give {len(train)} and {len(val)}. Change the fractions or the splits."
        )
    return {"train": train, "val": val, "test": test or val}
