"""The weight that takes care of itself: the penalty's gradient is kept at a fraction of the task's."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_KEPT = 0.9  # of the running means, at each measurement
_FIRST, _EVERY = 10, 10  # steps that are all measured, then each so many-th
_MOST = 100.0
_HALF_SCALE = 1024.0  # float16 gradients at a feature map would vanish


class Balance:
    """Running means of two squared gradient norms per image at the feature layer, and the weight that balances them.

    Both are measured where the penalty is read, at the activations: only the head is differentiated. Counted for one
    image each, they give the same weight whether all images of a batch are annotated or a few. Of the penalty's running
    mean the highest so far counts: a penalty that is nearly satisfied fades, and is not blown up again. Source: the
    idea of gradient normalization (Chen et al. 2018, GradNorm), with one fixed ratio and no training of the weight.

    >>> balance = Balance(0.5)
    >>> balance.add(task=4.0, penalty=1.0)
    >>> balance.weight
    1.0
    """

    def __init__(self, ratio: float) -> None:
        self.ratio = ratio
        self.measured = 0
        self._task = self._penalty = self._highest = 0.0
        self._pending: Tensor | None = None

    @property
    def weight(self) -> float:
        """Of the penalty; 0 before the first measurement, at most 100."""
        if self._highest <= 0 or self._task <= 0:
            return 0.0
        return min(self.ratio * math.sqrt(self._task / self._highest), _MOST)

    def is_due(self, step: int) -> bool:
        """Whether this step is measured."""
        return step < _FIRST or step % _EVERY == 0

    def add(self, task: float, penalty: float) -> None:
        """Take a measurement of the squared norms into the means; one that is not finite is left out."""
        if not (0 <= task < float("inf") and 0 <= penalty < float("inf")) or task + penalty == 0:
            return
        kept = min(_KEPT, self.measured / (self.measured + 1))
        self._task = kept * self._task + (1 - kept) * task
        self._penalty = kept * self._penalty + (1 - kept) * penalty
        self._highest = max(self._highest, self._penalty)
        self.measured += 1

    def state(self) -> list[float]:
        """For a checkpoint."""
        return [float(self.measured), self._task, self._penalty, self._highest]

    def restore(self, state: Sequence[float]) -> None:
        """From a checkpoint."""
        self.measured, (self._task, self._penalty, self._highest) = int(state[0]), state[1:]


def squared_norms(task: Tensor, penalty: Tensor, activations: Sequence[Tensor]) -> Tensor:
    """The squared norms of the gradients of both at the activations, summed over layers: `(2,)`, on their device.

    Zero where one does not depend on them. The graph is kept.
    """
    scale = _HALF_SCALE if any(a.dtype == torch.float16 for a in activations) else 1.0
    return torch.stack([_squared_norm(value, activations, scale) for value in (task, penalty)])


def _squared_norm(value: Tensor, activations: Sequence[Tensor], scale: float) -> Tensor:
    none = torch.zeros((), device=activations[0].device)
    if not value.requires_grad:
        return none
    gradients: Any = torch.autograd.grad(value * scale, activations, retain_graph=True, allow_unused=True)
    squares = [(g.float() / scale).square().sum() for g in gradients if g is not None]
    return torch.stack(squares).sum() if squares else none
