"""Accuracy by group: an average hides the group that a shortcut fails."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


def group_accuracy(correct: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """Accuracy of each group, `(num_groups,)`, NaN for a group without images.

    `correct` is `(B,)` bool, `groups` `(B,)` in `0 .. num_groups - 1`; images of group -1 belong to none.

    >>> group_accuracy(torch.tensor([True, False, True]), torch.tensor([0, 0, 2]), 3)
    tensor([0.5000,    nan, 1.0000])
    """
    hits, counts = _tally(correct, groups, num_groups)
    return hits / torch.where(counts > 0, counts, torch.nan)


def worst_group_accuracy(correct: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """The lowest accuracy of any group that has images; NaN without any. Source: Sagawa et al. 2020.

    >>> worst_group_accuracy(torch.tensor([True, False, True]), torch.tensor([0, 0, 2]), 3)
    tensor(0.5000)
    """
    return _lowest(group_accuracy(correct, groups, num_groups))


def _tally(correct: Tensor, groups: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    known = groups >= 0
    if bool((groups >= num_groups).any()):
        raise ValueError(
            f"Group {int(groups.max())} is outside the {num_groups} groups: pass num_groups > {int(groups.max())}."
        )
    counts = torch.bincount(groups[known], minlength=num_groups).float()
    return torch.bincount(groups[known], weights=correct[known].float(), minlength=num_groups).float(), counts


def _lowest(accuracies: Tensor) -> Tensor:
    present = accuracies[~torch.isnan(accuracies)]
    return present.min() if present.numel() else accuracies.new_tensor(torch.nan)


class GroupAccuracy(Metric):
    """Accuracy of each group over all batches and processes, `(num_groups,)`.

    >>> metric = GroupAccuracy(num_groups=2)
    >>> metric.update(torch.tensor([1, 1]), torch.tensor([1, 0]), torch.tensor([0, 1]))
    >>> metric.compute()
    tensor([1., 0.])
    """

    full_state_update = False
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
        hits, counts = _tally(classes == labels, groups, self.num_groups)
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
        return _lowest(super().compute())
