"""What is left of a run at its end: the report, the verdicts, and the numbers that sum it up."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from math import isnan
from pathlib import Path
from typing import Any

from camtrain.sinks.environment import RUN_FILE, versions
from camtrain.sinks.files import RECORDS_FILE, SCALARS_FILE
from camtrain.sinks.history import History, read_history
from camtrain.sinks.report import REPORT_FILE, write_report
from camtrain.sinks.story import headline, latest_verdicts, measures

VERDICTS_FILE = "verdicts.json"


def publish(folder: Path) -> tuple[Path, ...]:
    """Write `report.html`, and `verdicts.json` where there are any, from what the folder holds; return their paths.

    >>> import tempfile
    >>> [path.name for path in publish(Path(tempfile.mkdtemp()))]
    ['report.html']
    """
    report, history = write_report(folder), read_history(folder)
    rows = latest_verdicts(history, history.epochs[-1] if history.epochs else None)
    if not rows:
        return (report,)
    content = {"verdicts": [_without_nan(asdict(row)) for row in rows], "versions": versions()}
    path = folder / VERDICTS_FILE
    path.write_text(json.dumps(content, indent=2))
    return report, path


def is_published(folder: Path) -> bool:
    """Whether the report is younger than everything that was recorded."""
    report = folder / REPORT_FILE
    if not report.is_file():
        return False
    recorded = [folder / name for name in (SCALARS_FILE, RECORDS_FILE, RUN_FILE)]
    written = report.stat().st_mtime_ns
    return all(path.stat().st_mtime_ns <= written for path in recorded if path.is_file())


def summary_of(history: History) -> dict[str, Any]:
    """A run in a few numbers: its headline, and each measure before and after.

    >>> summary_of(History(scalars={"val/accuracy": {0: 0.5, 1: 0.75}}))["camtrain/accuracy/after"]
    0.75
    """
    found: dict[str, Any] = {"camtrain/headline": headline(history)}
    for one in measures(history):
        name = one.label.lower().replace(", ", "/").replace(" ", "_")
        known = {"before": one.before, "after": one.after}
        found |= {f"camtrain/{name}/{when}": value for when, value in known.items() if not isnan(value)}
    return found


def _without_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(value, float) and isnan(value) else value for name, value in row.items()}
