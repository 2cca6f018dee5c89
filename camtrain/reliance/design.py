"""The design of a round: which image meets whose background."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from camtrain.reliance.records import Design

__all__ = ["choose_donors", "restrict"]


def choose_donors(
    labels: Int[Tensor, " N"],
    classes: Sequence[int],
    *,
    lenders: Int[Tensor, " M"] | None = None,
    arms: int = 8,
    generator: torch.Generator,
) -> Design:
    """One donor of its own class and one of each of up to ``arms - 1`` other classes for every image.

    ``lenders`` are the labels of the images that lend; without them the images lend to each other, never to
    themselves. Of more than ``arms`` classes each meets the ones at the same random distances in ``classes``, so that
    all lend and borrow equally often. Within a pair of classes every donor serves at most once (images that find none
    left get -1). The same generator state gives the same design.

    >>> design = choose_donors(torch.tensor([0, 0, 1, 1]), (0, 1), generator=torch.Generator().manual_seed(0))
    >>> design.classes.tolist()
    [[0, 1], [0, 1], [1, 0], [1, 0]]
    >>> design.donors[:, 0].tolist()
    [1, 0, 3, 2]
    """
    order = sorted(classes)
    shifts = torch.randperm(len(order) - 1, generator=generator)[: arms - 1].sort().values + 1
    distances = [0, *shifts.tolist()]
    donors = torch.full((len(labels), len(distances)), -1)
    met = torch.full((len(labels), len(distances)), -1)
    for place, c in enumerate(order):
        own = _shuffled(labels == c, generator)
        for arm, distance in enumerate(distances):
            other = order[(place + distance) % len(order)]
            if lenders is None and other == c:
                lending = own.roll(1)[: len(own) if len(own) > 1 else 0]
            else:
                lending = _shuffled((labels if lenders is None else lenders) == other, generator)
            # the same images come first in every arm, so that few donors leave whole rows
            pairs = min(len(own), len(lending))
            donors[own[:pairs], arm] = lending[:pairs]
            met[own, arm] = other
    return Design(labels, met, donors)


def restrict(design: Design, arms: int, most: int | None = None) -> Design:
    """The first ``arms`` arms of a design; with donors for the first ``most`` images of a class alone.

    >>> design = Design(torch.tensor([0]), torch.tensor([[0, 1, 2]]), torch.tensor([[-1, 4, 7]]))
    >>> restrict(design, 2).classes.tolist()
    [[0, 1]]
    """
    donors = design.donors[:, :arms]
    if most is not None:
        same = design.labels.unsqueeze(1) == design.labels
        earlier = same.tril(-1).sum(dim=1)  # images of its class before it
        donors = torch.where((earlier < most).unsqueeze(1), donors, -1)
    return replace(design, classes=design.classes[:, :arms], donors=donors)


def _shuffled(chosen: Bool[Tensor, " N"], generator: torch.Generator) -> Int[Tensor, " n"]:
    indices = chosen.nonzero().flatten()
    return indices[torch.randperm(len(indices), generator=generator)]
