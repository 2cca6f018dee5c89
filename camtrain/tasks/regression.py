"""A value an image: age, size, angle, count."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from camtrain.errors import BatchError, ConfigurationError
from camtrain.tasks.base import Asked, Task, Units, View, in_float
from camtrain.tasks.classification import describe

RANGE = 4.0  # spreads of the labels: what a choice between low and high tells apart


class Regression(Task):
    """A value an image: outputs `(B,)` or `(B, 1)`, labels of the same shape; NaN is unknown (a negative value is not).

    A unit is an image. Explained is what speaks for the answer: what raises the value where it lies above `center`,
    what lowers it where it lies below (`Units.about` is 1 or 0). An answer is right that lies within `tolerance` label
    spreads of the truth; the loss is the squared error in spreads.

    Args:
        center: the usual value; the mean of the first batch's labels if None.
        spread: the standard deviation of the labels, above 0; that of the first batch if None.
        tolerance: how many spreads off still count as right, above 0.

    >>> from types import SimpleNamespace
    >>> batch = SimpleNamespace(images=None, labels=torch.tensor([1.0, 5.0]), masks=None)
    >>> unit, = Regression(center=2.0, spread=2.0).units(torch.tensor([1.5, 8.0]), batch)
    >>> unit.right.tolist(), unit.scores.tolist()
    ([True, False], [-1.5, 8.0])
    """

    name = "regression"
    form = "value"

    def __init__(self, center: float | None = None, spread: float | None = None, tolerance: float = 0.5) -> None:
        for what, value in (("spread", spread), ("tolerance", tolerance)):
            if value is not None and not value > 0:
                raise ConfigurationError(f"Regression({what}=...) is above 0; got {value}.")
        self.center, self.spread, self.tolerance = center, spread, tolerance

    def read(self, output: Any) -> Float[Tensor, " B"]:
        """`(B,)`."""
        values = super().read(output)
        if values.ndim == 0 or values.numel() != len(values):
            raise BatchError(
                f"A regression has one value an image, (B,) or (B, 1); the network gave {tuple(values.shape)}. Choose "
                "one in a task of your own, or explain it with the target regression_output(index)."
            )
        return values.reshape(-1)

    def truth(self, labels: Any, count: int) -> Float[Tensor, " B"]:
        """The labels `(B,)` in float32. BatchError for others."""
        if not isinstance(labels, Tensor) or labels.shape not in ((count,), (count, 1)):
            raise BatchError(f"A regression's labels are numbers of shape ({count},); got {describe(labels)}.")
        return labels.reshape(-1).float()

    def fitted(self, labels: Tensor) -> "Regression":
        """With the center and the spread of these labels where none was given. BatchError where they do not vary."""
        values = self.truth(labels, len(labels))
        values = values[values.isfinite()]
        if self.center is not None and self.spread is not None:
            return self
        if len(values) < 2 or not float(values.std()) > 0:
            raise BatchError(
                f"The spread of a regression's labels cannot be told from {len(values)} that do not vary: give "
                "task=Regression(center=..., spread=...)."
            )
        center = float(values.mean()) if self.center is None else self.center
        spread = float(values.std()) if self.spread is None else self.spread
        return Regression(center, spread, self.tolerance)

    def units(self, output: Any, batch: Asked) -> list[Units]:
        """An image each."""
        values = self.read(output)
        answers = in_float(values.detach())
        unknown = torch.full_like(answers, torch.nan)
        labels = unknown if batch.labels is None else self.truth(batch.labels, len(values)).to(answers)
        task = self if self.spread is not None and self.center is not None else self.fitted(labels)
        assert task.center is not None and task.spread is not None  # noqa: PT018
        high = answers > task.center
        errors = (answers - labels) / task.spread
        return [
            Units(
                scores=torch.where(high, values, -values),
                asked=torch.ones_like(high),
                about=high.long(),
                labels=labels,
                predictions=torch.where(answers.isfinite(), answers, torch.nan),
                right=errors.abs() <= self.tolerance,
                confidence=unknown,
                true_probability=unknown,
                loss=errors.square(),
                masks=batch.masks,
            )
        ]

    def evidence(self, output: Any, labels: Any) -> Float[Tensor, " B"]:
        """Minus half the squared error in spreads: a normal log-likelihood, but for a constant."""
        return -0.5 * self.losses(output, labels)

    def losses(self, output: Any, labels: Any) -> Float[Tensor, " B"]:
        """The squared error in spreads."""
        values = in_float(self.read(output))
        truth = self.truth(labels, len(values)).to(values)
        errors = torch.where(truth.isfinite(), values - truth, 0) / (self.spread or 1.0)
        return errors.square()

    def count(self, output: Any) -> int:
        """Below the center, and above it."""
        return 2

    def views(self, output: Any, labels: Any) -> list[View]:
        """A choice between low and high, whose probability rises by `1 / RANGE` with every spread of the labels.

        It is 0 or 1 where the answer lies beyond `RANGE / 2` spreads of the center.
        """
        values = in_float(self.read(output))
        assert self.center is not None and self.spread is not None  # noqa: PT018  fitted by the first batch
        high = ((values - self.center) / (RANGE * self.spread) + 0.5).clamp(1e-6, 1 - 1e-6)
        chosen = None
        if labels is not None:
            truth = self.truth(labels, len(values)).to(values)
            chosen = torch.where(truth.isfinite(), (truth > self.center).long(), -1)
        return [View(torch.stack([1 - high, high], dim=1).log(), chosen)]

    def known(self, labels: Any) -> Tensor:
        """Of which images the value is known."""
        return self.truth(labels, len(labels)).isfinite()

    def names(self, classes: Any) -> list[str]:
        """Below the center and above it."""
        return ["low", "high"]

    def __repr__(self) -> str:
        return f"Regression(center={self.center}, spread={self.spread}, tolerance={self.tolerance})"
