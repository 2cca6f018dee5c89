"""Is the evidence on the object? torchmetrics classes; images without an answer are left out.

Each mean takes `num_classes` for one of each class, see `NanMean`.
"""

from typing import Any

import torch
from torch import Tensor

from camtrain.metrics.base import ImageMetric
from camtrain.metrics.functional.evidence import (
    class_discrimination,
    energy_lift,
    inside_energy,
    instance_coverage,
    pointing_game,
)
from camtrain.metrics.intervals import DefinedMean


class InsideEnergy(DefinedMean):
    """Mean fraction of a heatmap's energy inside the mask. See `inside_energy`.

    >>> import torch
    >>> metric = InsideEnergy()
    >>> metric.update(torch.tensor([[[3.0, 1.0]]]), torch.tensor([[[1.0, 0.0]]]))
    >>> metric.compute()
    tensor(0.7500)
    """

    higher_is_better = True

    def update(self, heatmaps: Tensor, masks: Tensor, labels: Tensor | None = None) -> None:
        """Add raw heatmaps `(B, *s)` and masks `(B, *S)`."""
        self._add(inside_energy(heatmaps, masks), labels)


class EnergyLift(DefinedMean):
    """Mean of inside energy over its chance level. See `energy_lift`.

    >>> import torch
    >>> metric = EnergyLift()
    >>> metric.update(torch.tensor([[[3.0, 1.0]]]), torch.tensor([[[1.0, 0.0]]]))
    >>> metric.compute()
    tensor(1.5000)
    """

    higher_is_better = True

    def update(self, heatmaps: Tensor, masks: Tensor, labels: Tensor | None = None) -> None:
        """Add raw heatmaps `(B, *s)` and masks `(B, *S)`."""
        self._add(energy_lift(heatmaps, masks), labels)


class PointingGame(DefinedMean):
    """How often a heatmap's maximum lies in the mask. See `pointing_game`.

    >>> import torch
    >>> metric = PointingGame()
    >>> metric.update(torch.tensor([[[3.0, 1.0]]]), torch.tensor([[[1.0, 0.0]]]))
    >>> metric.compute()
    tensor(1.)
    """

    higher_is_better = True

    def update(self, heatmaps: Tensor, masks: Tensor, labels: Tensor | None = None) -> None:
        """Add raw heatmaps `(B, *s)` and masks `(B, *S)`."""
        self._add(pointing_game(heatmaps, masks), labels)


class InstanceCoverage(DefinedMean):
    """Mean share of an image's objects that get evidence. See `instance_coverage`.

    >>> import torch
    >>> metric = InstanceCoverage()
    >>> metric.update(torch.tensor([[[4.0, 3.0, 0.0, 1.0]]]), torch.tensor([[[1, 0, 0, 2]]]))
    >>> metric.compute()
    tensor(0.5000)
    """

    higher_is_better = True

    def update(self, heatmaps: Tensor, instances: Tensor, labels: Tensor | None = None) -> None:
        """Add raw heatmaps `(B, *s)` and the numbers of the objects `(B, *S)`, 0 on the background."""
        self._add(instance_coverage(heatmaps, instances), labels)


class ClassDiscrimination(DefinedMean):
    """Mean share of the evidence on the map's own class's object, of two classes. See `class_discrimination`.

    >>> import torch
    >>> metric, cat = ClassDiscrimination(), torch.tensor([[[1.0, 1.0, 0.0]]])
    >>> metric.update(torch.tensor([[[3.0, 3.0, 1.0]]]), cat, 1 - cat)
    >>> metric.compute()
    tensor(0.7500)
    """

    higher_is_better = True

    def update(self, heatmaps: Tensor, masks: Tensor, other_masks: Tensor, labels: Tensor | None = None) -> None:
        """Add raw heatmaps `(B, *s)`, masks of their class and of the other class `(B, *S)`."""
        self._add(class_discrimination(heatmaps, masks, other_masks), labels)


class ReasonCells(ImageMetric):
    """How many images fall into each cell of `reason_cells`, over all batches and processes: `(4,)` counts.

    >>> metric = ReasonCells()
    >>> metric.update(torch.tensor([0, 1, 1, -1]))
    >>> metric.compute()
    tensor([1., 2., 0., 0.])
    """

    counts: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("counts", torch.zeros(4), dist_reduce_fx="sum")

    def update(self, cells: Tensor) -> None:
        """Add the cells `(B,)` of a batch, -1 for images in none."""
        self.counts += torch.bincount(cells[cells >= 0], minlength=4).to(self.counts)

    def compute(self) -> Tensor:
        """The counts, in the order of `reason_cells`."""
        return self.counts
