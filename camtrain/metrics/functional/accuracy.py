"""Accuracies that an average hides (by group, under noise, on other backgrounds), and the interval of a mean."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from scipy.special import ndtri, stdtrit
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error

from camtrain.errors import ConfigurationError

BELOW_ONE = 1 - 2**-24  # the largest float32 below 1


def group_accuracy(correct: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """Accuracy of each group, `(num_groups,)`, NaN for a group without images.

    `correct` is `(B,)` bool, `groups` `(B,)` in `0 .. num_groups - 1`; images of group -1 belong to none.

    >>> group_accuracy(torch.tensor([True, False, True]), torch.tensor([0, 0, 2]), 3)
    tensor([0.5000,    nan, 1.0000])
    """
    hits, counts = tally(correct, groups, num_groups)
    return hits / torch.where(counts > 0, counts, torch.nan)


def worst_group_accuracy(correct: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """The lowest accuracy of any group that has images; NaN without any. Source: Sagawa et al. 2020.

    >>> worst_group_accuracy(torch.tensor([True, False, True]), torch.tensor([0, 0, 2]), 3)
    tensor(0.5000)
    """
    return lowest(group_accuracy(correct, groups, num_groups))


def tally(correct: Tensor, groups: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """How many of each group are right, and how many there are; ValueError for a group beyond `num_groups`."""
    grouped = groups >= 0
    if bool((groups >= num_groups).any()):
        raise ValueError(
            f"Group {int(groups.max())} is outside the {num_groups} groups: pass num_groups > {int(groups.max())}."
        )
    counts = torch.bincount(groups[grouped], minlength=num_groups).float()
    return torch.bincount(groups[grouped], weights=correct[grouped].float(), minlength=num_groups).float(), counts


def lowest(accuracies: Tensor) -> Tensor:
    """The lowest accuracy that is not NaN; NaN without any."""
    present = accuracies[~torch.isnan(accuracies)]
    return present.min() if present.numel() else accuracies.new_tensor(torch.nan)


@dataclass(frozen=True, eq=False)
class Reliability:
    """What confidence is worth: answers in equally wide bins of it.

    Attributes:
        counts: how many answers, `(bins,)`.
        confidence: their mean confidence, NaN in an empty bin.
        accuracy: the share of them that is right, NaN in an empty bin.
        error: the expected calibration error: how far confidence and accuracy lie apart, on average over answers.
    """

    counts: Float[Tensor, " bins"]
    confidence: Float[Tensor, " bins"]
    accuracy: Float[Tensor, " bins"]
    error: float


def reliability(confidence: Float[Tensor, " B"], right: Bool[Tensor, " B"], *, bins: int = 10) -> Reliability:
    """Confidence in [0, 1] against accuracy, over answers; the error is NaN without any. Source: Guo et al. 2017.

    >>> reliability(torch.tensor([0.9, 0.9, 1.0, 0.6]), torch.tensor([True, False, True, True])).error
    0.2999...
    """
    if not len(confidence):
        nothing = torch.full((bins,), torch.nan)
        return Reliability(torch.zeros(bins), nothing, nothing, torch.nan)
    confidence = confidence.float().clamp(0, BELOW_ONE)  # torchmetrics keeps a bin of its own for exactly 1
    error = binary_calibration_error(confidence, right.int(), n_bins=bins, norm="l1")
    places = torch.bucketize(confidence, torch.linspace(0, 1, bins + 1, device=confidence.device), right=True) - 1
    counts, sums, hits = (
        torch.bincount(places, weights=weights, minlength=bins).float()
        for weights in (torch.ones_like(confidence), confidence, right.float())
    )
    answered = torch.where(counts > 0, counts, torch.nan)
    return Reliability(counts, sums / answered, hits / answered, float(error))


def relative_foreground_sensitivity(foreground: Tensor, background: Tensor) -> Tensor:
    """`(a_bg - a_fg) / (2 min(a, 1 - a))` of accuracies under noise in the foreground and in the background only.

    `a` is the mean of both. In [-1, 1]: above 0 the model is more sensitive to its objects, below to their backgrounds.
    NaN where both accuracies are 0, or both 1: nothing could differ. Source: Moayeri et al. 2022 (RIVAL10).

    >>> relative_foreground_sensitivity(torch.tensor(0.5), torch.tensor(0.75))
    tensor(0.3333)
    """
    mean = (foreground + background) / 2
    room = 2 * torch.minimum(mean, 1 - mean)
    return (background - foreground) / torch.where(room > 0, room, torch.nan)


def background_gap(same: Tensor, random: Tensor) -> Tensor:
    """How much accuracy objects lose on random backgrounds, against backgrounds of other images of their own class.

    In [-1, 1]; 0 for a model that does not mind. Source: Xiao et al. 2021 (Noise or signal), BG-Gap.

    >>> background_gap(torch.tensor(0.75), torch.tensor(0.5))
    tensor(0.2500)
    """
    return same - random


def noise_in_region(
    images: Float[Tensor, "B C H W"],
    masks: Float[Tensor, "B H W"],
    *,
    inside: bool,
    sigma: float = 0.25,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "B C H W"]:
    """The images with normal noise on their objects (`inside`) or on their backgrounds alone, for an accuracy each.

    `sigma` is in the images' units: 0.25 for pixels in [0, 1], as in Moayeri et al. 2022, and divided by the standard
    deviation for normalized ones. An image without an annotation comes back as it is.

    >>> images, masks = torch.zeros(1, 1, 1, 2), torch.tensor([[[1.0, 0.0]]])
    >>> noise_in_region(images, masks, inside=True).flatten() != 0
    tensor([ True, False])
    """
    if sigma < 0:
        raise ConfigurationError(f"A standard deviation is at least 0, not sigma={sigma}.")
    region = masks if inside else 1 - masks
    region = torch.where(masks < 0, 0, region).to(images.dtype).unsqueeze(1)
    drawn = torch.randn(images.shape, generator=generator, device=images.device, dtype=torch.float32)
    return images + sigma * region * drawn.to(images.dtype)


@dataclass(frozen=True)
class Interval:
    """A mean over `count` images and its confidence interval.

    >>> Interval(0.5, 0.4, 0.6, 30).low
    0.4
    """

    mean: float
    low: float
    high: float
    count: int


def mean_interval(total: float, squares: float, count: int, *, level: float = 0.95) -> Interval:
    """Student's interval of a mean, from the sum of the values and of their squares; infinite for a single value.

    >>> mean_interval(6.0, 14.0, 3).mean, round(mean_interval(6.0, 14.0, 3).high, 3)
    (2.0, 4.484)
    """
    check_level(level)
    if count == 0:
        return Interval(torch.nan, torch.nan, torch.nan, 0)
    mean = total / count
    if count == 1:
        return Interval(mean, -torch.inf, torch.inf, 1)
    variance = max(0.0, squares - count * mean**2) / (count - 1)
    half = float(stdtrit(count - 1, 0.5 + level / 2)) * (variance / count) ** 0.5
    return Interval(mean, mean - half, mean + half, count)


def share_interval(hits: float, count: int, *, level: float = 0.95) -> Interval:
    """Wilson's interval of a share of images: never empty, even where all are alike. Source: Wilson 1927.

    >>> share = share_interval(0.0, 10)
    >>> share.low, round(share.high, 3)
    (0.0, 0.278)
    """
    check_level(level)
    if count == 0:
        return Interval(torch.nan, torch.nan, torch.nan, 0)
    z, share = float(ndtri(0.5 + level / 2)), hits / count
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * (share * (1 - share) / count + z**2 / (4 * count**2)) ** 0.5
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half), count)


def check_level(level: float) -> None:
    """Refuse what is no probability."""
    if not 0 < level < 1:
        raise ConfigurationError(f"The level of an interval lies between 0 and 1, got {level}.")
