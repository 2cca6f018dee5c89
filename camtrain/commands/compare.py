"""Put runs side by side in one page: their numbers, their verdicts, and the same images as each of them sees them.

example: camtrain compare runs/demo/abc123/camtrain runs/demo/def456/camtrain --out compare.html
"""

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from camtrain.errors import DataError
from camtrain.sinks.comparison import Run, comparison_of, read_run, write_comparison


def prepare(parser: argparse.ArgumentParser) -> None:
    """The words that it takes."""
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs, which hold scalars.jsonl")
    parser.add_argument("--out", type=Path, default=Path("compare.html"), help="the page (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")


def act(options: argparse.Namespace) -> int:
    """Compare, write the page, print the numbers."""
    runs = [read_run(find_run(path)) for path in options.runs]
    if empty := [str(run.folder) for run in runs if not run.history.epochs]:
        raise DataError(f"{empty[0]} holds no record that can be read: name the folder of a run that has written some.")
    page = write_comparison(runs, options.out)
    rows = comparison_of(runs)
    if options.json:
        print(json.dumps({"page": str(page), "runs": [run.title for run in runs], "numbers": rows}, indent=2))  # noqa: T201
        return 0
    console = Console()
    console.print(_table(runs, rows))
    console.print(f"page  {page}", highlight=False, markup=False, soft_wrap=True)
    return 0


def find_run(path: Path) -> Path:
    """The folder itself, or the only one below it that holds records; DataError without one, or with several.

    Records below those of a run, as of its test, belong to it.
    """
    if (path / "scalars.jsonl").is_file():
        return path
    holding = {file.parent for file in path.rglob("scalars.jsonl")} if path.is_dir() else set()
    found = [folder for folder in holding if not holding.intersection(folder.parents)]
    if len(found) != 1:
        raise DataError(f"{path} holds {len(found)} runs; name the folder of one, which holds scalars.jsonl.")
    return found[0]


def _table(runs: list[Run], rows: dict[str, list[float | None]]) -> Table:
    table = Table("", *(run.title for run in runs))
    for name, values in rows.items():
        table.add_row(name, *("–" if value is None else f"{value:.3f}" for value in values))
    return table
