"""Panels as Weights & Biases media: pictures with masks to toggle, and the tables about them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, fields
from math import isfinite
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import wandb
from torch import Tensor

from camtrain.records import Classes, ClassRow, Example, Panel, Strip, Verdict
from camtrain.records.images import Pixels, to_pixels
from camtrain.render import side_by_side

IMAGES_PER_LIST = 108  # Weights & Biases shows no more
ROWS_PER_TABLE = 10_000
MOVES = ("since_last", "since_first")

Columns = list[str | int]


def picture(pixels: Pixels, caption: str, file_type: str = "jpg", masks: dict[str, Any] | None = None) -> wandb.Image:
    """Encoded here and now: call it from a thread that may take its time."""
    return wandb.Image(pixels, caption=caption, file_type=file_type, masks=masks)


def panel_pictures(panels: Sequence[Panel], epoch: int, file_type: str = "jpg") -> list[wandb.Image]:
    """Each plain image beside its blended heatmaps; object and each heatmap's upper half as masks on the former.

    A list is shown at one size: narrower pictures (a right answer has no heatmap for another class) are filled up.
    """
    joined = [to_pixels(side_by_side([part.cpu().unsqueeze(0) for part in _parts(panel)])[0]) for panel in panels]
    filled = _filled_up(joined)
    return [
        picture(pixels, panel.full_caption(epoch), file_type, panel_masks(panel, pixels.shape[1]) or None)
        for pixels, panel in zip(filled, panels, strict=True)
    ]


def _filled_up(pictures: Sequence[Pixels]) -> list[Pixels]:
    width = max((pixels.shape[1] for pixels in pictures), default=0)
    return [np.pad(p, ((0, 0), (0, width - p.shape[1]), (0, 0)), constant_values=255) for p in pictures]


def _parts(panel: Panel) -> list[Tensor]:
    true = [] if panel.true_overlay is None else [panel.true_overlay]
    return [panel.image, *panel.overlays.values(), *true]


def panel_masks(panel: Panel, width: int) -> dict[str, Any]:
    """Masks by name as `wandb.Image` takes them, on the image at the left of a picture so wide.

    >>> image = torch.zeros(3, 2, 2, dtype=torch.uint8)
    >>> seen = Panel("a", image, {}, 0, 0, "boat", "boat", 0.9, hot={"grad_cam": torch.eye(2) > 0})
    >>> panel_masks(seen, 3)["grad_cam"]["mask_data"].tolist()
    [[2, 0, 0], [0, 2, 0]]
    """
    found: dict[str, Any] = {}
    if panel.mask is not None:
        inside = panel.mask >= 0.5 if panel.mask.is_floating_point() else panel.mask > 0
        found["object"] = {"mask_data": _mask(inside, 1, width), "class_labels": {1: "object"}}
    for index, (method, heat) in enumerate(panel.hot.items(), start=2):
        found[method] = {"mask_data": _mask(heat, index, width), "class_labels": {index: f"evidence, {method}"}}
    return found


def example_picture(example: Example, file_type: str = "jpg") -> wandb.Image:
    """An intervention: the image before and after."""
    pixels = side_by_side([torch.stack([item.cpu()]) for item in (example.original, example.intervened)])[0]
    change = f"{example.class_name}: {100 * example.before:.0f} % to {100 * example.after:.0f} %"
    return picture(to_pixels(pixels), f"{change} · {example.caption}" if example.caption else change, file_type)


def strip_pictures(strips: Sequence[Strip], file_type: str = "jpg") -> list[wandb.Image]:
    """Where cues lie, all as wide as the widest."""
    filled = _filled_up([to_pixels(strip.picture) for strip in strips])
    return [picture(pixels, strip.caption(), file_type) for pixels, strip in zip(filled, strips, strict=True)]


def panel_table(
    panels: Sequence[Panel], epoch: int, pictures: Sequence[Any], verdicts: Mapping[str, str]
) -> wandb.Table:
    """A row for each panel that sorts, filters and groups; a fresh table each time."""
    methods = list(dict.fromkeys(name for panel in panels for name in panel.inside_energy))
    columns: Columns = ["epoch", "sample", "picture", "reason", "true", "predicted", "probability", "true_probability"]
    columns += ["correct", "cell", "verdict", "group", *(f"inside_energy/{name}" for name in methods)]
    columns += [f"{kind}_{since}" for since in MOVES for kind in ("rank_correlation", "shift")] + ["flipped"]
    rows = [_panel_row(panel, epoch, image, methods, verdicts) for panel, image in zip(panels, pictures, strict=True)]
    return wandb.Table(columns=columns, data=rows[:ROWS_PER_TABLE])


def verdict_table(rows: Sequence[Verdict], epoch: int) -> wandb.Table:
    """A row for each class."""
    names = [item.name for item in fields(Verdict) if item.name != "box"]
    data = [[epoch, *(_number(getattr(row, name)) for name in names)] for row in rows]
    return wandb.Table(columns=["epoch", *names], data=data[:ROWS_PER_TABLE])


def class_table(classes: Classes, verdicts: Mapping[str, str]) -> wandb.Table:
    """A row for each true class: how often right, how grounded, and its verdict."""
    cells = list(dict.fromkeys(cell for row in classes.rows for cell in row.cells))
    columns: Columns = ["epoch", "class", "verdict", "images", "accuracy", "inside_energy", *cells]
    rows = [
        [classes.epoch, row.class_name, verdicts.get(row.class_name), row.images, *_measured(row, cells)]
        for row in classes.rows
    ]
    return wandb.Table(columns=columns, data=rows[:ROWS_PER_TABLE])


def _measured(row: ClassRow, cells: Sequence[str]) -> list[Any]:
    return [_number(row.accuracy), _number(row.inside_energy), *(row.cells.get(cell) for cell in cells)]


def _panel_row(panel: Panel, epoch: int, image: Any, methods: Iterable[str], verdicts: Mapping[str, str]) -> list[Any]:
    said = [panel.label_name, panel.predicted_name, _number(panel.probability), _number(panel.true_probability)]
    kind = [panel.correct, panel.cell, verdicts.get(panel.label_name or ""), panel.group_name]
    energies = [_number(panel.inside_energy.get(name)) for name in methods]
    moves = [
        _number(value)
        for move in (panel.since_last, panel.since_first)
        for value in ((None, None) if move is None else astuple(move))
    ]
    return [epoch, panel.sample, image, panel.reason, *said, *kind, *energies, *moves, panel.flipped]


def _mask(inside: Tensor, value: int, width: int) -> Any:
    flat = inside.cpu().to(torch.uint8) * value
    return F.pad(flat, (0, width - flat.shape[-1])).numpy().astype(np.uint8)


def _number(value: Any) -> Any:
    """Tables hold no NaN: an empty cell instead."""
    return None if isinstance(value, float) and not isfinite(value) else value
