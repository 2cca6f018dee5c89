"""`camtrain compare`: runs side by side in one page, their numbers, their verdicts and the same images."""

import json
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from camtrain.cli.options import CompareOptions
from camtrain.errors import DataError
from camtrain.report.charts import signed
from camtrain.report.comparison import (
    ComparedRun,
    comparison_of,
    read_run,
    shown_comparison_of,
    unique_titles,
    verdicts_of,
    write_comparison,
)


def run(options: CompareOptions) -> int:
    """Compare, write the page, print the numbers."""
    runs = [read_run(find_run(path)) for path in options.runs]
    if options.names:
        runs = [replace(run, title=name) for run, name in zip(runs, options.names, strict=True)]
    if empty := [str(run.folder) for run in runs if not run.history.epochs]:
        raise DataError(f"{empty[0]} holds no record that can be read: name the folder of a run that has written some.")
    page = write_comparison(runs, options.out)
    if options.json:
        verdicts = {name: [row and row.verdict for row in rows] for name, rows in verdicts_of(runs).items()}
        titles, numbers = [run.title for run in runs], comparison_of(runs)
        answer = {"page": str(page), "runs": titles, "numbers": numbers, "verdicts": verdicts}
        print(json.dumps(answer, indent=2))  # noqa: T201  what was asked for
        return 0
    console = Console()
    console.print(_table(runs))
    console.print(f"page  {page}", highlight=False, markup=False, soft_wrap=True)
    return 0


def find_run(path: Path) -> Path:
    """The folder itself, or the only one below it that holds records; DataError without one, or with several.

    Records below those of a run, as of its test, belong to it.
    """
    if not path.exists():
        raise DataError(f"There is no run {path}.")
    if (path / "scalars.jsonl").is_file():
        return path
    holding = {file.parent for file in path.rglob("scalars.jsonl")} if path.is_dir() else set()
    folders = [folder for folder in holding if not holding.intersection(folder.parents)]
    if len(folders) != 1:
        raise DataError(f"{path} holds {len(folders)} runs; name the folder of one, which holds scalars.jsonl.")
    return folders[0]


def _table(runs: list[ComparedRun]) -> Table:
    """Numbers, then verdicts with their effects."""
    table = Table("", *unique_titles(runs))
    for name, values in shown_comparison_of(runs).items():
        table.add_row(name, *values)
    for name, rows in verdicts_of(runs).items():
        table.add_row(name, *("–" if row is None else f"{row.verdict} ({signed(row.effect)})" for row in rows))
    return table
