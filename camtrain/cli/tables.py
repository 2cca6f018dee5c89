"""Every explained image as a row of a file that pandas reads."""

import csv
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from camtrain.errors import ConfigurationError
from camtrain.records import CELLS

NAMED = {"label": "true", "predicted": "predicted"}


def default_table() -> str:
    """`images.parquet`, or `images.csv` where pyarrow is not installed."""
    return "images.parquet" if find_spec("pyarrow") else "images.csv"


def columns_of(table: Any, names: Sequence[str], form: str = "choice") -> dict[str, list[Any]]:
    """The table by column: the sample, then what is known of it; None for what is not, classes and cells by name.

    Of what is there or not (`form` is "presence") `true` and `predicted` are 1 or 0, and `class` says of what; values
    stand as they are.
    """
    columns: dict[str, list[Any]] = {"sample": list(table.samples)}
    if form == "presence" and table.samples:
        columns["class"] = [_named(names, value) for value in table["about"].tolist()]
    for name in table.columns:
        values = [None if value != value else value for value in table[name].tolist()]
        if name in NAMED and form != "choice":
            known = table["right"] == table["right"]
            asked = values if name != "label" else [v if k else None for v, k in zip(values, known, strict=True)]
            columns[NAMED[name]] = asked
        elif name in NAMED:
            columns[NAMED[name]] = [_named(names, value) for value in values]
        elif name == "cell":
            columns[name] = [_named(CELLS, value) for value in values]
        else:
            columns[name] = values
    return columns


def write_table(path: Path, columns: dict[str, list[Any]]) -> Path:
    """Write Parquet or CSV, as the name says; ConfigurationError for another name or without pyarrow."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([list(columns), *zip(*columns.values(), strict=True)])
        return path
    if path.suffix != ".parquet":
        raise ConfigurationError(f"A table is written as .parquet or .csv, got {path.name!r}.")
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ConfigurationError("Parquet needs pyarrow: pip install camtrain[parquet], or name a .csv.") from error
    pq.write_table(pa.table(columns), path)
    return path


def _named(names: Sequence[str], value: float | None) -> str | None:
    index = -1 if value is None else int(value)
    if index < 0:
        return None
    return names[index] if index < len(names) else f"class {index}"
