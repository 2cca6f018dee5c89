"""Several objects in one image: does each get evidence, and each class's map its own?"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from camtrain.cam import is_empty, resize
from camtrain.metrics.grounding import has_object


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
    known = (present.sum(dim=1) >= 2) & ~is_empty(heatmaps)
    return torch.where(known, share.to(heatmaps.dtype), torch.nan)


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
    known = ~is_empty(heatmaps) & has_object(masks) & has_object(other_masks)
    return torch.where(known, on_own / (on_own + on_other), torch.nan)


def _mean(heat: Tensor, here: Tensor) -> Tensor:
    """The mean over some pixels; NaN without any."""
    return (heat * here).sum(dim=1) / here.sum(dim=1)
