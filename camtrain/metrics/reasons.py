"""Every right answer has two parts: the prediction and its reason. The 2x2 of both."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics import Metric

from camtrain.metrics.grounding import grounding


def reason_cells(
    correct: Bool[Tensor, " B"],
    heatmaps: Float[Tensor, "B *s"],
    masks: Float[Tensor, "B *S"],
    grounded_above: float = 0.2,
) -> Int[Tensor, " B"]:
    """The cell of each image: 0 right/grounded, 1 right/ungrounded, 2 wrong/grounded, 3 wrong/ungrounded.

    Grounded means that `grounding` (inside energy corrected for chance) exceeds `grounded_above`. An empty heatmap is
    not grounded; an image without an annotation, or whose mask is empty or full, is in no cell: -1.

    >>> heat = torch.tensor([[[4.0, 0.0]], [[0.0, 4.0]]])
    >>> reason_cells(torch.tensor([True, True]), heat, torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]]))
    tensor([0, 1])
    """
    flat = masks.flatten(1)
    askable = (flat >= 0).any(dim=1) & (flat > 0).any(dim=1) & (flat < 1).any(dim=1)
    grounded = grounding(heatmaps, masks) > grounded_above  # NaN, of an empty heatmap, is not above
    return torch.where(askable, 2 * (~correct).long() + (~grounded).long(), -1)


class ReasonCells(Metric):
    """How many images fall into each cell of `reason_cells`, over all batches and processes: `(4,)` counts.

    >>> metric = ReasonCells()
    >>> metric.update(torch.tensor([0, 1, 1, -1]))
    >>> metric.compute()
    tensor([1., 2., 0., 0.])
    """

    full_state_update = False
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
