"""Single images that show what a round measured: those that lose by another background, and those that become a class.

A class's cue given to images of other classes, and how many become that class: the picture that convinces.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from camtrain.reliance.records import Effects, Test, Verdict

__all__ = [
    "Instance",
    "Transplant",
    "change_of",
    "flagged",
    "flipped",
    "illustrate",
    "losses",
    "pictured",
    "sentence",
    "transplant",
    "transplanted",
    "wins",
    "with_transplants",
]


@dataclass(frozen=True)
class Instance:
    """One image on one lender's background, by their indices, and the class's probability before and after."""

    class_index: int
    test: Test
    image: int
    donor: int
    before: float
    after: float


def flagged(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The reliant ones, largest effect first."""
    return sorted((v for v in verdicts if v.verdict == "reliant"), key=lambda v: -v.effect)


def pictured(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The flagged ones, and after them those that a person should look at."""
    doubtful = [v for v in verdicts if v.verdict == "suspect"]
    return [*flagged(verdicts), *sorted(doubtful, key=lambda v: -v.effect)]


def illustrate(effects: Effects, class_index: int, *, count: int = 2) -> tuple[Instance, ...]:
    """The images that show it best: most lost on another background, or won by the class's own on other objects.

    Whichever changes more on average is shown, one background per image; empty where nothing was measured.

    >>> effects = Effects("fill", torch.tensor([0]), torch.tensor([[0, 1]]), torch.tensor([[1, 2]]),
    ...     torch.tensor([[0.9, 0.1]]), torch.tensor([[[0.75, 0.25], [0.25, 0.75]]]))
    >>> [(one.test, one.donor, round(one.after, 2)) for one in illustrate(effects, 0)]
    [('necessity', 2, 0.25)]
    """
    lost, won = losses(effects, class_index), wins(effects, class_index)
    shown = max(lost, won, key=lambda group: sum(map(change_of, group)) / max(1, len(group)))
    best: dict[int, Instance] = {}
    for one in sorted(shown, key=change_of, reverse=True):
        best.setdefault(one.image, one)
    return tuple(best.values())[:count]


def change_of(one: Instance) -> float:
    """What the class loses or wins, whichever the test is about."""
    change = one.before - one.after
    return change if one.test == "necessity" else -change


def losses(effects: Effects, class_index: int) -> list[Instance]:
    """Images of the class on other classes' backgrounds."""
    after = effects.after[:, 1:, 0]
    rows, arms = ((effects.labels == class_index).unsqueeze(1) & ~after.isnan()).nonzero().unbind(dim=1)
    return _instances(effects, class_index, "necessity", rows, arms + 1, torch.zeros_like(arms))


def wins(effects: Effects, class_index: int) -> list[Instance]:
    """Other classes' images on backgrounds of the class."""
    met = (effects.classes == class_index) & (effects.donors >= 0)
    rows, arms = met.nonzero().unbind(dim=1)
    rows, arms = rows[arms > 0], arms[arms > 0]
    return _instances(effects, class_index, "sufficiency", rows, arms, arms)


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


def transplanted(effects: Effects, class_index: int, count: int) -> tuple[Instance, ...]:
    """Different images of other classes that become the class with its cue, the surest first."""
    best: dict[int, Instance] = {}
    for row, arm in zip(*(found.tolist() for found in flipped(effects, class_index)), strict=True):
        before, after = float(effects.before[row, arm]), float(effects.after[row, arm, arm])
        donor = int(effects.donors[row, arm])
        best.setdefault(row, Instance(class_index, "sufficiency", row, donor, before, after))
    return tuple(best.values())[:count]


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


def _instances(
    effects: Effects, class_index: int, test: Test, rows: Tensor, arms: Tensor, columns: Tensor
) -> list[Instance]:
    donors, before = effects.donors[rows, arms].tolist(), effects.before[rows, columns].tolist()
    after = effects.after[rows, arms, columns].tolist()
    found = zip(rows.tolist(), donors, before, after, strict=True)
    return [Instance(class_index, test, *values) for values in found]


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
