"""Means over the images that have an answer, and their confidence intervals. torchmetrics classes."""

from typing import Any

import torch
from torch import Tensor

from camtrain.errors import BatchError, ConfigurationError
from camtrain.metrics.base import ImageMetric
from camtrain.metrics.functional.accuracy import Interval, check_level, mean_interval, share_interval


class DefinedMean(ImageMetric):
    """The mean of the values that are not NaN, reduced over processes; `undefined` counts the others.

    Over all images; with `num_classes`, of each class on its own: then `update` needs labels, and `compute` gives
    `(num_classes,)` with NaN for a class without an answer. An image of label -1 is of no class.
    """

    total: Tensor
    count: Tensor
    undefined: Tensor

    def __init__(self, num_classes: int | None = None, *settings: object, **kwargs: Any) -> None:
        super().__init__(*settings, **kwargs)
        if num_classes is not None and num_classes < 1:
            raise ConfigurationError(f"num_classes must be at least 1, got {num_classes}; leave it out for one mean.")
        self.num_classes = num_classes
        shape = () if num_classes is None else (num_classes,)
        self.add_state("total", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(shape), dist_reduce_fx="sum")
        self.add_state("undefined", torch.zeros(shape), dist_reduce_fx="sum")

    def _add(self, values: Tensor, labels: Tensor | None = None) -> None:
        defined = ~torch.isnan(values)
        self.total += self._summed(torch.where(defined, values, 0).to(self.total.dtype), labels)
        self.count += self._summed(defined.to(self.count.dtype), labels)
        self.undefined += self._summed((~defined).to(self.count.dtype), labels)

    def _summed(self, values: Tensor, labels: Tensor | None) -> Tensor:
        if self.num_classes is None:
            return values.sum()
        if labels is None:
            raise BatchError("A metric of each class (num_classes=...) needs labels=(B,) in every update.")
        if labels.numel() and int(labels.max()) >= self.num_classes:
            raise BatchError(f"Label {int(labels.max())} is outside the {self.num_classes} classes of the metric.")
        labeled = labels >= 0
        return values.new_zeros(self.num_classes).index_add(0, labels[labeled].to(values.device), values[labeled])

    def compute(self) -> Tensor:
        """The mean over all batches and processes, float32."""
        return (self.total / torch.where(self.count > 0, self.count, torch.nan)).float()


class NanMean(DefinedMean):
    """The mean of values that are not NaN, and how many were: `undefined`. No value at all gives NaN.

    It takes what any function of this package returns for each image.

    >>> metric = NanMean()
    >>> metric.update(torch.tensor([1.0, float("nan"), 3.0]))
    >>> metric.compute(), metric.undefined
    (tensor(2.), tensor(1.))
    >>> each = NanMean(num_classes=3)
    >>> each.update(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 2, 2]))
    >>> each.compute()
    tensor([1.0000,    nan, 2.5000])
    """

    def update(self, values: Tensor, labels: Tensor | None = None) -> None:
        """Add a batch of values `(B,)`."""
        self._add(values, labels)


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
        check_level(level)
        self.shares = shares
        self.level = level
        self.add_state("squares", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, values: Tensor) -> None:
        """Add a batch of values `(B,)`."""
        self._add(values)
        self.squares += values.to(self.squares.dtype).square().nansum()

    def compute(self) -> Tensor:
        """Mean, low and high over all batches and processes."""
        interval = self.interval()
        return torch.tensor([interval.mean, interval.low, interval.high])

    def interval(self) -> Interval:
        """The interval of what this process has seen."""
        total, count = float(self.total), int(self.count)
        if self.shares:
            return share_interval(total, count, level=self.level)
        return mean_interval(total, float(self.squares), count, level=self.level)
