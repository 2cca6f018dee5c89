"""Does the heatmap outline the object? torchmetrics classes; images without an answer are left out.

Each takes `num_classes` for a mean of each class, see `NanMean`.
"""

from typing import Any

from torch import Tensor

from camtrain.metrics.functional.localization import average_precision, heatmap_iou, localization_error
from camtrain.metrics.intervals import DefinedMean


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
        super().__init__(num_classes, threshold, **kwargs)
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
        super().__init__(num_classes, iou, threshold, **kwargs)
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
