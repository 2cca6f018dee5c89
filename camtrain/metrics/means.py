"""torchmetrics classes over the grounding functions: means over the images that have an answer."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from camtrain.metrics.grounding import inside_energy, pointing_game


class _DefinedMean(Metric):
    """The mean of the values that are not NaN, reduced over processes; `undefined` counts the others."""

    full_state_update = False
    total: Tensor
    count: Tensor
    undefined: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("undefined", torch.tensor(0.0), dist_reduce_fx="sum")

    def _add(self, values: Tensor) -> None:
        defined = ~torch.isnan(values)
        self.total += torch.where(defined, values, 0).sum()
        self.count += defined.sum()
        self.undefined += (~defined).sum()

    def compute(self) -> Tensor:
        """The mean over all batches and processes, float32."""
        return (self.total / torch.where(self.count > 0, self.count, torch.nan)).float()


class NanMean(_DefinedMean):
    """The mean of values that are not NaN, and how many were: `undefined`. No value at all gives NaN.

    >>> metric = NanMean()
    >>> metric.update(torch.tensor([1.0, float("nan"), 3.0]))
    >>> metric.compute(), metric.undefined
    (tensor(2.), tensor(1.))
    """

    def update(self, values: Tensor) -> None:
        """Add a batch of values `(B,)`."""
        self._add(values)


class InsideEnergy(_DefinedMean):
    """Mean fraction of a heatmap's energy inside the mask. See `inside_energy`; images without an answer are left out.

    >>> metric = InsideEnergy()
    >>> metric.update(torch.tensor([[[3.0, 1.0]]]), torch.tensor([[[1.0, 0.0]]]))
    >>> metric.compute()
    tensor(0.7500)
    """

    higher_is_better = True

    def update(self, heatmaps: Tensor, masks: Tensor) -> None:
        """Add raw heatmaps `(B, *s)` and masks `(B, *S)`."""
        self._add(inside_energy(heatmaps, masks))


class PointingGame(_DefinedMean):
    """How often a heatmap's maximum lies in the mask. See `pointing_game`; images without an answer are left out.

    >>> metric = PointingGame()
    >>> metric.update(torch.tensor([[[3.0, 1.0]]]), torch.tensor([[[1.0, 0.0]]]))
    >>> metric.compute()
    tensor(1.)
    """

    higher_is_better = True

    def update(self, heatmaps: Tensor, masks: Tensor) -> None:
        """Add raw heatmaps `(B, *s)` and masks `(B, *S)`."""
        self._add(pointing_game(heatmaps, masks))
