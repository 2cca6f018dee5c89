"""A class's cue given to images of other classes: how many become that class. The picture that convinces."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from jaxtyping import Int
from torch import Tensor

from camtrain.reliance.records import Effects, Verdict

__all__ = ["Transplant", "flipped", "sentence", "transplant", "with_transplants"]


@dataclass(frozen=True)
class Transplant:
    """How many images of other classes become a class with its cue.

    Of ``images`` that are not taken for the class as they are, nor with the cue of another image of their own class,
    ``flips`` are taken for it with the class's cue, and ``placebo_flips`` with the cue of a third class, in the mean
    over third classes: NaN where no image met one, as with two classes.
    """

    class_index: int
    images: int
    flips: int
    placebo_flips: float

    @property
    def flip_rate(self) -> float:
        """The share that becomes the class; NaN without images."""
        return self.flips / self.images if self.images else math.nan


def transplant(effects: Effects, class_index: int) -> Transplant:
    """Count the flips in what was measured already: no forward is made.

    Every other image that met a donor of the class and one of its own class counts once. Without kept answers, or
    without such images, the counts are 0.

    >>> import torch
    >>> effects = Effects("fill", torch.tensor([1, 1]), torch.tensor([[1, 0, 2], [1, 0, 2]]),
    ...     torch.tensor([[3, 4, 5], [4, 3, 6]]), torch.eye(3)[[0, 0]], torch.zeros(2, 3, 3),
    ...     answers=torch.tensor([[1, 0, 1], [1, 1, 0]]))
    >>> transplant(effects, 0)
    Transplant(class_index=0, images=2, flips=1, placebo_flips=1.0)
    """
    rows, arms = _pairs(effects, class_index)
    if effects.answers is None or not len(rows):
        return Transplant(class_index, 0, 0, math.nan)
    answers = effects.answers[rows]
    became = answers.gather(1, arms.unsqueeze(1)).squeeze(1) == class_index
    third = (effects.donors[rows] >= 0) & (effects.classes[rows] != class_index)
    third[:, 0] = False
    taken = ((answers == class_index) & third).sum(dim=1) / third.sum(dim=1)  # NaN where it met no third class
    placebo = float(taken.nanmean()) * len(rows)
    return Transplant(class_index, len(rows), int(became.sum()), placebo)


def flipped(effects: Effects, class_index: int) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """The images that become the class and the arms that made them, the class's largest gain first.

    >>> import torch
    >>> effects = Effects("fill", torch.tensor([1]), torch.tensor([[1, 0]]), torch.tensor([[3, 4]]),
    ...     torch.tensor([[0.9, 0.1]]), torch.zeros(1, 2, 2), answers=torch.tensor([[1, 0]]))
    >>> flipped(effects, 0)
    (tensor([0]), tensor([1]))
    """
    rows, arms = _pairs(effects, class_index)
    if effects.answers is None:
        return rows[:0], arms[:0]
    became = effects.answers[rows, arms] == class_index
    rows, arms = rows[became], arms[became]
    gain = effects.after[rows, arms, arms] - effects.before[rows, arms]
    order = gain.argsort(descending=True, stable=True)
    return rows[order], arms[order]


def with_transplants(verdicts: Sequence[Verdict], effects: Mapping[str, Effects]) -> tuple[Verdict, ...]:
    """The verdicts, those that are reliant or suspect with what their cue does to other classes' images."""
    return tuple(_with_transplant(one, effects) for one in verdicts)


def sentence(verdict: Verdict) -> str:
    """What the transplants of a verdict say; empty where there are none.

    >>> one = Verdict(0, "boat", "reliant", 0.3, 0.2, 0.4, 0.0, 0.001, 30, "background", "", 60, 42, 1.8)
    >>> sentence(one)
    '42 of 60 other images become boat with its background, placebo 2'
    """
    if not verdict.transplants:
        return ""
    placebo = "" if math.isnan(verdict.placebo_flips) else f", placebo {verdict.placebo_flips:.0f}"
    given = f"become {verdict.class_name} with its {verdict.cue}"
    return f"{verdict.flips} of {verdict.transplants} other images {given}{placebo}"


def _with_transplant(verdict: Verdict, effects: Mapping[str, Effects]) -> Verdict:
    if verdict.verdict not in ("reliant", "suspect") or verdict.cue not in effects:
        return verdict
    found = transplant(effects[verdict.cue], verdict.class_index)
    return replace(verdict, transplants=found.images, flips=found.flips, placebo_flips=found.placebo_flips)


def _pairs(effects: Effects, class_index: int) -> tuple[Tensor, Tensor]:
    """Rows of other classes with an arm of the class, that are not taken for it without its cue."""
    met = (effects.classes == class_index) & (effects.donors >= 0)
    met[:, 0] = False
    met &= (effects.labels != class_index).unsqueeze(1) & (effects.donors[:, :1] >= 0)
    met &= effects.before < effects.before.amax(dim=1, keepdim=True)  # of the classes that were met, not the likeliest
    if effects.answers is not None:
        met &= effects.answers[:, :1] != class_index
    rows, arms = met.nonzero().unbind(dim=1)
    return rows, arms
