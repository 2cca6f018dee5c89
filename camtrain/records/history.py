"""A run as read from its files."""

from dataclasses import dataclass, field
from typing import Any

from camtrain.records.kinds import VerdictRow

NAN = float("nan")

Line = dict[str, Any]


@dataclass(frozen=True)
class Pass:
    """The lines of one epoch under one key; `step` tells a later pass over the same epoch from an earlier one."""

    epoch: int
    step: int
    items: list[Line]


@dataclass(frozen=True)
class History:
    """A run as read from its files: by name, key and epoch, epochs ascending; pictures are paths in the folder.

    `scalars[name][epoch]`, `panels[key][epoch].items`, `cells[epoch]` (counts by cell), `verdicts[epoch]`,
    `examples[epoch]` and `strips[epoch]`, `alerts` in order, `histograms[epoch][name]` (counts), `classes[epoch]` with
    `rows` and `confusion`, `metrics[epoch]` with `rows` and `curves`, `setup` of the explanations. What was not finite
    is NaN in scalars and None elsewhere.

    >>> History().epochs
    []
    """

    scalars: dict[str, dict[int, float]] = field(default_factory=dict)
    panels: dict[str, dict[int, Pass]] = field(default_factory=dict)
    cells: dict[int, dict[str, int]] = field(default_factory=dict)
    verdicts: dict[int, list[VerdictRow]] = field(default_factory=dict)
    examples: dict[int, list[Line]] = field(default_factory=dict)
    strips: dict[int, list[Line]] = field(default_factory=dict)
    alerts: list[Line] = field(default_factory=list)
    histograms: dict[int, dict[str, list[int]]] = field(default_factory=dict)
    classes: dict[int, Line] = field(default_factory=dict)
    metrics: dict[int, Line] = field(default_factory=dict)
    setup: dict[str, Any] = field(default_factory=dict)

    @property
    def epochs(self) -> list[int]:
        """Every epoch that anything was recorded in, ascending."""
        tables: list[dict[int, Any]] = [*self.scalars.values(), *self.panels.values(), self.cells, self.verdicts]
        return sorted({epoch for by_epoch in tables for epoch in by_epoch})
