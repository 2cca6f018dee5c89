"""From finished runs to the table and the summary of the backgrounds benchmark."""

from collections.abc import Mapping, Sequence
from typing import Any

from _backgrounds_rows import ROWS
from _composites import ALIGNED, CONFLICTING, GROUPS
from _runs import Run, mean_and_deviation

COLUMNS = {
    "mean": "mean",
    "conflicting": "conflicting",
    "home_advantage": "home advantage",
    "worst": "worst group",
    "inside_energy": "inside energy",
}
KEYS = {  # in the summary
    "erm": "erm",
    "unbiased": "unbiased",
    "ours": "ours",
    "ours_5": "ours_5pct",
    "ours_1": "ours_1pct",
    "ours_no_masks": "ours_no_masks",
    "ours_segmenter": "ours_segmenter",
    "given_5": "given_5pct",
    "given_1": "given_1pct",
    "tuned": "tuned",
}


def tabulate(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A row for each correlation and way to train: means and sample standard deviations over seeds."""
    chosen = dict.fromkeys((run["setting"]["correlation"], run["setting"]["row"]) for run in runs)
    return [
        describe([run for run in runs if (run["setting"]["correlation"], run["setting"]["row"]) == one], runs)
        for one in sorted(chosen, key=lambda one: (one[0], list(ROWS).index(one[1])))
    ]


def describe(mine: Sequence[Run], runs: Sequence[Run]) -> dict[str, Any]:
    correlation, name = mine[0]["setting"]["correlation"], mine[0]["setting"]["row"]
    found = {"correlation": correlation, "row": name, "training": ROWS[name].name, "told": ROWS[name].told}
    if "note" in mine[0]:
        return {**found, "seeds": len(mine), "note": mine[0]["note"]}
    values = {key: [with_advantage(run)[key] for run in mine] for key in COLUMNS}
    measures = {"gap": gap_closed, "behind": behind, "time": time_ratio}
    compared = {key: [measure(run, runs) for run in mine] for key, measure in measures.items()}
    known = {key: [value for value in some if value is not None] for key, some in compared.items()}
    for key, some in {**values, **known}.items():
        if some:
            found[key], found[f"{key}_sd"] = mean_and_deviation(some)
    return {**found, "seeds": len(mine)}


def with_advantage(one: Run) -> Run:
    """The run, and how much more is right where a class is in its own place: what the place is still good for.

    >>> with_advantage({"mean": 60.0, "conflicting": 50.0})["home_advantage"]
    40.0
    """
    at_home = (GROUPS * one["mean"] - len(CONFLICTING) * one["conflicting"]) / len(ALIGNED)
    return {**one, "home_advantage": at_home - one["conflicting"]}


def time_ratio(one: Run, runs: Sequence[Run]) -> float | None:
    """Over ERM of the same setting; None before that has run, or where one of them was not timed alike."""
    plain = beside(one, runs, "erm")
    if plain is None or "step_seconds" not in one or "step_seconds" not in plain:
        return None
    return one["step_seconds"] / plain["step_seconds"]


def gap_closed(one: Run, runs: Sequence[Run]) -> float | None:
    """How much of the way, in %, the worst group is from ERM to no correlation; None for these two and before them."""
    low, high = beside(one, runs, "erm"), beside(one, runs, "unbiased")
    if low is None or high is None or one in (low, high) or low["worst"] == high["worst"]:
        return None
    return 100 * (one["worst"] - low["worst"]) / (high["worst"] - low["worst"])


def behind(one: Run, runs: Sequence[Run]) -> float | None:
    """How many points the worst group is below that without correlation; None for that one, and before it."""
    high = beside(one, runs, "unbiased")
    return None if high is None or one is high else high["worst"] - one["worst"]


def beside(one: Run, runs: Sequence[Run], row: str) -> Run | None:
    """The same setting trained another way."""
    return next((run for run in runs if run["setting"] == {**one["setting"], "row": row}), None)


def shown(row: Mapping[str, Any]) -> dict[str, str]:
    """A row as it is printed."""

    def cell(key: str, digits: int = 1) -> str:
        if key not in row:
            return ""
        deviation = row[f"{key}_sd"]
        return f"{row[key]:.{digits}f}" + ("" if deviation is None else f" ± {deviation:.{digits}f}")

    numbers = {title: cell(key) for key, title in COLUMNS.items()}
    numbers["mean"] = row.get("note", numbers["mean"])
    compared = {"gap closed": cell("gap"), "behind": cell("behind"), "time": cell("time", 2)}
    return {"training": row["training"], "told": row["told"], **numbers, **compared}


def summarize(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The keys of 100 % correlation are bare, those of another start with it, as in `95.erm_worst`."""
    summary: dict[str, float] = {}
    for correlation in dict.fromkeys(row["correlation"] for row in rows):
        prefix = "" if correlation == 100 else f"{correlation:g}."
        mine = {row["row"]: row for row in rows if row["correlation"] == correlation}
        for name, key in KEYS.items():
            if name in mine:
                summary |= {f"{prefix}{key}_{what}": mine[name][what] for what in ("mean", "worst")}
        for name in ("ours", "ours_5", "ours_1", "ours_no_masks", "ours_segmenter"):
            if {"erm", "unbiased", name} <= mine.keys():
                low, high, ours = (mine[one]["worst"] for one in ("erm", "unbiased", name))
                if high != low:
                    summary[f"{prefix}gap_closed{KEYS[name].removeprefix('ours')}"] = (ours - low) / (high - low)
    return summary
