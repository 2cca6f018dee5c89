"""Where a cue was planted, and whether a detector finds it there.

A place is hit by a point that lies in the planted region, grown by half a window on every side.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from _zoo_bases import Scenes
from _zoo_specimens import Specimen, canary_of
from torch import Tensor

from camtrain.cam import resize
from camtrain.data import Canary
from camtrain.reliance import Evidence, Findings, Pace, Pool, Verdict, gather_evidence, region_of
from camtrain.reliance.locate import SIDE, hottest, pointing

STAYS, MOVES, NOWHERE = ("watermark",), ("corner", "sticker"), ("background", "frame", "tint", "brightness")
ENOUGH = 0.8  # of the images that point to a window, for a cue that moves
Unit = dict[str, Any]


def located(
    predict: Callable[[Tensor], Tensor],
    findings: Findings,
    verdict: Verdict,
    pool: Pool,
    specimen: Specimen,
    scenes: Scenes,
    heatmaps: Tensor,
    device: str,
) -> Unit:
    """Where the detector says that the cue of a flagged class lies, and whether that, and its heatmaps, hit it."""
    with torch.no_grad():
        evidence = gather_evidence(predict, findings, verdict, pool, pool, pace=Pace(device=device))
    region = region_of(evidence)
    said = {"answer": region.answer, "where": region.where, "search_forwards": evidence.forwards}
    canary = canary_of(specimen, scenes.classes)
    if canary is None or specimen.kind not in (*STAYS, *MOVES):
        return said
    rows = rows_of(evidence.images, scenes)
    places = grown(planted_places(canary, scenes), scenes.images.shape[-1] * SIDE / 2)
    own = canary.shown(scenes.labels, scenes.keys)[rows] == verdict.class_index
    centers = evidence.boxes[:, :2] + evidence.boxes[:, 2:] / 2
    inside = within(centers[hottest(evidence.lost)], places[rows]) & own
    heat = resize(heatmaps, scenes.images.shape[-2:])
    mean = heat[scenes.labels == verdict.class_index].mean(dim=0, keepdim=True)
    return said | {
        "hit": is_hit(specimen.kind, evidence, inside),
        "heatmap_hit": bool(within(hot_spots(mean), places[scenes.labels == verdict.class_index]).any()),
        "images_searched": len(rows),
        "images_hit": int(inside.sum()),
        "images_heatmap_hit": int((within(hot_spots(heat[rows]), places[rows]) & own).sum()),
    }


def is_hit(kind: str, evidence: Evidence, inside: Tensor) -> bool:
    """A cue that stays must be said to stay, in the right window; one that moves to move, and four fifths be right."""
    region = region_of(evidence)
    points = pointing(evidence.lost, evidence.boxes)
    right = float(inside[points].float().mean()) if bool(points.any()) else 0.0
    return region.answer == ("stays" if kind in STAYS else "moves") and right >= ENOUGH


def planted_places(canary: Canary, scenes: Scenes) -> Tensor:
    """(N, 4): top, left, height and width of what is planted into each image.

    >>> one = Scenes(torch.zeros(1, 3, 28, 28), torch.tensor([0]), torch.zeros(1, 28, 28), torch.tensor([7]))
    >>> planted_places(Canary("watermark", 2), one).tolist()
    [[22.0, 22.0, 5.0, 5.0]]
    """
    gray = torch.full_like(scenes.images, 0.5)
    sure = replace(canary, strength=1.0, independent=False, classes=None)
    changed = (sure(gray, scenes.labels, scenes.keys, scenes.masks) != gray).any(dim=1)
    down, across = changed.any(dim=2), changed.any(dim=1)
    first = [side.float().argmax(dim=1) for side in (down, across)]
    size = [side.sum(dim=1) for side in (down, across)]
    return torch.stack([*first, *size], dim=1).float()


def grown(places: Tensor, by: float) -> Tensor:
    """Larger by so many pixels on every side."""
    return places + places.new_tensor([-by, -by, 2 * by, 2 * by])


def within(points: Tensor, places: Tensor) -> Tensor:
    """Which points (row, column) lie in their place.

    >>> within(torch.tensor([[1.0, 1.0], [3.0, 1.0]]), torch.tensor([[0.0, 0.0, 2.0, 2.0]])).tolist()
    [True, False]
    """
    return ((points >= places[:, :2]) & (points <= places[:, :2] + places[:, 2:])).all(dim=1)


def hot_spots(heatmaps: Tensor) -> Tensor:
    """(N, 2): row and column of the middle of the hottest pixel of each."""
    width = heatmaps.shape[-1]
    hot = heatmaps.flatten(1).argmax(dim=1)
    return torch.stack([hot // width, hot % width], dim=1) + 0.5


def rows_of(images: Tensor, scenes: Scenes) -> Tensor:
    """Which scene each image is."""
    return torch.stack([(scenes.images == image).flatten(1).all(dim=1).int().argmax() for image in images])


def tabulate_places(units: Sequence[Unit]) -> list[dict[str, Any]]:
    """A row for each kind of cue: of the reliant classes that were flagged, how many were hit; empty without any."""
    asked = [unit for unit in units if unit["reliant"] and "answer" in unit]
    rows = [_row(kind, [one for one in asked if one["kind"] == kind]) for kind in (*STAYS, *MOVES)]
    placeless = [_placeless(kind, [one for one in asked if one["kind"] == kind]) for kind in NOWHERE]
    return [row for row in (*rows, *placeless) if row["flagged"]]


def _row(kind: str, units: Sequence[Unit]) -> dict[str, Any]:
    return {
        "cue": kind,
        "flagged": len(units),
        "hit": sum(unit["hit"] for unit in units),
        "mean heatmap": "" if kind == "sticker" else sum(unit["heatmap_hit"] for unit in units),
        "a wrong place": sum(unit["answer"] in ("stays", "moves") and not unit["hit"] for unit in units),
        "nothing said": sum(unit["answer"] == "unclear" for unit in units),
        "all over": sum(unit["answer"] == "spread" for unit in units),
        "searched": _total(units, "images_searched"),
        "images hit": _total(units, "images_hit"),
        "heatmaps": _total(units, "images_heatmap_hit"),
        "forwards": round(_total(units, "search_forwards") / max(1, len(units))),
    }


def _placeless(kind: str, units: Sequence[Unit]) -> dict[str, Any]:
    return {
        "cue": f"{kind} (no place)",
        "flagged": len(units),
        "a wrong place": sum(unit["answer"] in ("stays", "moves") for unit in units),
        "nothing said": sum(unit["answer"] == "unclear" for unit in units),
        "all over": sum(unit["answer"] == "spread" for unit in units),
        "forwards": round(_total(units, "search_forwards") / max(1, len(units))),
    }


def _total(units: Sequence[Unit], name: str) -> int:
    return sum(unit[name] for unit in units)


def summarize_places(units: Sequence[Unit]) -> dict[str, Any]:
    """Hits over all cues that have a place, stickers apart; empty where none was asked for."""
    asked = [unit for unit in units if unit["reliant"] and "hit" in unit]
    found: dict[str, Any] = {}
    for name, kinds in (("patches_and_watermarks", ("corner", "watermark")), ("stickers", ("sticker",))):
        some = [unit for unit in asked if unit["kind"] in kinds]
        if some:
            found[f"located_{name}"] = f"{sum(unit['hit'] for unit in some)} of {len(some)}"
    some = [unit for unit in asked if unit["kind"] != "sticker"]
    if some:
        found["located_by_mean_heatmap"] = f"{sum(unit['heatmap_hit'] for unit in some)} of {len(some)}"
    return found
