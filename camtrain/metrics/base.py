"""What all metrics of this package share with torchmetrics' own: they plot, and keep their numbers in a collection."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class ImageMetric(Metric):
    """A metric over images whose numbers are its own in a `MetricCollection` too.

    A collection takes metrics whose states are equal after the first batch for one and the same; several of ours count
    in the same way what is not the same. An empty state named after class and `settings` tells them apart.
    """

    full_state_update = False

    def __init__(self, *settings: object, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        name = "_".join(map(str, (type(self).__name__, *settings))).replace(".", "_")
        self.add_state(name, torch.zeros(0), dist_reduce_fx="sum")

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Any = None) -> Any:
        """Draw a value of `forward` or `compute`, several of them over steps, or by default what `compute` gives."""
        return self._plot(val, ax)
