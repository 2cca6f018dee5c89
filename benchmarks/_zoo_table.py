"""What the zoo says of a detector: power and false alarms with intervals, and how well its score ranks."""

from collections.abc import Sequence
from typing import Any

import torch
from _runs import Run
from _zoo_specimens import CONTROLS

from camtrain.data.canary import KINDS
from camtrain.metrics import share_interval

NAMES = {"tint": "background tint", "brightness": "background brightness", "sharpness": "sharpness"}
SMALL = dict.fromkeys(("corner", "watermark", "sticker"), ("sticker",))
SCORES = {"interventions": "score", "heatmap energy": "energy", "raw drop": "drop"}
CLEARED = ("not reliant", "no evidence")
Unit = dict[str, Any]


def units_of(runs: Sequence[Run], images: int, masks: str) -> list[Unit]:
    """One entry for each class of each specimen, judged from so many images a class with such masks."""
    wanted = [run for run in runs if (run["setting"]["images"], run["setting"]["masks"]) == (images, masks)]
    return [{**run["setting"], **unit} for run in wanted for unit in run["units"]]


def tabulate(units: Sequence[Unit]) -> list[dict[str, Any]]:
    """A row for every kind of cue, and one for all."""
    kinds = [kind for kind in (*KINDS, *CONTROLS) if any(unit["kind"] == kind for unit in units)]
    rows = [row_of(kind, [unit for unit in units if unit["kind"] == kind]) for kind in kinds]
    return [*rows, row_of("all", units)]


def row_of(name: str, units: Sequence[Unit]) -> dict[str, Any]:
    """Shares in %, each with the ends of its 95 % interval."""
    reliant, clean = ([unit for unit in units if unit["reliant"] is truth] for truth in (True, False))
    found = [unit for unit in reliant if unit["verdict"] == "reliant"]
    named = [
        unit for unit in found if unit["cue"] in (NAMES.get(unit["kind"], "background"), *SMALL.get(unit["kind"], ()))
    ]
    return {
        "cue": name,
        "reliant": len(reliant),
        **share("found", len(found), len(reliant)),
        "suspect": sum(unit["verdict"] == "suspect" for unit in reliant),
        "undecided": sum(unit["verdict"] == "undecided" for unit in reliant),
        "cue named": round(100 * len(named) / len(found)) if found else "",
        "not reliant": len(clean),
        **share("false alarms", sum(unit["verdict"] == "reliant" for unit in clean), len(clean)),
        **share("cleared", sum(unit["verdict"] in CLEARED for unit in clean), len(clean)),
        "suspect, not reliant": sum(unit["verdict"] == "suspect" for unit in clean),
        **{f"AUROC {name}": auroc(reliant, clean, score) for name, score in SCORES.items()},
    }


def share(name: str, hits: int, count: int) -> dict[str, Any]:
    """A share and its interval, empty where there is nothing to share."""
    if not count:
        return {f"{name} %": "", f"{name}, 95 %": ""}
    interval = share_interval(float(hits), count)
    return {f"{name} %": 100 * interval.mean, f"{name}, 95 %": f"{100 * interval.low:.0f}-{100 * interval.high:.0f}"}


def auroc(reliant: Sequence[Unit], clean: Sequence[Unit], score: str) -> Any:
    """How often a reliant class has a higher score than one that is not; ties count half.

    >>> auroc([{"score": 2.0}], [{"score": 1.0}, {"score": 2.0}], "score")
    0.75

    Empty where there is nothing to compare.
    """
    reliant, clean = ([unit for unit in units if score in unit] for units in (reliant, clean))
    high, low = (torch.tensor([unit[score] for unit in units], dtype=torch.float64) for units in (reliant, clean))
    if not len(high) or not len(low):
        return ""
    return float(((high[:, None] > low).double() + 0.5 * (high[:, None] == low).double()).mean())


def summarize(units: Sequence[Unit], masks: str) -> dict[str, Any]:
    """The figures of all kinds together, shares in %; without masks stickers have a power of their own."""
    known = {"exact": "masks", "none": "no_masks"}.get(masks, masks)
    row = row_of("all", units)
    counted = row_of("most", [unit for unit in units if unit["kind"] != "sticker"]) if masks == "none" else row
    found = {
        f"power_{known}": counted["found %"],
        f"false_alarms_{known}": row["false alarms %"],
        f"auroc_{known}": counted["AUROC interventions"],
        f"units_{known}": f"{counted['reliant']} reliant, {row['not reliant']} not",
    }
    if masks == "none":
        found["power_no_masks_stickers"] = row_of("sticker", [u for u in units if u["kind"] == "sticker"])["found %"]
    if masks == "exact":
        found |= {f"auroc_{name.replace(' ', '_')}": row[f"AUROC {name}"] for name in ("heatmap energy", "raw drop")}
    return found
