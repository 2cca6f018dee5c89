"""How a run was made (`run.json`, its configuration and versions) and what was found (`verdicts.json`)."""

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from camtrain.records.formats import plain, read_verdict
from camtrain.records.kinds import VerdictRow

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


def write_verdicts(folder: str | Path, rows: Sequence[VerdictRow]) -> Path:
    """Write the verdicts and the versions that they were reached with; return the path.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> _ = write_verdicts(folder, [VerdictRow(0, "boat", "reliant", 0.4, 0.3, 0.5, 0.02, 0.001, 64)])
    >>> read_verdicts(folder)[0].class_name
    'boat'
    """
    path = Path(folder) / VERDICTS_FILE
    content = {"verdicts": [plain(asdict(row)) for row in rows], "versions": versions()}
    path.write_text(json.dumps(content, indent=2))
    return path


def read_verdicts(folder: str | Path) -> list[VerdictRow]:
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
