"""Heatmaps of several layers as one."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from camtrain.cam.spatial import resize
from camtrain.errors import MethodError

_FUSIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda stacked: stacked.mean(dim=0),
    "max": lambda stacked: stacked.amax(dim=0),
    "product": lambda stacked: stacked.log().mean(dim=0).exp(),  # log(0) = -inf gives 0
}


def fuse(
    heatmaps: Sequence[Float[Tensor, "B ..."]], how: str = "mean", *, size: Sequence[int] | None = None
) -> Float[Tensor, "B *S"]:
    """Raw heatmaps of several layers fused into one, at the finest of their sizes or at `size`.

    Each is resized so that it keeps its energy (the sum over its cells); none is rescaled by its own range, which would
    make a layer without evidence count as much as one with. `how` is `"mean"`, `"max"`, or `"product"` (the geometric
    mean: evidence where every layer has some). A mean has the mean energy of the layers.

    >>> fuse([torch.tensor([[4.0]]), torch.tensor([[1.0, 3.0]])])
    tensor([[1.5000, 2.5000]])
    """
    if how not in _FUSIONS:
        raise MethodError(f"Heatmaps are fused by {', '.join(_FUSIONS)}, not {how!r}.")
    if not heatmaps:
        raise MethodError("There is nothing to fuse: pass the heatmaps of at least one layer.")
    finest = max((maps.shape[1:] for maps in heatmaps), key=lambda shape: shape.numel())
    return _FUSIONS[how](torch.stack([resize_energy(maps, size or finest) for maps in heatmaps]))


def resize_energy(heatmaps: Float[Tensor, "B *s"], size: Sequence[int]) -> Float[Tensor, "B *S"]:
    """Heatmaps interpolated to another size and scaled so that each keeps its sum; an empty one stays empty.

    >>> resize_energy(torch.tensor([[4.0]]), (2,))
    tensor([[2., 2.]])
    """
    resized = resize(heatmaps, size)
    axes = tuple(range(1, heatmaps.ndim))
    before, after = heatmaps.sum(dim=axes, keepdim=True), resized.sum(dim=axes, keepdim=True)
    return torch.where(after > 0, resized * before / torch.where(after > 0, after, 1), 0 * resized)
