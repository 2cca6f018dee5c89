"""What lies in a run's folder: its records, each epoch's last word only, how it was made, and what was found."""

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from camtrain.records.formats import Epoch, History, Line, Moment, parse, plain, read_line, read_verdict
from camtrain.records.kinds import Verdict

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


RUN_FILE = "run.json"
VERDICTS_FILE = "verdicts.json"
PACKAGES = ("camtrain", "torch", "torchvision", "pytorch-lightning", "torchmetrics", "wandb", "numpy")


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that a run depends on.

    >>> sorted(versions())[:2]
    ['camtrain', 'numpy']
    """
    found = {name: _version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **{name: value for name, value in found.items() if value}}


def write_run_info(
    folder: str | Path, configuration: Mapping[str, Any], *, title: str | None = None, remarks: Sequence[str] = ()
) -> Path:
    """Write `run.json` for the report: configuration (nested mappings; what JSON cannot hold as text), versions.

    `remarks` are sentences that the report opens with.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = write_run_info(folder, {"model": {"width": 16}}, title="scenes")
    >>> read_run_info(folder)["configuration"]
    {'model': {'width': 16}}
    """
    path = Path(folder) / RUN_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {"title": title, "configuration": configuration, "versions": versions()}
    content |= {"remarks": list(remarks)} if remarks else {}
    path.write_text(json.dumps(content, indent=2, default=str))
    return path


def read_run_info(folder: str | Path) -> dict[str, Any]:
    """What `run.json` says; empty where there is none or it cannot be read."""
    try:
        content = json.loads((Path(folder) / RUN_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_verdicts(folder: str | Path, rows: Sequence[Verdict]) -> Path:
    """Write the verdicts and the versions that they were reached with; return the path.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> _ = write_verdicts(folder, [Verdict(0, "boat", "reliant", 0.4, 0.3, 0.5, 0.02, 0.001, 64)])
    >>> read_verdicts(folder)[0].class_name
    'boat'
    """
    path = Path(folder) / VERDICTS_FILE
    content = {"verdicts": [plain(asdict(row)) for row in rows], "versions": versions()}
    path.write_text(json.dumps(content, indent=2))
    return path


def read_verdicts(folder: str | Path) -> list[Verdict]:
    """The verdicts in a run's folder; none where there is no such file."""
    path = Path(folder) / VERDICTS_FILE
    return [read_verdict(row) for row in json.loads(path.read_text())["verdicts"]] if path.is_file() else []


def flatten(nested: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names and values of a nested mapping.

    >>> list(flatten({"model": {"width": 16}, "methods": ["grad_cam"]}))
    [('model.width', '16'), ('methods.0', 'grad_cam')]
    """
    items = nested.items() if isinstance(nested, Mapping) else enumerate(nested) if isinstance(nested, list) else None
    if items is None:
        yield prefix, str(nested)
        return
    for key, value in items:
        yield from flatten(value, f"{prefix}.{key}" if prefix else str(key))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
