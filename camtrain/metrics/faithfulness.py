"""torchmetrics classes over confidences, curves and rank correlations; images without an answer are left out.

Each takes `num_classes` for a mean of each class, see `NanMean`.
"""

from torch import Tensor

from camtrain.metrics.functional.faithfulness import (
    average_drop,
    confidence_increase,
    curve_area,
    highest_confidence,
    rank_correlation,
    win,
)
from camtrain.metrics.intervals import DefinedMean


class AverageDrop(DefinedMean):
    """Mean share of the confidence that is lost when only the heated pixels are left. See `average_drop`.

    >>> import torch
    >>> metric = AverageDrop()
    >>> metric.update(torch.tensor([0.5, 0.5]), torch.tensor([0.125, 0.75]))
    >>> metric.compute()
    tensor(0.3750)
    """

    higher_is_better = False

    def update(self, before: Tensor, after: Tensor, labels: Tensor | None = None) -> None:
        """Add confidences `(B,)` in the images and in what the heatmaps left, of `masked_confidences`."""
        self._add(average_drop(before, after), labels)


class ConfidenceIncrease(DefinedMean):
    """How often the model is more confident of the heated pixels alone. See `confidence_increase`.

    >>> import torch
    >>> metric = ConfidenceIncrease()
    >>> metric.update(torch.tensor([0.5, 0.5]), torch.tensor([0.125, 0.75]))
    >>> metric.compute()
    tensor(0.5000)
    """

    higher_is_better = True

    def update(self, before: Tensor, after: Tensor, labels: Tensor | None = None) -> None:
        """Add confidences `(B,)` in the images and in what the heatmaps left, of `masked_confidences`."""
        self._add(confidence_increase(before, after), labels)


class Win(DefinedMean):
    """How often a method's drop is smaller than another's. See `win`.

    >>> import torch
    >>> metric = Win()
    >>> metric.update(torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75]), torch.tensor([0.125, 0.75]))
    >>> metric.compute()
    tensor(0.5000)
    """

    higher_is_better = True

    def update(self, before: Tensor, after: Tensor, other: Tensor, labels: Tensor | None = None) -> None:
        """Add confidences `(B,)` in the images, in what this method left and in what the other left."""
        self._add(win(before, after, other), labels)


class InsertionAUC(DefinedMean):
    """Mean area under the confidence while pixels appear, the hottest first. See `insertion_deletion`.

    >>> import torch
    >>> metric = InsertionAUC()
    >>> metric.update(torch.tensor([[0.0, 0.8, 1.0]]), torch.tensor([0.0, 0.5, 1.0]))
    >>> metric.compute()
    tensor(0.6500)
    """

    higher_is_better = True

    def update(self, insertion: Tensor, fractions: Tensor, labels: Tensor | None = None) -> None:
        """Add insertion curves `(B, P)` over the fractions `(P,)` of pixels revealed."""
        self._add(curve_area(insertion, fractions), labels)


class DeletionAUC(DefinedMean):
    """Mean area under the confidence while pixels vanish, the hottest first. See `insertion_deletion`.

    >>> import torch
    >>> metric = DeletionAUC()
    >>> metric.update(torch.tensor([[1.0, 0.2, 0.0]]), torch.tensor([0.0, 0.5, 1.0]))
    >>> metric.compute()
    tensor(0.3500)
    """

    higher_is_better = False

    def update(self, deletion: Tensor, fractions: Tensor, labels: Tensor | None = None) -> None:
        """Add deletion curves `(B, P)` over the fractions `(P,)` of pixels removed."""
        self._add(curve_area(deletion, fractions), labels)


class AverageHighestConfidence(DefinedMean):
    """Mean of the highest confidence along each insertion curve. See `highest_confidence`.

    >>> import torch
    >>> metric = AverageHighestConfidence()
    >>> metric.update(torch.tensor([[0.1, 0.4, 0.2], [0.0, 0.1, 0.2]]))
    >>> metric.compute()
    tensor(0.3000)
    """

    higher_is_better = True

    def update(self, insertion: Tensor, labels: Tensor | None = None) -> None:
        """Add insertion curves `(B, P)` of the true class."""
        self._add(highest_confidence(insertion), labels)


class OcclusionCorrelation(DefinedMean):
    """Mean rank correlation of heatmaps with occlusion maps. See `rank_correlation`, `camtrain.cam.occlusion_map`.

    >>> import torch
    >>> metric = OcclusionCorrelation()
    >>> metric.update(torch.tensor([[[1.0, 2.0, 4.0]]]), torch.tensor([[[0.0, 9.0, 1.0]]]))
    >>> metric.compute()
    tensor(0.5000)
    """

    higher_is_better = True

    def update(self, heatmaps: Tensor, occlusion_maps: Tensor, labels: Tensor | None = None) -> None:
        """Add raw heatmaps `(B, *s)` and occlusion maps `(B, *S)`."""
        self._add(rank_correlation(heatmaps, occlusion_maps), labels)
