"""Rows of the faithfulness benchmark as tables that a person reads, and as the keys of the summary."""

from collections.abc import Sequence
from typing import Any

Rows = list[dict[str, Any]]
UNMARKED = ("faithfulness", "grounding", "trust", "cost")


def tables(rows: Rows) -> dict[str, Rows]:
    """For each network and kind, methods by metrics: the mean and half the interval."""
    shown: dict[str, Rows] = {}
    for kind, name in dict.fromkeys((row["kind"], row["network"]) for row in rows):
        own = [row for row in rows if (row["kind"], row["network"]) == (kind, name)]
        title = f"{name}: {kind}" + (f" ({own[0]['images']} images)" if "images" in own[0] else "")
        by_method: dict[str, dict[str, Any]] = {}
        for row in own:
            by_method.setdefault(row["method"], {"method": row["method"]})[row["metric"]] = as_text(row)
        shown[title] = list(by_method.values())
    return shown


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """One of the tables in Markdown.

    >>> print(markdown([{"method": "grad_cam", "insertion": "0.5 ±0.1"}]))
    | method | insertion |
    |---|---|
    | `grad_cam` | 0.5 ±0.1 |
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    head = " | ".join(name.replace("_", " ") for name in columns)
    lines = [f"| {head} |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [f"`{row[name]}`" if name == "method" else str(row.get(name, "")) for name in columns]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def as_text(row: dict[str, Any]) -> str:
    if "low" not in row:
        return f"{row['mean']:.3g}"
    return f"{row['mean']:.3g} ±{(row['high'] - row['low']) / 2:.2g}"


def summarize(rows: Rows) -> dict[str, Any]:
    """The mean of each method and metric: under `<method>.<metric>` for the first network, with its name for all.

    Of misclassified photographs, clips and words the metric's name begins with that: `video_insertion`.
    """
    summary: dict[str, Any] = {}
    first = rows[0]["network"] if rows else ""
    for row in rows:
        key = row["metric"] if row["kind"] in UNMARKED else f"{row['kind']}_{row['metric']}"
        if row["network"] == first:
            summary[f"{row['method']}.{key}"] = row["mean"]
        summary[f"{row['network']}.{row['method']}.{key}"] = row["mean"]
    return summary
