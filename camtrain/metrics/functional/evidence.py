"""Is the evidence on the object? Pure functions over heatmaps and masks, one value per image.

Every function takes raw heatmaps `(B, *s)` and masks `(B, *S)`, which may have another resolution, and returns `(B,)`
with NaN wherever the question has no answer: an unannotated or empty mask, an empty heatmap. Pixels of which nothing is
known (-1 in a mask of other values) count neither inside nor outside.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from camtrain.cam import annotated, is_empty, partly_unknown, pool_masks, resize, without_unknown


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
    seen, pooled = without_unknown(heatmaps, pooled)
    total = seen.flatten(1).sum(dim=1)
    inside = (seen * pooled).flatten(1).sum(dim=1)
    return torch.where(answerable(heatmaps, masks), inside / total, torch.nan)


def mask_area(masks: Float[Tensor, "B *S"]) -> Float[Tensor, " B"]:
    """The fraction of the image that the mask covers: the chance level of inside energy. NaN where unannotated.

    >>> mask_area(torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[-1.0, -1.0], [-1.0, -1.0]]]))
    tensor([0.2500,    nan])
    """
    flat = masks.flatten(1)
    of_known = flat.clamp(min=0).sum(dim=1) / (flat >= 0).sum(dim=1)
    area = torch.where(partly_unknown(masks), of_known, flat.mean(dim=1))
    return torch.where(annotated(masks), area, torch.nan)


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
    return torch.where(answerable(heatmaps, masks), maxima_inside(heatmaps, masks >= 0.5, masks < 0), torch.nan)


def maxima_inside(
    heatmaps: Float[Tensor, "B *s"], inside: Bool[Tensor, "B *S"], unknown: Bool[Tensor, "B *S"] | None = None
) -> Float[Tensor, " B"]:
    """The fraction of each heatmap's maxima that lie inside, once it has the size of the mask; 0 for an empty mask.

    Pixels that are `unknown` are no maxima.

    >>> maxima_inside(torch.tensor([[[2.0, 2.0]]]), torch.tensor([[[True, False]]]))
    tensor([0.5000])
    """
    flat = resize(heatmaps, inside.shape[1:]).flatten(1)
    if unknown is not None:
        flat = flat.masked_fill(unknown.flatten(1), -1)
    maxima = flat == flat.amax(dim=1, keepdim=True)  # amax and int32: these are the monitor's costliest lines
    hits = (maxima & inside.flatten(1)).sum(dim=1, dtype=torch.int32)
    return (hits / maxima.sum(dim=1, dtype=torch.int32)).to(heatmaps.dtype)


def reason_cells(
    correct: Bool[Tensor, " B"],
    heatmaps: Float[Tensor, "B *s"],
    masks: Float[Tensor, "B *S"],
    grounded_above: float = 0.2,
) -> Int[Tensor, " B"]:
    """The cell of each image: 0 right/grounded, 1 right/ungrounded, 2 wrong/grounded, 3 wrong/ungrounded.

    Grounded means that `grounding` (inside energy corrected for chance) exceeds `grounded_above`. An image with an
    empty heatmap, without an annotation, or whose mask is empty or full, is in no cell: -1.

    >>> heat = torch.tensor([[[4.0, 0.0]], [[0.0, 4.0]]])
    >>> reason_cells(torch.tensor([True, True]), heat, torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]]))
    tensor([0, 1])
    """
    flat = masks.flatten(1)
    askable = (flat > 0).any(dim=1) & ((flat >= 0) & (flat < 1)).any(dim=1)
    grounded = grounding(heatmaps, masks) > grounded_above
    return torch.where(askable & ~is_empty(heatmaps), 2 * (~correct).long() + (~grounded).long(), -1)


def instance_coverage(heatmaps: Float[Tensor, "B *s"], instances: Int[Tensor, "B *S"]) -> Float[Tensor, " B"]:
    """The share of an image's objects that get evidence: the heatmap is hotter on them than in the image's mean.

    `instances` is 0 on the background and 1 .. N on the objects. A uniform map covers nothing. NaN for an image of
    fewer than two objects and for an empty heatmap. It is a measurable form of what Chattopadhyay et al. 2018
    (Grad-CAM++) claim: that several occurrences of a class are all found.

    >>> instance_coverage(torch.tensor([[[4.0, 3.0, 0.0, 1.0]]]), torch.tensor([[[1, 0, 0, 2]]]))
    tensor([0.5000])
    """
    if instances.numel() == 0:
        return heatmaps.new_zeros(len(instances))
    heat, numbers = resize(heatmaps, instances.shape[1:]).flatten(1), instances.flatten(1).clamp_min(0)
    count = int(numbers.max()) + 1
    areas = heat.new_zeros(len(heat), count).scatter_add(1, numbers.long(), torch.ones_like(heat))
    sums = heat.new_zeros(len(heat), count).scatter_add(1, numbers.long(), heat)
    present = areas[:, 1:] > 0
    covered = present & (sums[:, 1:] > heat.mean(dim=1, keepdim=True) * areas[:, 1:])
    share = covered.sum(dim=1) / present.sum(dim=1)
    answerable_here = (present.sum(dim=1) >= 2) & ~is_empty(heatmaps)
    return torch.where(answerable_here, share.to(heatmaps.dtype), torch.nan)


def class_discrimination(
    heatmaps: Float[Tensor, "B *s"], masks: Float[Tensor, "B *S"], other_masks: Float[Tensor, "B *S"]
) -> Float[Tensor, " B"]:
    """In an image of two classes: own / (own + other), of the heatmap's mean on its class's object and on the other's.

    In [0, 1]; 0.5 by chance, whatever the objects' sizes. Where the objects overlap nothing is counted. NaN without
    both objects, for an empty heatmap and for one without evidence on either. It is a measurable form of the question
    that Selvaraju et al. 2017 (Grad-CAM), section 5.1, put to people: which of two classes does this map show?

    >>> heat, cat = torch.tensor([[[3.0, 3.0, 1.0, 9.0]]]), torch.tensor([[[1.0, 1.0, 0.0, 0.0]]])
    >>> class_discrimination(heat, cat, torch.tensor([[[0.0, 0.0, 1.0, 0.0]]]))
    tensor([0.7500])
    """
    heat = resize(heatmaps, masks.shape[1:]).flatten(1)
    own, other = (masks >= 0.5).flatten(1), (other_masks >= 0.5).flatten(1)
    on_own, on_other = (_mean(heat, here) for here in (own & ~other, other & ~own))
    answerable_here = ~is_empty(heatmaps) & has_object(masks) & has_object(other_masks)
    return torch.where(answerable_here, on_own / (on_own + on_other), torch.nan)


def _mean(heat: Tensor, here: Tensor) -> Tensor:
    """The mean over some pixels; NaN without any."""
    return (heat * here).sum(dim=1) / here.sum(dim=1)
