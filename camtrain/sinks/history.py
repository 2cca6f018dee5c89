"""What a folder of records says, each epoch's last word only."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from camtrain.sinks.files import RECORDS_FILE, SCALARS_FILE, Line
from camtrain.sinks.records import VerdictRow

NAN = float("nan")


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


def read_history(folder: str | Path) -> History:
    """The run in a folder that `FilesSink` wrote; an empty history where there is none.

    Of two records of the same name or key and epoch the later one holds; panels of the same pass are joined by
    sample. A line cut short by a crash is left out.

    >>> read_history("no-such-folder").scalars
    {}
    """
    history = History()
    for name in (SCALARS_FILE, RECORDS_FILE):
        for line in _lines_that_count(Path(folder) / name):
            _READERS[line["kind"]](history, line)
    by_record = (history.cells, history.verdicts, history.examples, history.histograms, history.classes)
    for table in (*by_record, history.strips, history.metrics):
        _sort(table)
    for by_name in (history.scalars, history.panels):
        for by_epoch in by_name.values():
            _sort(by_epoch)
    return history


def _lines_that_count(path: Path) -> list[Line]:
    """The file's lines, without those that a later start of training took back."""
    kept: list[Line] = []
    for line in _lines(path):
        if line["kind"] == "start":
            kept = [earlier for earlier in kept if earlier["epoch"] < line["epoch"]]
        elif line["kind"] in _READERS:
            kept.append(line)
    return kept


def _lines(path: Path) -> Iterator[Line]:
    if path.is_file():
        texts = path.read_text(encoding="utf-8", errors="replace").splitlines()
        yield from filter(None, map(_parse, texts))


def _parse(text: str) -> Line | None:
    try:
        line: Line = json.loads(text)
    except json.JSONDecodeError:
        return None
    return line if isinstance(line, dict) and {"kind", "epoch"} <= line.keys() else None


def _sort(by_epoch: Any) -> None:
    items = sorted(by_epoch.items())
    by_epoch.clear()
    by_epoch.update(items)


def _number(value: float | None) -> float:
    return NAN if value is None else float(value)


def _read_scalars(history: History, line: Line) -> None:
    for name, value in line["values"].items():
        history.scalars.setdefault(name, {})[line["epoch"]] = _number(value)


def _read_panels(history: History, line: Line) -> None:
    passes = history.panels.setdefault(line["key"], {})
    earlier = passes.get(line["epoch"])
    same_pass = earlier is not None and earlier.step == line["step"]
    items = {item["sample"]: item for item in (*(earlier.items if earlier and same_pass else ()), *line["panels"])}
    passes[line["epoch"]] = Pass(line["epoch"], line["step"], list(items.values()))


def _read_cells(history: History, line: Line) -> None:
    history.cells[line["epoch"]] = line["counts"]


def _read_verdicts(history: History, line: Line) -> None:
    numbers = ("effect", "low", "high", "placebo", "p_value", "placebo_flips")
    history.verdicts[line["epoch"]] = [
        VerdictRow(**(row | _box(row) | {name: _number(row[name]) for name in numbers if name in row}))
        for row in line["rows"]
    ]
    history.examples[line["epoch"]] = line["examples"]
    history.strips[line["epoch"]] = line.get("strips", [])


def _box(row: Line) -> dict[str, Any]:
    """JSON has no tuples."""
    return {"box": tuple(row["box"])} if row.get("box") else {}


def _read_alert(history: History, line: Line) -> None:
    if line not in history.alerts:
        history.alerts.append(line)


def _read_histograms(history: History, line: Line) -> None:
    history.histograms[line["epoch"]] = line["counts"]


def _read_classes(history: History, line: Line) -> None:
    history.classes[line["epoch"]] = line


def _read_metrics(history: History, line: Line) -> None:
    history.metrics[line["epoch"]] = line


def _read_setup(history: History, line: Line) -> None:
    history.setup.update(line["values"])


_READERS = {
    "scalars": _read_scalars,
    "panels": _read_panels,
    "cells": _read_cells,
    "verdicts": _read_verdicts,
    "alert": _read_alert,
    "histograms": _read_histograms,
    "classes": _read_classes,
    "metrics": _read_metrics,
    "setup": _read_setup,
}
