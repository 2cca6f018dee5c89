"""The records in a folder, each epoch's last word only."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from camtrain.records.formats import parse, read_line
from camtrain.records.history import Epoch, History, Line, Moment

SCALARS_FILE = "scalars.jsonl"
RECORDS_FILE = "records.jsonl"


def read_history(folder: str | Path) -> History:
    """The run in a folder that `FilesSink` wrote; an empty history where there is none.

    Of two records of the same name or key and pass the later one holds; panels of the same pass are joined by sample.
    An epoch's last pass goes by the epoch's number, earlier ones lie before it as `Moment`s. A line cut short by a
    crash is left out.

    >>> read_history("no-such-folder").scalars
    {}
    """
    history = History()
    lines = [line for name in (SCALARS_FILE, RECORDS_FILE) for line in _lines_that_count(Path(folder) / name)]
    moments = moments_of(lines)
    for line in lines:
        read_line(history, line | {"epoch": moments[line["epoch"]][line.get("step", 0)]})
    _sort_all(history)
    return history


def moments_of(lines: Sequence[Line]) -> dict[int, dict[int, Epoch]]:
    """By epoch and step, when a line was written: the epoch itself at its last step, a `Moment` before.

    >>> moments_of([{"epoch": 0, "step": step} for step in (2, 4)])
    {0: {2: -0.5, 4: 0}}
    """
    steps: dict[int, set[int]] = {}
    for line in lines:
        steps.setdefault(line["epoch"], set()).add(line.get("step", 0))
    moments: dict[int, dict[int, Epoch]] = {}
    end = 0
    for epoch, of_epoch in sorted(steps.items()):
        start, end = (end if end < min(of_epoch) else 0), max(of_epoch)
        moments[epoch] = {
            step: epoch if step == end else Moment(round(epoch - 1 + (step - start) / (end - start), 4))
            for step in sorted(of_epoch)
        }
    return moments


def _lines_that_count(path: Path) -> list[Line]:
    """The file's lines, without those that a later start of training took back."""
    kept: list[Line] = []
    texts = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    for line in filter(None, map(parse, texts)):
        if line["kind"] == "start":
            kept = [earlier for earlier in kept if earlier["epoch"] < line["epoch"]]
        else:
            kept.append(line)
    return kept


def _sort_all(history: History) -> None:
    """Epochs in ascending order."""
    tables: list[dict[Epoch, Any]] = [history.cells, history.verdicts, history.examples, history.strips]
    tables += [history.histograms, history.classes, history.calibrations, history.galleries, history.metrics]
    tables += [*history.scalars.values(), *history.panels.values()]
    for by_epoch in tables:
        items = sorted(by_epoch.items())
        by_epoch.clear()
        by_epoch.update(items)
