"""What the benchmark scripts share: their options, a median with its spread, a table and a JSON file."""

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from camtrain.records.folder import versions

Row = Mapping[str, Any]


def parser(description: str | None, *, data: bool = False, seeds: int = 1) -> argparse.ArgumentParser:
    """The options of every benchmark; `data` adds the folder of data sets."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help="a few minutes on two CPU cores")
    made.add_argument("--seeds", type=int, default=seeds, metavar="N", help=f"seeds 0 .. N-1 (default {seeds})")
    made.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    made.add_argument("--json", type=Path, metavar="FILE", help="also write rows, summary and environment here")
    if data:
        found = os.environ.get("CAMTRAIN_DATA", "../shared/data")
        made.add_argument("--data", type=_folder, default=found, metavar="DIR", help=f"data sets (default {found})")
    return made


def median_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """The median, and the distance between the quartiles; 0 for a single value."""
    if len(values) == 1:
        return values[0], 0.0
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return median, high - low


def environment(device: str = "cpu") -> dict[str, Any]:
    """What a number depends on beside the code, and the command that measured it."""
    return {
        "command": shlex.join(["python", *sys.argv]),
        **versions(),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else platform.machine(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
    }


def report(
    rows: Sequence[Row],
    summary: Mapping[str, Any],
    options: argparse.Namespace,
    title: str = "",
    tables: Mapping[str, Sequence[Row]] | None = None,
    brief: Mapping[str, Any] | None = None,
) -> None:
    """Print the rows as a table and the summary below it; write both with the environment where `--json` says.

    Where these are too much to read, `tables` by title are printed instead of the rows, `brief` instead of the summary.
    """
    console = Console(width=None if sys.stdout.isatty() else 160)
    for heading, shown in ({title: rows} if tables is None else tables).items():
        if shown:
            console.print(_table(shown, heading))
    for name, value in (summary if brief is None else brief).items():
        console.print(f"{name}: {_text(value)}", highlight=False)
    if options.json is not None:
        content = {"rows": list(rows), "summary": dict(summary), "environment": environment(options.device)}
        write_json(options.json, content)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write what was measured, a line for each row; the whole file or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    unfinished.write_text(compact(content))
    unfinished.replace(path)


def compact(content: Mapping[str, Any]) -> str:
    """JSON with a line for each item of a list, and for each entry of a mapping.

    >>> print(compact({"rows": [{"a": 1}, {"a": 2}], "summary": {"b": 3.0}}), end="")
    {
    "rows": [
    {"a": 1},
    {"a": 2}
    ],
    "summary": {
    "b": 3.0
    }
    }
    """
    return "{\n" + ",\n".join(f"{json.dumps(name)}: {_block(value)}" for name, value in content.items()) + "\n}\n"


def _block(value: Any) -> str:
    if isinstance(value, Mapping) and value:
        return "{\n" + ",\n".join(f"{json.dumps(str(name))}: {_line(item)}" for name, item in value.items()) + "\n}"
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(map(_line, value)) + "\n]"
    return _line(value)


def _line(value: Any) -> str:
    return json.dumps(value, default=str)


def _folder(path: str) -> Path:
    if not Path(path).is_dir():
        raise argparse.ArgumentTypeError(f"no folder at {Path(path).resolve()}: give --data DIR or set CAMTRAIN_DATA")
    return Path(path)


def _table(rows: Sequence[Row], title: str) -> Table:
    table = Table(title=title or None, title_justify="left")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    for name in columns:
        table.add_column(name, justify="left" if isinstance(rows[0].get(name), str) else "right")
    for row in rows:
        table.add_row(*(_text(row.get(name, "")) for name in columns))
    return table


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
