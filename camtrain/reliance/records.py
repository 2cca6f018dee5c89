"""What the stages of a detection hand to each other: a pool, a design, effects, estimates, verdicts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from camtrain.errors import ConfigurationError
from camtrain.records.kinds import Verdict
from camtrain.swaps.compositing import dilate

__all__ = [
    "STICKER",
    "Criteria",
    "Design",
    "Effects",
    "Estimate",
    "Pace",
    "Pool",
    "Predict",
    "Progress",
    "Trial",
    "Verdict",
    "concatenate",
]

Predict = Callable[[Tensor], Tensor]  # images (B, C, H, W), as the network takes them -> logits (B, classes)
Progress = Callable[[str, int, int], object]  # what is done, images in this forward, images in all


def unheard(what: str, done: int, total: int) -> None:
    """Progress that nobody hears of."""


@dataclass(frozen=True)
class Pace:
    """How forwards are made: so many images at a time, on this device, and who hears of them."""

    batch_size: int = 64
    device: torch.device | str = "cpu"
    progress: Progress = unheard


STICKER = "sticker"  # a small thing that wins its class wherever it lies

Answer = Literal["reliant", "suspect", "undecided", "not reliant", "no evidence", "fair"]
Test = Literal["necessity", "sufficiency"]


@dataclass(frozen=True)
class Pool:
    """Annotated images, to be judged or to lend their backgrounds. Masks are 1 on the object."""

    images: Float[Tensor, "N C H W"]
    labels: Int[Tensor, " N"]
    masks: Float[Tensor, "N H W"]
    _grown: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def grown(self, pixels: int) -> Float[Tensor, "N H W"]:
        """The masks grown by so many pixels; each is made once, for all cues of a round."""
        if pixels not in self._grown:
            self._grown[pixels] = dilate(self.masks, pixels)
        return self._grown[pixels]

    @classmethod
    def empty(cls, size: Sequence[int]) -> "Pool":
        """No image of that size (C, H, W)."""
        return cls(torch.zeros(0, *size), torch.zeros(0, dtype=torch.int64), torch.zeros(0, *size[1:]))


@dataclass(frozen=True)
class Trial:
    """One choice of a network on trial: the images that are judged, those that lend, and its classes with their names.

    ``about`` is the label whose presence is the choice, -1 where there is but one choice.
    """

    pool: Pool
    lenders: Pool
    classes: tuple[int, ...]
    names: Sequence[str]
    about: int = -1

    def named(self, verdicts: Sequence[Verdict]) -> tuple[Verdict, ...]:
        """Verdicts on the presence of a label, by that label."""
        if self.about < 0:
            return tuple(verdicts)
        return tuple(replace(each, class_index=self.about, class_name=self.names[1]) for each in verdicts)


@dataclass(frozen=True)
class Design:
    """Which image meets which background: row i has one arm per donor class, arm 0 being its own class.

    ``classes[i, a]`` is the class of arm a's donor and ``donors[i, a]`` its index among the lenders, -1 where no
    donor was left. Within one pair of classes a donor serves at most once, so the pairs are independent.
    """

    labels: Int[Tensor, " N"]
    classes: Int[Tensor, "N D"]
    donors: Int[Tensor, "N D"]

    @property
    def forwards(self) -> int:
        """How many intervened images the design asks for."""
        return int((self.donors >= 0).sum())


@dataclass(frozen=True)
class Effects:
    """Probabilities before and after: ``after[i, a, b]`` is that of class ``classes[i, b]`` on arm a's background.

    ``before[i, b]`` is the same on the untouched image. NaN where an arm has no donor. ``cue`` is what the donors lent:
    their background, or only its tint, brightness or sharpness. ``answers[i, a]`` is what image i is taken for on
    arm a's background, -1 without a donor; None where answers were not kept. ``exchanged[i]`` is the share of image i's
    frame that lies off the mask as it was grown, ``overhang[i]`` how much of the mask's rim stands out too, NaN
    where that was not measured. ``off[i]`` is 1 where the donor's sticker lies off its object, else 0, NaN for unknown.
    """

    infill: str
    labels: Int[Tensor, " N"]
    classes: Int[Tensor, "N D"]
    donors: Int[Tensor, "N D"]
    before: Float[Tensor, "N D"]
    after: Float[Tensor, "N D D"]
    cue: str = "background"
    answers: Int[Tensor, "N D"] | None = None
    exchanged: Float[Tensor, " N"] | None = None
    overhang: Float[Tensor, " N"] | None = None
    off: Float[Tensor, " N"] | None = None

    def of(self, class_index: int) -> Bool[Tensor, " N"]:
        """Which rows are images of this class with a measured placebo (a background of the same class)."""
        return (self.labels == class_index) & ~self.after[:, 0, 0].isnan()


@dataclass(frozen=True)
class Criteria:
    """The rules of a decision, all effects in probability.

    ``alpha``: error rate over all classes, tests and cues of one round, see `adjust_families`. ``tau``: an effect up to
    this is nothing. ``limit``: "not reliant" asks for an upper bound below this. ``min_images``: fewer decide nothing.
    ``share``: the part of ``alpha`` that one round of several may spend on flags. ``fair``: the classes and cues that a
    person has called fair evidence.
    """

    alpha: float = 0.05
    tau: float = 0.02
    limit: float = 0.1
    min_images: int = 10
    resamples: int = 1000
    share: float = 1.0
    fair: frozenset[tuple[str, str]] = frozenset()

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise ConfigurationError(f"alpha is an error rate between 0 and 1, got {self.alpha}.")
        if not 0 <= self.tau < self.limit < 1:
            wrong = f"tau={self.tau} and limit={self.limit}"
            raise ConfigurationError(f"Effects need 0 <= tau < limit < 1, got {wrong}.")


@dataclass(frozen=True)
class Estimate:
    """One test of one class: effect, bootstrap error over ``units``, interval, and p-value against tau.

    A unit is an image for necessity and a donor (with all images it was lent to) for sufficiency.
    ``adjusted`` is the p-value after `adjust_families` over every class, test and cue of the round.
    """

    class_index: int
    test: Test
    effect: float
    error: float
    units: int
    low: float
    high: float
    p_value: float
    adjusted: float = 1.0
    cue: str = "background"


def check_least(name: str, value: int, least: int) -> None:
    """ConfigurationError for a number that is below the least it can be."""
    if value < least:
        raise ConfigurationError(f"{name} must be at least {least}, got {value}.")


def concatenate(parts: Sequence[Effects]) -> Effects:
    """The effects of several processes as one, donors renumbered so that they stay apart."""
    first, donors, offset = parts[0], [], 0
    for part in parts:
        donors.append(torch.where(part.donors >= 0, part.donors + offset, -1))
        offset = int(donors[-1].max()) + 1 if len(donors[-1]) else offset
    return Effects(
        first.infill,
        torch.cat([part.labels for part in parts]),
        torch.cat([part.classes for part in parts]),
        torch.cat(donors),
        torch.cat([part.before for part in parts]),
        torch.cat([part.after for part in parts]),
        first.cue,
        None if first.answers is None else torch.cat([part.answers for part in parts if part.answers is not None]),
        None if first.exchanged is None else torch.cat([p.exchanged for p in parts if p.exchanged is not None]),
        _overhangs(parts),
        None if first.off is None else torch.cat([part.off for part in parts if part.off is not None]),
    )


def _overhangs(parts: Sequence[Effects]) -> Tensor | None:
    """NaN for the parts where it was not measured; None where it was in none."""
    if all(part.overhang is None for part in parts):
        return None
    unknown = [torch.full((len(part.labels),), torch.nan, dtype=torch.float32) for part in parts]
    return torch.cat(
        [one if part.overhang is None else part.overhang for part, one in zip(parts, unknown, strict=True)]
    )
