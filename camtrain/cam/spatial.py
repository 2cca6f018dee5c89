"""Heatmaps and masks in space: pooling masks down, resizing heatmaps up, rescaling for display."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from camtrain.cam import waiting

UNKNOWN = -0.5  # at or below it a mask is unknown: -1, give or take what interpolation does
_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def annotated(masks: Float[Tensor, "B *S"]) -> Bool[Tensor, " B"]:
    """Which images have an annotation: all but those whose mask is -1 everywhere.

    >>> annotated(torch.tensor([[[-1.0, -1.0]], [[0.0, 1.0]]]))
    tensor([False,  True])
    """
    return masks.flatten(1).amax(dim=1) >= 0


def pool_masks(masks: Float[Tensor, "B *S"], size: Sequence[int]) -> Float[Tensor, "B *s"]:
    """Masks averaged over the area of each cell of a feature grid; an unannotated mask stays -1 everywhere.

    Unknown pixels, which are -1 in a mask of other values, are left out: a cell is the mean of what is known of it, and
    -1 where nothing is. A 2-D mask of a 3-D map (video) holds for every frame.

    >>> pool_masks(torch.tensor([[[1.0, 1.0], [0.0, 1.0]]]), (1, 1))
    tensor([[[0.7500]]])
    >>> pool_masks(torch.tensor([[[1.0, 0.0, -1.0, 1.0, -1.0, -1.0]]]), (1, 3))
    tensor([[[ 0.5000,  1.0000, -1.0000]]])
    """
    if masks.ndim - 1 < len(size):
        masks = masks.unsqueeze(1).expand(-1, size[0], *masks.shape[1:])
    if tuple(masks.shape[1:]) == tuple(size):
        return masks
    pooled = F.interpolate(masks.unsqueeze(1), size=tuple(size), mode="area").squeeze(1)
    partly = partly_unknown(masks)
    if waiting.are_at_hand(partly) and not bool(partly.any()):
        return pooled
    known = masks > UNKNOWN
    parts = torch.stack([masks * known, known.to(masks.dtype)], dim=1)
    inside, share = F.interpolate(parts, size=tuple(size), mode="area").unbind(dim=1)
    means = torch.where(share > 0, inside / share, -1)
    return torch.where(partly.view(-1, *[1] * len(size)), means, pooled)


def partly_unknown(masks: Float[Tensor, "B *S"]) -> Bool[Tensor, " B"]:
    """Which masks are annotations with unknown pixels: -1 beside other values.

    >>> partly_unknown(torch.tensor([[-1.0, -1.0], [-1.0, 0.0], [0.0, 1.0]]))
    tensor([False,  True, False])
    """
    flat = masks.flatten(1)
    return (flat.amin(dim=1) <= UNKNOWN) & (flat.amax(dim=1) > UNKNOWN)


def without_unknown(
    heatmaps: Float[Tensor, "B *S"], masks: Float[Tensor, "B *S"]
) -> tuple[Float[Tensor, "B *S"], Float[Tensor, "B *S"]]:
    """Heatmaps and masks of one size, both 0 where the mask is unknown (-1): neither inside nor outside.

    >>> without_unknown(torch.tensor([[3.0, 2.0]]), torch.tensor([[-1.0, 1.0]]))
    (tensor([[0., 2.]]), tensor([[0., 1.]]))
    """
    unknown = masks <= UNKNOWN
    return torch.where(unknown, 0, heatmaps), torch.where(unknown, 0, masks)


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
