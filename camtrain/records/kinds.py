"""What the callbacks see, as plain frozen records: no Lightning, no logger, nothing that holds a model."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from camtrain.records.panels import Example, Gallery, Panels, Strip

RIGHT_GROUNDED = "right/grounded"
RIGHT_UNGROUNDED = "right/ungrounded"
WRONG_GROUNDED = "wrong/grounded"
WRONG_UNGROUNDED = "wrong/ungrounded"
CELLS = (RIGHT_GROUNDED, RIGHT_UNGROUNDED, WRONG_GROUNDED, WRONG_UNGROUNDED)

HEATMAPS = "cam/heatmaps"
FAILURES = "cam/failures"
MASKS_FILE = "masks.jpg"  # of a run whose alignment made masks: some of them, outlined


@dataclass(frozen=True)
class Scalars:
    """Numbers of one epoch by logged name.

    `logged` says that Lightning has sent them to the loggers already (`pl_module.log`), so that only the
    local files take them; sinks of loggers send those with `logged=False`.

    >>> Scalars({"cam/inside_energy/grad_cam": 0.25}, epoch=0, step=10).values["cam/inside_energy/grad_cam"]
    0.25
    """

    values: Mapping[str, float]
    epoch: int
    step: int
    logged: bool = True


@dataclass(frozen=True)
class FourCells:
    """How many predictions are right or wrong, on the object or off it: a count per cell of `CELLS`.

    >>> FourCells({RIGHT_GROUNDED: 3, RIGHT_UNGROUNDED: 1}, epoch=0, step=0).share(RIGHT_UNGROUNDED)
    0.25
    """

    counts: Mapping[str, int]
    epoch: int
    step: int

    def share(self, cell: str) -> float:
        """The cell's share of all counted predictions, in [0, 1]; NaN where none was counted."""
        total = sum(self.counts.values())
        return self.counts.get(cell, 0) / total if total else float("nan")


@dataclass(frozen=True)
class Verdict:
    """What is known about one class.

    ``verdict`` is "reliant", "undecided" or "not reliant". Where masks are guesses, "no evidence" takes the place of
    the last, and "suspect" stands for an effect that may come of a guess's mistakes: a person should look. "fair" is an
    effect whose cue a person has called fair evidence.

    ``effect`` in probability: what the class loses without its cue, or wins by it, whichever test decided,
    with the interval [``low``, ``high``]. ``placebo`` is the loss on another background of the *same* class.
    ``p_value`` is adjusted for the round's tests and classes, ``images`` the number of images of the class that were
    judged. Of ``transplants`` images of other classes ``flips`` become this class when they are given its cue, and
    ``placebo_flips`` when they are given that of a third class (NaN where there is none). ``where`` says in which part
    of the picture the cue lies, empty where that was not asked or is not clear; ``box`` is (left, top, width, height)
    in fractions of the frame, where it stays.

    >>> Verdict(0, "boat", "reliant", 0.4, 0.3, 0.5, 0.02, 0.001, 64).cue
    'background'
    """

    class_index: int
    class_name: str
    verdict: str
    effect: float
    low: float
    high: float
    placebo: float
    p_value: float
    images: int
    cue: str = "background"
    note: str = ""
    transplants: int = 0
    flips: int = 0
    placebo_flips: float = nan
    where: str = ""
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, eq=False)
class Verdicts:
    """The verdicts of one pass, a row per class, with examples, and strips that show where cues lie.

    >>> Verdicts((), epoch=0, step=0).flagged
    0
    """

    rows: tuple[Verdict, ...]
    epoch: int
    step: int
    examples: tuple[Example, ...] = ()
    strips: tuple[Strip, ...] = ()

    @property
    def flagged(self) -> int:
        """How many classes are reliant."""
        return sum(row.verdict == "reliant" for row in self.rows)

    @classmethod
    def of(
        cls,
        verdicts: Iterable[Verdict],
        epoch: int,
        step: int,
        examples: Iterable[Example] = (),
        strips: Iterable[Strip] = (),
    ) -> "Verdicts":
        """The record of a pass's verdicts.

        >>> Verdicts.of([], epoch=2, step=20).epoch
        2
        """
        return cls(tuple(verdicts), epoch, step, tuple(examples), tuple(strips))


@dataclass(frozen=True)
class Alert:
    """A message that should reach a person.

    >>> Alert("boat leans on its background", "effect 0.41", epoch=3, step=120).title
    'boat leans on its background'
    """

    title: str
    text: str
    epoch: int
    step: int


@dataclass(frozen=True)
class Histograms:
    """How many images lie in each of equally wide bins of [0, 1], by logged name.

    >>> Histograms({"cam/inside_energy_histogram/grad_cam": [3, 1]}, epoch=0, step=0).edges(2)
    [0.0, 0.5, 1.0]
    """

    counts: Mapping[str, Sequence[int]]
    epoch: int
    step: int

    @staticmethod
    def edges(bins: int) -> list[float]:
        """The edges of so many bins, one more than there are bins."""
        return [index / bins for index in range(bins + 1)]


@dataclass(frozen=True)
class ClassRow:
    """One true class in one pass: how many images, how many of them right, and where the evidence lay.

    Where units are something that is there or not (labels, regions, boxes), `images` counts the units that are there or
    were answered, of which so many were `missed` (there, not answered) or `invented` (the reverse); else both are None.

    `inside_energy` is the mean and `chance` the objects' mean share of the frame, NaN without masks; `cells` counts by
    cell, empty without masks.

    >>> ClassRow("boat", 8, 6, 0.4, {RIGHT_GROUNDED: 4}).accuracy
    0.75
    """

    class_name: str
    images: int
    right: int
    inside_energy: float
    cells: Mapping[str, int]
    chance: float = nan
    missed: int | None = None
    invented: int | None = None

    @property
    def accuracy(self) -> float:
        """The share of right answers; NaN without images."""
        return self.right / self.images if self.images else float("nan")


@dataclass(frozen=True)
class Classes:
    """The classes of one pass, and which were taken for which: `(true, predicted, count)`, zeros left out."""

    rows: tuple[ClassRow, ...]
    confusion: tuple[tuple[str, str, int], ...]
    epoch: int
    step: int


@dataclass(frozen=True)
class ConfidenceBin:
    """The answers whose confidence lies in [`low`, `high`): how many, their mean confidence, the share that is right.

    NaN where there is none.
    """

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """How good the answers of one pass are, and what their confidence is worth.

    `accuracy` has the 95 % interval `low`..`high`; `confidence` is the mean confidence; `error` the expected
    calibration error over the `bins`.

    >>> Calibration(100, 0.8, 0.71, 0.87, 0.9, 0.1, (), epoch=0, step=0).excess > 0
    True
    """

    images: int
    accuracy: float
    low: float
    high: float
    confidence: float
    error: float
    bins: tuple[ConfidenceBin, ...]
    epoch: int
    step: int

    @property
    def excess(self) -> float:
        """Mean confidence minus accuracy: above 0 where the network is too sure of itself."""
        return self.confidence - self.accuracy


@dataclass(frozen=True)
class MetricRow:
    """What a metric says of a method's heatmaps: the mean over `images` that have an answer, and its 95 % interval."""

    metric: str
    method: str
    mean: float
    low: float
    high: float
    images: int


@dataclass(frozen=True)
class Curve:
    """The mean confidence along a method's "insertion" or "deletion" curve and its 95 % band, by fraction of pixels."""

    kind: str
    method: str
    fractions: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Metrics:
    """Whether the heatmaps of a pass tell the truth: a row for each metric and method, and curves.

    >>> Metrics((MetricRow("insertion", "grad_cam", 0.6, 0.5, 0.7, 48),), (), epoch=0, step=0).rows[0].mean
    0.6
    """

    rows: tuple[MetricRow, ...]
    curves: tuple[Curve, ...]
    epoch: int
    step: int


@dataclass(frozen=True, eq=False)
class Setup:
    """What the explanations are made with (layers, methods, versions, masks): nested plain values, once per run.

    `masks` is a picture of the masks that deserve a look.
    """

    values: Mapping[str, Any]
    epoch: int
    step: int
    masks: UInt8[Tensor, "3 H W"] | None = None


@dataclass(frozen=True)
class Document:
    """Finished files of a run (report, verdicts) to keep with it under a name, and the numbers that sum it up."""

    name: str
    paths: tuple[Path, ...]
    summary: Mapping[str, Any]
    epoch: int
    step: int


Record = (
    Scalars
    | Panels
    | Gallery
    | FourCells
    | Histograms
    | Classes
    | Calibration
    | Metrics
    | Verdicts
    | Alert
    | Setup
    | Document
)
