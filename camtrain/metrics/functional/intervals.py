"""Confidence intervals over images."""

from dataclasses import dataclass

import torch
from scipy.special import ndtri, stdtrit

from camtrain.errors import ConfigurationError


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
