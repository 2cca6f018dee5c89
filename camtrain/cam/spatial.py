"""Heatmaps and masks in space: pooling masks down, resizing heatmaps up, rescaling for display."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def annotated(masks: Float[Tensor, "B *S"]) -> Bool[Tensor, " B"]:
    """Which images have an annotation: all but those whose mask is -1 everywhere.

    >>> annotated(torch.tensor([[[-1.0, -1.0]], [[0.0, 1.0]]]))
    tensor([False,  True])
    """
    return masks.flatten(1).amax(dim=1) >= 0


def pool_masks(masks: Float[Tensor, "B *S"], size: Sequence[int]) -> Float[Tensor, "B *s"]:
    """Masks averaged over the area of each cell of a feature grid; an unannotated mask stays -1 everywhere.

    A 2-D mask of a 3-D map (video) holds for every frame.

    >>> pool_masks(torch.tensor([[[1.0, 1.0], [0.0, 1.0]]]), (1, 1))
    tensor([[[0.7500]]])
    """
    if masks.ndim - 1 < len(size):
        masks = masks.unsqueeze(1).expand(-1, size[0], *masks.shape[1:])
    if tuple(masks.shape[1:]) == tuple(size):
        return masks
    return F.interpolate(masks.unsqueeze(1), size=tuple(size), mode="area").squeeze(1)


def resize(heatmaps: Float[Tensor, "B *s"], size: Sequence[int]) -> Float[Tensor, "B *S"]:
    """Heatmaps interpolated linearly to another size, pixel centers aligned as in OpenCV (`align_corners=False`).

    >>> resize(torch.ones(1, 2, 2), (3, 4)).shape
    torch.Size([1, 3, 4])
    """
    if tuple(heatmaps.shape[1:]) == tuple(size):
        return heatmaps
    mode = _MODES[len(size)]
    return F.interpolate(heatmaps.unsqueeze(1), size=tuple(size), mode=mode, align_corners=False).squeeze(1)


def normalize(heatmaps: Float[Tensor, "B *S"]) -> Float[Tensor, "B *S"]:
    """Each heatmap rescaled to [0, 1] by its own minimum and maximum, for display only.

    An empty map (zero everywhere, or not finite) gives zeros; a constant positive map gives ones.

    >>> normalize(torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.0, 0.0], [2.0, 2.0, 2.0]]))
    tensor([[0.0000, 1.0000, 0.5000],
            [0.0000, 0.0000, 0.0000],
            [1.0000, 1.0000, 1.0000]])
    """
    if heatmaps.numel() == 0:
        return heatmaps
    flat = heatmaps.flatten(1)
    low, high = flat.min(dim=1, keepdim=True).values, flat.max(dim=1, keepdim=True).values
    spread = high - low
    scaled = torch.where(spread > 0, (flat - low) / spread.clamp_min(torch.finfo(flat.dtype).tiny), (high > 0).to(flat))
    return torch.where(is_empty(heatmaps).unsqueeze(1), 0, scaled).reshape(heatmaps.shape)


def is_empty(heatmaps: Float[Tensor, "B *S"]) -> Bool[Tensor, " B"]:
    """Which heatmaps hold no evidence: zero everywhere, or a value that is not finite.

    >>> is_empty(torch.tensor([[0.0, 0.0], [0.0, 1.0], [float("nan"), 1.0]]))
    tensor([ True, False,  True])
    """
    flat = heatmaps.flatten(1)
    return ~(torch.isfinite(flat).all(dim=1) & (flat > 0).any(dim=1))
