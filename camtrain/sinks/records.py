"""What the callbacks see, as plain frozen records: no Lightning, no logger, nothing that holds a model."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from math import isnan
from typing import Any

from jaxtyping import Bool, Float, UInt8
from torch import Tensor

RIGHT_GROUNDED = "right/grounded"
RIGHT_UNGROUNDED = "right/ungrounded"
WRONG_GROUNDED = "wrong/grounded"
WRONG_UNGROUNDED = "wrong/ungrounded"
CELLS = (RIGHT_GROUNDED, RIGHT_UNGROUNDED, WRONG_GROUNDED, WRONG_UNGROUNDED)

HEATMAPS = "cam/heatmaps"
FAILURES = "cam/failures"


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


@dataclass(frozen=True, eq=False)
class Panel:
    """One explained image: what it shows, what was said of it, and where the evidence lay.

    `sample` identifies the image over epochs. `image` and the `overlays` (by method) are uint8 RGB of one size;
    `mask` is above 0 on the object, None without an annotation; probabilities are in [0, 1]; `inside_energy`
    (by method) is in [0, 1] or NaN; `cell` is one of `CELLS`, None where it cannot be told.

    >>> import torch
    >>> image = torch.zeros(3, 2, 2, dtype=torch.uint8)
    >>> Panel("img-7", image, {}, 0, 1, "boat", "car", 0.97, 0.02, {"grad_cam": 0.12}).caption()
    'boat taken for car 97 % (boat 2 %) · inside energy 0.12 grad_cam'
    """

    sample: str
    image: UInt8[Tensor, "3 H W"]
    overlays: Mapping[str, UInt8[Tensor, "3 H W"]]
    label: int | None
    predicted: int | None
    label_name: str | None
    predicted_name: str | None
    probability: float
    true_probability: float | None = None
    inside_energy: Mapping[str, float] = field(default_factory=dict)
    cell: str | None = None
    mask: Bool[Tensor, "H W"] | UInt8[Tensor, "H W"] | Float[Tensor, "H W"] | None = None
    group_name: str | None = None

    @property
    def correct(self) -> bool | None:
        """Is the prediction the label; None where either is unknown."""
        if self.label is None or self.predicted is None:
            return None
        return self.label == self.predicted

    def caption(self) -> str:
        """One line: the classes, their probabilities in percent, the inside energy where it is a number."""
        known = {name: value for name, value in self.inside_energy.items() if not isnan(value)}
        energies = ", ".join(f"{value:.2f} {name}" for name, value in known.items())
        return self._classes() + (f" · inside energy {energies}" if energies else "")

    def _classes(self) -> str:
        said = f"{self.predicted_name} {100 * self.probability:.0f} %"
        if self.correct is not False:
            return said
        if self.true_probability is None:
            return f"{self.label_name} taken for {said}"
        return f"{self.label_name} taken for {said} ({self.label_name} {100 * self.true_probability:.0f} %)"


@dataclass(frozen=True, eq=False)
class Panels:
    """The panels of one pass under one key, `HEATMAPS` (the fixed probes) or `FAILURES`.

    >>> Panels(FAILURES, (), epoch=0, step=0).panels
    ()
    """

    key: str
    panels: tuple[Panel, ...]
    epoch: int
    step: int


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
class VerdictRow:
    """One class's verdict; the fields are those of `camtrain.reliance.Verdict`.

    `verdict` is "reliant", "not reliant" or "undecided"; `effect` and its interval `low`..`high` say what the
    intervention changes beyond what the `placebo` does; `images` is how many were used.

    >>> VerdictRow(0, "boat", "reliant", 0.4, 0.3, 0.5, 0.02, 0.001, 64).cue
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

    @classmethod
    def of(cls, verdict: Any) -> "VerdictRow":
        """The row of any object with these attributes; those it lacks keep their defaults.

        >>> VerdictRow.of(VerdictRow(0, "boat", "undecided", 0.1, -0.1, 0.3, 0.0, 0.4, 8)).class_name
        'boat'
        """
        names = [item.name for item in fields(cls)]
        return cls(**{name: getattr(verdict, name) for name in names if hasattr(verdict, name)})


@dataclass(frozen=True, eq=False)
class Example:
    """One intervention to believe a verdict by: the image before and after, and its class's probability then.

    >>> import torch
    >>> image = torch.zeros(3, 2, 2, dtype=torch.uint8)
    >>> Example("boat", image, image, before=0.98, after=0.11).after
    0.11
    """

    class_name: str
    original: UInt8[Tensor, "3 H W"]
    intervened: UInt8[Tensor, "3 H W"]
    before: float
    after: float
    caption: str = ""


@dataclass(frozen=True, eq=False)
class Verdicts:
    """The verdicts of one pass, a row per class, with examples.

    >>> Verdicts((), epoch=0, step=0).flagged
    0
    """

    rows: tuple[VerdictRow, ...]
    epoch: int
    step: int
    examples: tuple[Example, ...] = ()

    @property
    def flagged(self) -> int:
        """How many classes are reliant."""
        return sum(row.verdict == "reliant" for row in self.rows)

    @classmethod
    def of(cls, verdicts: Iterable[Any], epoch: int, step: int, examples: Iterable[Example] = ()) -> "Verdicts":
        """The record of a pass's verdicts, which may be `camtrain.reliance.Verdict` objects.

        >>> Verdicts.of([], epoch=2, step=20).epoch
        2
        """
        return cls(tuple(map(VerdictRow.of, verdicts)), epoch, step, tuple(examples))


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


Record = Scalars | Panels | FourCells | Verdicts | Alert
