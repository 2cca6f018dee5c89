"""Who lends whom a background."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from camtrain.reliance.records import Design

__all__ = ["choose_donors", "usable"]


def usable(masks: Float[Tensor, "B H W"], *, most: float = 0.9) -> Bool[Tensor, " B"]:
    """Which masks mark an object with a background around it: annotated, not empty, not over ``most`` of the frame.

    >>> masks = torch.stack([torch.full((2, 2), -1.0), torch.zeros(2, 2), torch.eye(2), torch.ones(2, 2)])
    >>> usable(masks).tolist()
    [False, False, True, False]
    """
    share = masks.clamp(min=0).mean(dim=(1, 2))
    return (masks.flatten(1) >= 0).any(dim=1) & (share > 0) & (share <= most)


def choose_donors(
    labels: Int[Tensor, " N"], classes: Sequence[int], *, arms: int = 8, generator: torch.Generator
) -> Design:
    """One donor of its own class and one of each of up to ``arms - 1`` other classes for every image.

    Of more than ``arms`` classes each meets the ones at the same random distances in ``classes``, so that all
    lend and borrow equally often. Within a pair of classes every donor serves at most once (images that find
    none left get -1), and no image lends to itself. The same generator state gives the same design.

    >>> design = choose_donors(torch.tensor([0, 0, 1, 1]), (0, 1), generator=torch.Generator().manual_seed(0))
    >>> design.classes.tolist()
    [[0, 1], [0, 1], [1, 0], [1, 0]]
    >>> design.donors[:, 0].tolist()
    [1, 0, 3, 2]
    """
    order = sorted(classes)
    shifts = torch.randperm(len(order) - 1, generator=generator)[: arms - 1].sort().values + 1
    distances = [0, *shifts.tolist()]
    members = [(labels == c).nonzero().flatten() for c in order]
    donors = torch.full((len(labels), len(distances)), -1)
    met = torch.full((len(labels), len(distances)), -1)
    for place, own in enumerate(members):
        for arm, distance in enumerate(distances):
            other = (place + distance) % len(order)
            met[own, arm] = order[other]
            borrowers, lenders = _pair(own, members[other], generator)
            donors[borrowers, arm] = lenders
    return Design(labels, met, donors)


def _pair(own: Tensor, others: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Borrowers and lenders, each at most once; within one class around a ring, so that nobody gets itself."""
    borrowers = own[torch.randperm(len(own), generator=generator)]
    if own is others:
        return (borrowers, borrowers.roll(1)) if len(own) > 1 else (own[:0], own[:0])
    lenders = others[torch.randperm(len(others), generator=generator)]
    pairs = min(len(borrowers), len(lenders))
    return borrowers[:pairs], lenders[:pairs]
