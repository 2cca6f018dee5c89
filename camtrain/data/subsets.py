"""Which images keep their annotation, and how a training set is divided: the same choice for the same seed."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from camtrain.errors import DataError


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
