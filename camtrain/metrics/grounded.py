"""torchmetrics classes over the functions of heatmaps and masks; images without an answer are left out.

Each takes `num_classes` for a mean of each class, see `NanMean`.
"""

from typing import Any

from torch import Tensor

from camtrain.metrics.grounding import energy_lift, inside_energy, pointing_game
from camtrain.metrics.localization import average_precision, heatmap_iou, localization_error
from camtrain.metrics.means import DefinedMean
from camtrain.metrics.objects import class_discrimination, instance_coverage


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


class HeatmapIoU(DefinedMean):
    """Mean overlap of mask and binarized heatmap, by Otsu's threshold or a given one: then it is Loc(delta).

    See `heatmap_iou` and `loc`.

    >>> import torch
    >>> metric = HeatmapIoU(threshold=0.5)
    >>> metric.update(torch.tensor([[[4.0, 3.0, 1.0, 0.0]]]), torch.tensor([[[1.0, 0.0, 0.0, 0.0]]]))
    >>> metric.compute()
    tensor(0.5000)
    """

    higher_is_better = True

    def __init__(self, threshold: float | None = None, num_classes: int | None = None, **kwargs: Any) -> None:
        super().__init__(num_classes, **kwargs)
        self.threshold = threshold

    def update(self, heatmaps: Tensor, masks: Tensor, labels: Tensor | None = None) -> None:
        """Add raw heatmaps `(B, *s)` and masks `(B, *S)`."""
        self._add(heatmap_iou(heatmaps, masks, self.threshold), labels)


class LocalizationError(DefinedMean):
    """How often the box of a heatmap misses the object's box. See `localization_error`.

    >>> import torch
    >>> metric, mask = LocalizationError(), torch.tensor([[[0.0, 1.0, 1.0], [0.0, 1.0, 1.0]]])
    >>> metric.update(torch.cat([mask, 1 - mask]), torch.cat([mask, mask]))
    >>> metric.compute()
    tensor(0.5000)
    """

    higher_is_better = False

    def __init__(
        self, iou: float = 0.5, threshold: float = 0.15, num_classes: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(num_classes, **kwargs)
        self.iou = iou
        self.threshold = threshold

    def update(self, heatmaps: Tensor, masks: Tensor, labels: Tensor | None = None) -> None:
        """Add raw heatmaps `(B, h, w)` and masks `(B, H, W)`."""
        self._add(localization_error(heatmaps, masks, iou=self.iou, threshold=self.threshold), labels)


class MapAveragePrecision(DefinedMean):
    """Mean average precision of heatmaps as scores of the mask's pixels. See `average_precision`.

    >>> import torch
    >>> metric = MapAveragePrecision()
    >>> metric.update(torch.tensor([[[4.0, 3.0, 1.0, 0.0]]]), torch.tensor([[[1.0, 0.0, 1.0, 0.0]]]))
    >>> metric.compute()
    tensor(0.8333)
    """

    higher_is_better = True

    def update(self, heatmaps: Tensor, masks: Tensor, labels: Tensor | None = None) -> None:
        """Add raw heatmaps `(B, *s)` and masks `(B, *S)`."""
        self._add(average_precision(heatmaps, masks), labels)


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
