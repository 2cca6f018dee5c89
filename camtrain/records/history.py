"""A run as read from its files."""

from dataclasses import dataclass, field
from math import ceil
from typing import Any

from camtrain.records.kinds import Verdict

NAN = float("nan")

Line = dict[str, Any]


class Moment(float):
    """A pass within an epoch: `Moment(1.25)` lies between the ends of epochs 1 and 2, a quarter into epoch 2.

    >>> print(Moment(1.25), Moment(-0.5))
    2 at 25 % 0 at 50 %
    """

    def __str__(self) -> str:
        epoch = ceil(self)
        return f"{epoch} at {100 * (self - epoch + 1):.0f} %"


Epoch = int | Moment


@dataclass(frozen=True)
class Pass:
    """The lines of one epoch under one key; `step` tells a later pass over the same epoch from an earlier one."""

    epoch: Epoch
    step: int
    items: list[Line]


@dataclass(frozen=True)
class History:
    """A run as read from its files: by name, key and epoch, epochs ascending; pictures are paths in the folder.

    Where an epoch has several passes its number is that of the last one, and the others are `Moment`s before it.

    `scalars[name][epoch]`, `panels[key][epoch].items`, `cells[epoch]` (counts by cell), `verdicts[epoch]`,
    `examples[epoch]` and `strips[epoch]`, `alerts` in order, `histograms[epoch][name]` (counts), `classes[epoch]` with
    `rows` and `confusion`, `calibrations[epoch]` and `galleries[epoch]` (the lines of these records),
    `metrics[epoch]` with `rows` and `curves`, `setup` of the explanations. What was not finite
    is NaN in scalars and None elsewhere.

    >>> History().epochs
    []
    """

    scalars: dict[str, dict[Epoch, float]] = field(default_factory=dict)
    panels: dict[str, dict[Epoch, Pass]] = field(default_factory=dict)
    cells: dict[Epoch, dict[str, int]] = field(default_factory=dict)
    verdicts: dict[Epoch, list[Verdict]] = field(default_factory=dict)
    examples: dict[Epoch, list[Line]] = field(default_factory=dict)
    strips: dict[Epoch, list[Line]] = field(default_factory=dict)
    alerts: list[Line] = field(default_factory=list)
    histograms: dict[Epoch, dict[str, list[int]]] = field(default_factory=dict)
    classes: dict[Epoch, Line] = field(default_factory=dict)
    calibrations: dict[Epoch, Line] = field(default_factory=dict)
    galleries: dict[Epoch, Line] = field(default_factory=dict)
    metrics: dict[Epoch, Line] = field(default_factory=dict)
    setup: dict[str, Any] = field(default_factory=dict)

    @property
    def epochs(self) -> list[Epoch]:
        """Every epoch that anything was recorded in, ascending."""
        tables: list[dict[Epoch, Any]] = [*self.scalars.values(), *self.panels.values(), self.cells, self.verdicts]
        return sorted({epoch for by_epoch in tables for epoch in by_epoch})
