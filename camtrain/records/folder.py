"""The records in a folder, each epoch's last word only."""

from pathlib import Path
from typing import Any

from camtrain.records.formats import parse, read_line
from camtrain.records.history import History, Line

SCALARS_FILE = "scalars.jsonl"
RECORDS_FILE = "records.jsonl"


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
            read_line(history, line)
    _sort_all(history)
    return history


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
    tables: list[dict[int, Any]] = [history.cells, history.verdicts, history.examples, history.strips]
    tables += [history.histograms, history.classes, history.metrics]
    tables += [*history.scalars.values(), *history.panels.values()]
    for by_epoch in tables:
        items = sorted(by_epoch.items())
        by_epoch.clear()
        by_epoch.update(items)
