"""What every task can be asked: its units, their evidence, their loss."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from camtrain.cam import find_logits
from camtrain.errors import BatchError


@runtime_checkable
class Asked(Protocol):
    """A batch as `camtrain.data.read_batch` reads it: what a network was asked."""

    @property
    def images(self) -> Tensor:
        """`(B, C, *S)`."""

    @property
    def labels(self) -> Any:
        """What is true, in the task's form; or None."""

    @property
    def masks(self) -> Tensor | None:
        """`(B, *S)`, or `(B, C, *S)` with one for each label; or None."""


@dataclass(frozen=True, eq=False)
class Units:
    """A round of units: at most one of each image, so that one backward pass explains them all.

    A unit is what is explained, judged and counted: an image; an image and a label; a region; a box; a word. All
    tensors are `(B,)` on the answer's device; images without a unit in this round have `asked` False, and their other
    values mean nothing.

    Attributes:
        scores: differentiable; what the heatmap explains.
        asked: which images have a unit in this round.
        about: the class, label, output or token that the unit is about, -1 for none.
        labels: what is true, float: a class index, 0 or 1, a value; NaN where it is not known.
        predictions: what was answered, in the same form; NaN where the answer is not finite, which is no answer.
        right: whether the answer is true; False where that is not known.
        confidence: the probability that the network gives its own answer, in [0, 1]; for values, NaN.
        true_probability: the probability of what is true, NaN where it is not known.
        loss: the network's loss on this unit, NaN where the truth is not known.
        masks: `(B, *S)`, where the evidence should be; -1 everywhere where that is not known; None if no unit has one.
        name: of the round, where its units are about one thing in all images ("word 3"); else empty.
    """

    scores: Tensor
    asked: Bool[Tensor, " B"]
    about: Int[Tensor, " B"]
    labels: Float[Tensor, " B"]
    predictions: Float[Tensor, " B"]
    right: Bool[Tensor, " B"]
    confidence: Float[Tensor, " B"]
    true_probability: Float[Tensor, " B"]
    loss: Float[Tensor, " B"]
    masks: Float[Tensor, "B *S"] | None = None
    name: str = ""

    @property
    def are_known(self) -> Bool[Tensor, " B"]:
        """Of which units the truth is known, and there is an answer."""
        return self.asked & ~self.labels.isnan() & ~self.predictions.isnan()

    def chosen(self, rows: Int[Tensor, " N"]) -> "Units":
        """Those of some images."""
        return self._mapped(lambda each: each[rows])

    def detached(self) -> "Units":
        """The same without a graph."""
        return self._mapped(Tensor.detach)

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> "Units":
        given: dict[str, Any] = {item.name: getattr(self, item.name) for item in fields(self)}
        changes: dict[str, Any] = {name: change(each) for name, each in given.items() if isinstance(each, Tensor)}
        return replace(self, **changes)


class Task(ABC):
    """One way to read what a network answers. A subclass defines `units`, `evidence` and `losses`, or less.

    Tasks hold no state of a run and can be pickled.

    Attributes:
        name: that the callbacks take.
        form: what `Units.labels` and `Units.predictions` are: a "choice" between classes (an index), the "presence" of
            what the unit is about (0 or 1), or a "value".
        one_unit: whether an image is its only unit.
        whole_output: whether `read` wants all that the network returned, not the logits in it.
    """

    name: ClassVar[str]
    form: ClassVar[Literal["choice", "presence", "value"]] = "choice"
    one_unit: ClassVar[bool] = True
    whole_output: ClassVar[bool] = False

    def read(self, output: Any) -> Tensor:
        """The logits in a network's output, in this task's form. BatchError where they are not there."""
        return find_logits(output)

    @abstractmethod
    def units(self, output: Any, batch: Asked) -> list[Units]:
        """What is explained and judged of a batch, in rounds. BatchError for labels that are not of this task."""

    @abstractmethod
    def evidence(self, output: Any, labels: Any) -> Float[Tensor, " B"]:
        """What alignment explains: the log-likelihood of what is true, differentiable; 0 where that is not known."""

    @abstractmethod
    def losses(self, output: Any, labels: Any) -> Float[Tensor, " B"]:
        """The loss of each image on its label, differentiable; 0 where the label is not known."""

    def known(self, labels: Any) -> Bool[Tensor, " B"]:
        """Of which images anything is known."""
        values = labels.reshape(len(labels), -1)
        return ~are_unknown(values).all(dim=1)

    def views(self, output: Any, labels: Any) -> "list[View]":
        """The answers as choices between classes, which interventions can move; none where there are no choices."""
        return []

    def blank(self, batch: Asked) -> Any:
        """An output that answers nothing, for what labels alone tell. BatchError where the task has none."""
        raise BatchError(f"{self.name} has no output that answers nothing.")

    def objects(self, batch: Asked, count: int) -> Tensor | None:
        """The masks of a batch, `(B, *S)` or one for each of `count` views; by default those that it holds."""
        return batch.masks

    def count(self, output: Any) -> int:
        """How many classes, labels or words `Units.about` may count."""
        return int(self.read(output).shape[1])

    def names(self, classes: Sequence[str]) -> list[str]:
        """What `Units.about` counts, in words; by default the classes."""
        return list(classes)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


@dataclass(frozen=True, eq=False)
class View:
    """One choice between classes.

    Attributes:
        logits: `(B, C)` with at least two classes.
        labels: `(B,)` int64, -1 where it is not known; None if there are none.
        about: the label that the choice is about, -1 where there is but one choice.
    """

    logits: Float[Tensor, "B C"]
    labels: Int[Tensor, " B"] | None
    about: int = -1


def are_unknown(labels: Tensor) -> Tensor:
    """Which labels say nothing: negative or NaN, as -1 and -100 are.

    >>> are_unknown(torch.tensor([1.0, -1.0, float("nan"), -100.0]))
    tensor([False,  True,  True,  True])
    """
    return ~(labels >= 0)


def in_float(logits: Tensor) -> Tensor:
    """In at least float32, where probabilities are computed."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
