"""Is the evidence on the object? Pure functions over heatmaps and masks, one value per image.

Every function takes raw heatmaps `(B, *s)` and masks `(B, *S)`, which may have another resolution, and returns `(B,)`
with NaN wherever the question has no answer: an unannotated or empty mask, an empty heatmap.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from camtrain.cam import annotated, is_empty, pool_masks, resize


def answerable(heatmaps: Float[Tensor, "B *s"], masks: Float[Tensor, "B *S"]) -> Tensor:
    """Which images have both a heatmap with evidence and an annotated mask that is not empty. `(B,)` bool.

    >>> answerable(torch.ones(2, 2, 2), torch.stack([torch.zeros(2, 2), torch.eye(2)]))
    tensor([False,  True])
    """
    return ~is_empty(heatmaps) & has_object(masks)


def has_object(masks: Float[Tensor, "B *S"]) -> Tensor:
    """Which masks are annotated and not empty. `(B,)` bool.

    >>> has_object(torch.tensor([[[0.0, 1.0]], [[0.0, 0.0]], [[-1.0, -1.0]]]))
    tensor([ True, False, False])
    """
    return masks.flatten(1).amax(dim=1) > 0


def inside_energy(heatmaps: Float[Tensor, "B *s"], masks: Float[Tensor, "B *S"]) -> Float[Tensor, " B"]:
    """The fraction of a heatmap's energy inside the mask, in [0, 1]; masks are pooled to the heatmap's cells.

    Its chance level is `mask_area`. Source: the energy-based pointing game of Wang et al. 2020 (Score-CAM).

    >>> inside_energy(torch.tensor([[[3.0, 1.0]]]), torch.tensor([[[1.0, 0.0]]]))
    tensor([0.7500])
    """
    pooled = pool_masks(masks, heatmaps.shape[1:]).to(heatmaps.dtype)
    total = heatmaps.flatten(1).sum(dim=1)
    inside = (heatmaps * pooled).flatten(1).sum(dim=1)
    return torch.where(answerable(heatmaps, masks), inside / total, torch.nan)


def mask_area(masks: Float[Tensor, "B *S"]) -> Float[Tensor, " B"]:
    """The fraction of the image that the mask covers: the chance level of inside energy. NaN where unannotated.

    >>> mask_area(torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[-1.0, -1.0], [-1.0, -1.0]]]))
    tensor([0.2500,    nan])
    """
    return torch.where(annotated(masks), masks.flatten(1).mean(dim=1), torch.nan)


def energy_lift(heatmaps: Float[Tensor, "B *s"], masks: Float[Tensor, "B *S"]) -> Float[Tensor, " B"]:
    """Inside energy over its chance level, the mask's area: 1 for a uniform map, at most 1 / area.

    >>> energy_lift(torch.tensor([[[3.0, 1.0]]]), torch.tensor([[[1.0, 0.0]]]))
    tensor([1.5000])
    """
    return inside_energy(heatmaps, masks) / mask_area(masks).to(heatmaps.dtype)


def grounding(heatmaps: Float[Tensor, "B *s"], masks: Float[Tensor, "B *S"]) -> Float[Tensor, " B"]:
    """Inside energy corrected for chance: `(E - a) / (1 - a)`, 0 at the mask's area a, 1 with all evidence inside.

    NaN too where the mask covers the whole image: nothing is outside then.

    >>> grounding(torch.tensor([[[3.0, 1.0]]]), torch.tensor([[[1.0, 0.0]]]))
    tensor([0.5000])
    """
    area = mask_area(masks).to(heatmaps.dtype)
    lift = (inside_energy(heatmaps, masks) - area) / (1 - area)
    return torch.where(area < 1, lift, torch.nan)


def pointing_game(heatmaps: Float[Tensor, "B *s"], masks: Float[Tensor, "B *S"]) -> Float[Tensor, " B"]:
    """Whether the heatmap's maximum lies inside the mask: 1 or 0, and for ties the fraction of maxima inside.

    The heatmap is interpolated to the mask's resolution; a soft mask counts as inside from 0.5. An empty mask gives
    NaN, never a hit. Source: Zhang et al. 2018 (Excitation Backprop), section 5.1, without their tolerance of 15
    pixels.

    >>> pointing_game(torch.tensor([[[3.0, 1.0]], [[2.0, 2.0]]]), torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]]))
    tensor([1.0000, 0.5000])
    """
    return torch.where(answerable(heatmaps, masks), maxima_inside(heatmaps, masks >= 0.5), torch.nan)


def maxima_inside(heatmaps: Float[Tensor, "B *s"], inside: Bool[Tensor, "B *S"]) -> Float[Tensor, " B"]:
    """The fraction of each heatmap's maxima that lie inside, once it has the size of the mask; 0 for an empty mask.

    >>> maxima_inside(torch.tensor([[[2.0, 2.0]]]), torch.tensor([[[True, False]]]))
    tensor([0.5000])
    """
    flat = resize(heatmaps, inside.shape[1:]).flatten(1)
    maxima = flat == flat.amax(dim=1, keepdim=True)  # amax and int32: these are the monitor's costliest lines
    hits = (maxima & inside.flatten(1)).sum(dim=1, dtype=torch.int32)
    return (hits / maxima.sum(dim=1, dtype=torch.int32)).to(heatmaps.dtype)
