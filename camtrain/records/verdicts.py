"""`verdicts.json`: what was found of each class in the end, for whoever asks without a report."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from camtrain.records.formats import plain, read_verdict
from camtrain.records.kinds import VerdictRow
from camtrain.records.run_info import versions

VERDICTS_FILE = "verdicts.json"


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
