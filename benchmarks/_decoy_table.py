"""From the finished runs of the decoy benchmark to its weights, its rows and its summary."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from _decoy_rows import PUBLISHED, ROWS
from _runs import CANDIDATES, Run, largest_as_good, mean_and_deviation

Weights = Mapping[str, Mapping[str, float]]


def matching(runs: Iterable[Run], **wanted: Any) -> list[Run]:
    """The runs whose setting holds these values."""
    return [run for run in runs if all(run["setting"].get(key) == value for key, value in wanted.items())]


def tuned_weights(runs: Sequence[Run], given: Weights, **scale: Any) -> dict[str, dict[str, float]]:
    """By data set and row: what is given, else the chosen candidate once all of them were tried at this scale."""
    weights = {dataset: dict(given.get(dataset, {})) for dataset in PUBLISHED}
    for dataset, known in weights.items():
        for name in ROWS:
            tried = matching(runs, kind="tune", dataset=dataset, row=name, **scale)
            if name not in known and len(tried) == len(CANDIDATES):
                known[name] = choose(tried)
    return {dataset: known for dataset, known in weights.items() if known}


def choose(tried: Sequence[Run]) -> float:
    """The largest candidate that is as good on swapped patches as the best."""
    accuracies = {float(run["setting"]["weight"]): float(run["val_swapped"]) for run in tried}
    return largest_as_good(accuracies, tried[0]["val_images"])


def tabulate(runs: Sequence[Run], *, device: str, **scale: Any) -> list[dict[str, Any]]:
    """A row for each data set and method with a finished test at this scale, and for what is published alone."""
    rows = []
    tests = matching(runs, kind="test", device=device, **scale)
    for dataset in dict.fromkeys(run["setting"]["dataset"] for run in tests):
        ceiling = matching(tests, dataset=dataset, row="no_decoy")
        for name in ROWS:
            done = matching(tests, dataset=dataset, row=name)
            if done:
                done = matching(done, weight=done[-1]["setting"]["weight"])
                timed = matching(runs, kind="time", row=name, device=device)
                rows.append({**measured_row(dataset, name, done, timed), **beside_ceiling(done, ceiling)})
        alone = [(name, value) for name, value in PUBLISHED[dataset].items() if name not in ROWS]
        rows += [{"data set": dataset, "row": name, "published": f"{value} (recalled)"} for name, value in alone]
    return rows


def measured_row(dataset: str, name: str, done: Sequence[Run], timed: Sequence[Run]) -> dict[str, Any]:
    """Means over seeds beside the sample standard deviation; an empty text where there is no number."""
    weight = done[0]["setting"]["weight"]
    mean, deviation = mean_and_deviation([run["accuracy"] for run in done])
    inside = {energy: [run[energy] for run in done if energy in run] for energy in ("contribution", "grad_cam")}
    late = [run["late"] for run in done if "late" in run]
    published = PUBLISHED[dataset].get(name)
    return {
        "data set": dataset,
        "row": name,
        "weight": "" if weight is None else weight,
        "test accuracy %": mean,
        "±": "" if deviation is None else deviation,
        "late %": mean_and_deviation(late)[0] if late else "",
        "seeds": len(done),
        **{f"{energy} inside %": mean_and_deviation(values)[0] if values else "" for energy, values in inside.items()},
        "time per step": timed[-1]["ratio"] if timed else "",
        "its spread": timed[-1]["spread"] if timed else "",
        "published": f"{published} (recalled)" if published else "",
    }


def beside_ceiling(done: Sequence[Run], ceiling: Sequence[Run]) -> dict[str, Any]:
    """How many points above the network without decoys of the same seed, and the standard error of this mean.

    A seed's luck with weights and order is in both and cancels. Empty texts where no seed, or just one, has both.

    >>> plain = [{"setting": {"seed": seed}, "accuracy": 90.0 + seed} for seed in (0, 1)]
    >>> beside_ceiling([{"setting": {"seed": 1}, "accuracy": 90.5}], plain)
    {'above no decoy': -0.5, 'its error': ''}
    """
    reached = {run["setting"]["seed"]: run["accuracy"] for run in ceiling}
    seeds = [run["setting"]["seed"] for run in done]
    above = [run["accuracy"] - reached[seed] for run, seed in zip(done, seeds, strict=True) if seed in reached]
    mean, deviation = mean_and_deviation(above) if above else ("", None)
    return {"above no decoy": mean, "its error": "" if deviation is None else deviation / math.sqrt(len(above))}


def summarize(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean test accuracies in %, by data set; `best_other` is the best row that is neither ours nor without decoys."""
    summary: dict[str, Any] = {}
    measured = [row for row in rows if "test accuracy %" in row]
    for dataset in dict.fromkeys(row["data set"] for row in measured):
        found = {row["row"]: row["test accuracy %"] for row in measured if row["data set"] == dataset}
        ours = {
            name: value for name, value in found.items() if name == "no_decoy" or name.startswith(("ours", "alone"))
        }
        others = {name: value for name, value in found.items() if name not in ours}
        named = ours | {name: value for name, value in others.items() if name == "vanilla"}
        summary |= {f"{dataset}.{name}": value for name, value in named.items()}
        if others:
            best = max(others, key=lambda name: others[name])
            summary |= {f"{dataset}.best_other": others[best], f"{dataset}.best_other_row": best}
    return summary
