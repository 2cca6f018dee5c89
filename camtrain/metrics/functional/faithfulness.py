"""Does a heatmap tell the truth: what the model still says of changed images, and rank correlation. No model in here.

Confidences are probabilities of the explained class, `(B,)`, or `(B, N + 1)` along a curve; NaN stays NaN.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from camtrain.cam import resize
from camtrain.cam.targets import Target, named
from camtrain.errors import ConfigurationError
from camtrain.tasks.answers import class_probability

ROUNDING = 1e-5


def _settle(logits: Tensor, labels: Tensor | None = None) -> Target:
    chosen = logits.argmax(dim=1) if labels is None else labels
    return lambda varied, _: class_probability(varied, chosen)


named(class_probability, "class_probability", _settle)


def average_drop(before: Float[Tensor, " B"], after: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """The share of its confidence that the model loses when only the heated pixels are left: `max(0, Y - O) / Y`.

    In [0, 1], lower is better; papers print its mean in percent. A confidence of 0 has nothing to lose: NaN.
    Source: Chattopadhyay et al. 2018 (Grad-CAM++), section 4.1.

    >>> average_drop(torch.tensor([0.5, 0.5]), torch.tensor([0.125, 0.75]))
    tensor([0.7500, 0.0000])
    """
    return (before - after).relu() / torch.where(before > 0, before, torch.nan)


def confidence_increase(before: Float[Tensor, " B"], after: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """1 where the model is more confident of the heated pixels alone than of the image, else 0.

    Source: Chattopadhyay et al. 2018 (Grad-CAM++), section 4.1.

    >>> confidence_increase(torch.tensor([0.5, 0.5]), torch.tensor([0.125, 0.75]))
    tensor([0., 1.])
    """
    return _share(after > before, before, after)


def win(before: Float[Tensor, " B"], after: Float[Tensor, " B"], other: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """1 where a method's drop is smaller than another's, else 0; a tie, up to rounding (1e-5), is nobody's win.

    `after` and `other` are the confidences in the pixels that each left. Source: Chattopadhyay et al. 2018
    (Grad-CAM++), section 4.1.

    >>> win(torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75]), torch.tensor([0.125, 0.75]))
    tensor([1., 0.])
    """
    own, others = average_drop(before, after), average_drop(before, other)
    return _share(own < others - ROUNDING, own, others)


def curve_area(scores: Float[Tensor, "B P"], fractions: Float[Tensor, " Q"]) -> Float[Tensor, " B"]:
    """The area under each curve by the trapezoid rule.

    With N equal steps it is `(sum s - s_0 / 2 - s_N / 2) / N`. Source: Petsiuk et al. 2018 (RISE).

    >>> curve_area(torch.tensor([[1.0, 0.5, 0.0]]), torch.tensor([0.0, 0.5, 1.0]))
    tensor([0.5000])
    """
    if scores.shape[1] != len(fractions) or len(fractions) < 2:
        raise ConfigurationError(
            f"A curve has as many scores as fractions, and two at least; not {scores.shape[1]} and {len(fractions)}."
        )
    return torch.trapezoid(scores, fractions.to(scores), dim=1)


def highest_confidence(insertion: Float[Tensor, "B P"]) -> Float[Tensor, " B"]:
    """The highest confidence along an insertion curve; its mean is the average highest confidence.

    Meant for misclassified images, with map and curve of the true class: how far can the map's own pixels bring the
    model to it? Source: Chen et al. 2024.

    >>> highest_confidence(torch.tensor([[0.1, 0.4, 0.2]]))
    tensor([0.4000])
    """
    return insertion.amax(dim=1)


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


def _share(hits: Bool[Tensor, " B"], *compared: Tensor) -> Tensor:
    defined = ~torch.stack(compared).isnan().any(dim=0)
    return torch.where(defined, hits.to(compared[0].dtype), torch.nan)
