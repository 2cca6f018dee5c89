"""The masks that a detector is given: exact, none, or sloppy ones."""

import torch
from _zoo_bases import Scenes
from torch import Tensor

from camtrain.reliance import Guesser, Pool, usable
from camtrain.swaps.compositing import dilate

MASKS = ("exact", "none", "boxes", "eroded", "dilated", "missing")
PIXELS = 2  # that masks are eroded or dilated by
MISSING = 0.2  # of the images have no annotation


def pool_with(data: Scenes, kind: str, device: str, seed: int) -> Pool:
    """The scenes as a detector that has such masks would see them."""
    if kind == "none":
        bare = Pool(data.images, data.labels, torch.full_like(data.masks, -1.0))
        return Guesser()(bare, device=device)
    masks = sloppy(data.masks, kind, seed)
    fit = usable(masks)
    return Pool(data.images[fit], data.labels[fit], masks[fit])


def sloppy(masks: Tensor, kind: str, seed: int) -> Tensor:
    """The masks `(N, H, W)` as someone in a hurry would draw them.

    >>> dot = torch.zeros(1, 3, 3)
    >>> dot[0, 0, 0] = dot[0, 1, 1] = 1
    >>> sloppy(dot, "boxes", 0).sum().item()
    4.0
    """
    if kind == "boxes":
        rows, columns = (masks.amax(dim=axis) for axis in (2, 1))
        return _between(rows).unsqueeze(2) * _between(columns).unsqueeze(1)
    if kind == "eroded":
        return 1 - dilate(1 - masks, PIXELS)
    if kind == "dilated":
        return dilate(masks, PIXELS)
    if kind == "missing":
        left_out = torch.rand(len(masks), generator=torch.Generator().manual_seed(seed)) < MISSING
        return torch.where(left_out.view(-1, 1, 1), -1.0, masks)
    return masks


def _between(marks: Tensor) -> Tensor:
    """1 from the first mark of each row to the last."""
    return marks.cummax(dim=1).values * marks.flip(1).cummax(dim=1).values.flip(1)
