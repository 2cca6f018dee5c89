"""Accuracies that an average hides: by group, under noise, on other backgrounds. torchmetrics classes."""

from typing import Any

import torch
from torch import Tensor

from camtrain.errors import BatchError
from camtrain.metrics.base import ImageMetric
from camtrain.metrics.functional.accuracy import background_gap, lowest, relative_foreground_sensitivity, tally


class GroupAccuracy(ImageMetric):
    """Accuracy of each group over all batches and processes, `(num_groups,)`.

    >>> metric = GroupAccuracy(num_groups=2)
    >>> metric.update(torch.tensor([1, 1]), torch.tensor([1, 0]), torch.tensor([0, 1]))
    >>> metric.compute()
    tensor([1., 0.])
    """

    higher_is_better = True
    hits: Tensor
    counts: Tensor

    def __init__(self, num_groups: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if num_groups < 1:
            raise ValueError(f"num_groups must be at least 1, got {num_groups}.")
        self.num_groups = num_groups
        self.add_state("hits", torch.zeros(num_groups), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(num_groups), dist_reduce_fx="sum")

    def update(self, preds: Tensor, labels: Tensor, groups: Tensor) -> None:
        """Add predictions (logits `(B, C)` or classes `(B,)`), labels `(B,)` and groups `(B,)`, -1 for none."""
        classes = preds.argmax(dim=1) if preds.ndim == 2 else preds
        hits, counts = tally(classes == labels, groups, self.num_groups)
        self.hits += hits
        self.counts += counts

    def compute(self) -> Tensor:
        """Accuracy of each group, NaN for one without images."""
        return self.hits / torch.where(self.counts > 0, self.counts, torch.nan)


class WorstGroupAccuracy(GroupAccuracy):
    """The lowest accuracy of any group, over all batches and processes. NaN before the first image.

    >>> metric = WorstGroupAccuracy(num_groups=2)
    >>> metric.update(torch.tensor([1, 1]), torch.tensor([1, 0]), torch.tensor([0, 1]))
    >>> metric.compute()
    tensor(0.)
    """

    def compute(self) -> Tensor:
        """The lowest accuracy of a group that has images."""
        return lowest(super().compute())


class _TwoAccuracies(ImageMetric):
    """Accuracies of the same images under two conditions, reduced over processes."""

    hits: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("hits", torch.zeros(2), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0.0), dist_reduce_fx="sum")

    def _add(self, first: Tensor, second: Tensor) -> None:
        if first.shape != second.shape:
            raise BatchError(
                f"Both are answers for the same images, not {tuple(first.shape)} and {tuple(second.shape)}."
            )
        self.hits += torch.stack([first.float().sum(), second.float().sum()]).to(self.hits)
        self.count += first.numel()

    def _accuracies(self) -> Tensor:
        return self.hits / torch.where(self.count > 0, self.count, torch.nan)


class RelativeForegroundSensitivity(_TwoAccuracies):
    """Is the model more sensitive to noise on the objects than on their backgrounds? NaN before the first image.

    See `relative_foreground_sensitivity`, and `noise_in_region` for the images.

    >>> metric = RelativeForegroundSensitivity()
    >>> metric.update(torch.tensor([True, False, False, True]), torch.tensor([True, True, False, True]))
    >>> metric.compute()
    tensor(0.3333)
    """

    higher_is_better = True

    def update(self, foreground: Tensor, background: Tensor) -> None:
        """Add which images `(B,)` were right under noise in the foreground, and in the background."""
        self._add(foreground, background)

    def compute(self) -> Tensor:
        """The relative sensitivity over all batches and processes."""
        return relative_foreground_sensitivity(*self._accuracies())


class BackgroundGap(_TwoAccuracies):
    """How much accuracy objects lose on random backgrounds. See `background_gap`. NaN before the first image.

    >>> metric = BackgroundGap()
    >>> metric.update(torch.tensor([True, False, True, True]), torch.tensor([True, False, False, True]))
    >>> metric.compute()
    tensor(0.2500)
    """

    higher_is_better = False

    def update(self, same: Tensor, random: Tensor) -> None:
        """Add which objects `(B,)` were recognized on backgrounds of their own class, and on random ones."""
        self._add(same, random)

    def compute(self) -> Tensor:
        """The gap over all batches and processes."""
        return background_gap(*self._accuracies())
