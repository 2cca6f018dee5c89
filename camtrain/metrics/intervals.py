"""Confidence intervals over images."""

from dataclasses import dataclass
from typing import Any

import torch
from scipy.special import ndtri, stdtrit
from torch import Tensor

from camtrain.errors import ConfigurationError
from camtrain.metrics.means import DefinedMean

__all__ = ["Interval", "MeanWithInterval", "mean_interval", "share_interval"]


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
    _check(level)
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
    _check(level)
    if count == 0:
        return Interval(torch.nan, torch.nan, torch.nan, 0)
    z, share = float(ndtri(0.5 + level / 2)), hits / count
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * (share * (1 - share) / count + z**2 / (4 * count**2)) ** 0.5
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half), count)


def _check(level: float) -> None:
    if not 0 < level < 1:
        raise ConfigurationError(f"The level of an interval lies between 0 and 1, got {level}.")


class MeanWithInterval(DefinedMean):
    """The mean of values that are not NaN and its confidence interval `(3,)`: mean, low, high.

    Student's interval; of values that are 0 or 1 (`shares=True`) Wilson's.

    >>> metric = MeanWithInterval()
    >>> metric.update(torch.tensor([1.0, 2.0, 3.0, float("nan")]))
    >>> metric.compute()
    tensor([ 2.0000, -0.4841,  4.4841])
    """

    squares: Tensor

    def __init__(self, *, shares: bool = False, level: float = 0.95, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _check(level)
        self.shares = shares
        self.level = level
        self.add_state("squares", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, values: Tensor) -> None:
        """Add a batch of values `(B,)`."""
        self._add(values)
        self.squares += values.to(self.squares.dtype).square().nansum()

    def compute(self) -> Tensor:
        """Mean, low and high over all batches and processes."""
        found = self.interval()
        return torch.tensor([found.mean, found.low, found.high])

    def interval(self) -> Interval:
        """The interval of what this process has seen."""
        total, count = float(self.total), int(self.count)
        if self.shares:
            return share_interval(total, count, level=self.level)
        return mean_interval(total, float(self.squares), count, level=self.level)
