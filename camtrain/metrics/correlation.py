"""Rank correlation of maps: of a heatmap with an occlusion map, with another method's, or with its own later self."""

import torch
from jaxtyping import Float
from torch import Tensor

from camtrain.cam import resize


def rank_correlation(heatmaps: Float[Tensor, "B *s"], others: Float[Tensor, "B *S"]) -> Float[Tensor, " B"]:
    """Spearman's correlation of each heatmap with another map, in [-1, 1]; the first is interpolated to the second.

    Equal values share their mean rank. A map that is constant or not finite has no ranks: NaN. With an occlusion map it
    is the occlusion correlation of Selvaraju et al. 2017 (Grad-CAM), section 5.3.

    >>> rank_correlation(torch.tensor([[[1.0, 2.0, 4.0]]]), torch.tensor([[[0.0, 9.0, 1.0]]]))
    tensor([0.5000])
    """
    first, second = (_centered(maps.flatten(1)) for maps in (resize(heatmaps, others.shape[1:]), others))
    length = (first.square().sum(dim=1) * second.square().sum(dim=1)).sqrt()
    value = (first * second).sum(dim=1) / torch.where(length > 0, length, torch.nan)
    return value.clamp(-1, 1).to(heatmaps.dtype)


def _centered(flat: Float[Tensor, "B P"]) -> Tensor:
    """Ranks minus their mean, in float64; NaN for a row that is not finite."""
    ordered = flat.sort(dim=1).values
    ranks = torch.searchsorted(ordered, flat.contiguous()) + torch.searchsorted(ordered, flat.contiguous(), right=True)
    ranks = ranks.to(torch.float64)
    centered = ranks - ranks.mean(dim=1, keepdim=True)
    return torch.where(torch.isfinite(flat).all(dim=1, keepdim=True), centered, torch.nan)
