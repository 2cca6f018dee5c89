"""Records to Weights & Biases."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, fields
from functools import singledispatchmethod
from math import isfinite
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import wandb
from torch import Tensor

from camtrain.records import (
    FAILURES,
    Alert,
    Classes,
    ClassRow,
    Document,
    Example,
    Histograms,
    Panel,
    Panels,
    Record,
    Scalars,
    Setup,
    Strip,
    Verdict,
    Verdicts,
)
from camtrain.records.images import Pixels, to_pixels
from camtrain.render import side_by_side

TITLE_LENGTH = 63
NAMES = ("cam/*", "reliance/*", "alignment/*")
UNREMARKABLE = ("cam/empty_maps/*", "cam/drift/*")  # an alert says when heatmaps die
Payload = dict[str, Any]
IMAGES_PER_LIST = 108  # Weights & Biases shows no more
ROWS_PER_TABLE = 10_000
MOVES = ("since_last", "since_first")
Columns = list[str | int]


class WandbSink:
    """Sends the records of a pass to Weights & Biases, as one row over `trainer/global_step`.

    Panels become image lists under their key with masks to toggle, and tables (`<key>_table`, a fresh one each pass)
    that sort, filter and group by class, cell and verdict; `runs.history.concat["cam/heatmaps_table"]` in a panel's
    query shows all passes. Alerts are sent as alerts with where to look, documents as artifacts, and the numbers that
    sum up a run go into its summary. `Scalars` go out only where Lightning has not logged them. A run that is
    disabled costs nothing.

    Args:
        logger: has the run as its `experiment`, as Lightning's `WandbLogger`.
        pictures: "jpg", or "png" at about twenty times the cost.
        prefix: goes before each name, as "test/".
    """

    def __init__(self, logger: Any, pictures: str = "jpg", prefix: str = "") -> None:
        self.logger = logger
        self.pictures = pictures
        self.prefix = prefix
        self._verdicts: dict[str, str] = {}
        self._defined = False

    def write(self, *records: Record) -> None:
        """Log one row, and raise the alerts."""
        run = self.logger.experiment
        if run.disabled or not records:
            return
        self._define(run)
        for record in records:
            if isinstance(record, Verdicts):
                self._verdicts = {row.class_name: row.verdict for row in record.rows}
        payload: Payload = {}
        for record in records:
            payload |= self._named(self._payload(record))
        if payload:
            last = records[-1]
            run.log(payload | {"trainer/global_step": last.step, "epoch": last.epoch})
        for record in records:
            self._act(record, run)

    def close(self) -> None:
        """The run is the logger's, which finishes it."""

    def _named(self, values: Mapping[str, Any]) -> Payload:
        return {f"{self.prefix}{name}": value for name, value in values.items()}

    def _define(self, run: Any) -> None:
        """Numbers are drawn over steps, which tell an epoch's passes apart; lines that lie at zero are not drawn."""
        if self._defined:
            return
        self._defined = True
        run.define_metric("epoch")
        run.define_metric("trainer/global_step")
        for names in NAMES:
            run.define_metric(f"{self.prefix}{names}", step_metric="trainer/global_step", step_sync=True)
        for names in UNREMARKABLE:
            run.define_metric(f"{self.prefix}{names}", step_metric="trainer/global_step", step_sync=True, hidden=True)

    @singledispatchmethod
    def _payload(self, record: Record) -> Payload:
        """Nothing of a kind of record that has no place in a row."""
        return {}

    @_payload.register
    def _(self, record: Scalars) -> Payload:
        return {} if record.logged else dict(record.values)

    @_payload.register
    def _(self, record: Histograms) -> Payload:
        return {
            name: wandb.Histogram(np_histogram=(np.array(counts), np.array(record.edges(len(counts)))))
            for name, counts in record.counts.items()
        }

    @_payload.register
    def _(self, record: Classes) -> Payload:
        return {"cam/classes": class_table(record, self._verdicts)} if record.rows else {}

    @_payload.register
    def _(self, record: Panels) -> Payload:
        images = panel_pictures(record.panels, record.epoch, self.pictures)
        shown = {record.key: images[:IMAGES_PER_LIST]} if images else {}
        if not images and record.key != FAILURES:
            return {}
        return {**shown, f"{record.key}_table": panel_table(record.panels, record.epoch, images, self._verdicts)}

    @_payload.register
    def _(self, record: Verdicts) -> Payload:
        images = [example_picture(item, self.pictures) for item in record.examples[:IMAGES_PER_LIST]]
        table = verdict_table(record.rows, record.epoch)
        strips = strip_pictures(record.strips[:IMAGES_PER_LIST], self.pictures)
        shown = {"reliance/examples": images, "reliance/regions": strips}
        return {"reliance/verdicts": table} | {key: some for key, some in shown.items() if some}

    @singledispatchmethod
    def _act(self, record: Record, run: Any) -> None:
        """What is not part of a row."""

    @_act.register
    def _(self, record: Alert, run: Any) -> None:
        where = str(run.url) if run.url else f"offline run {run.id}"
        run.alert(
            record.title[:TITLE_LENGTH],
            f"{record.text}\nPictures: {self.prefix}{FAILURES}_table in {where}",
            level="WARN",
        )

    @_act.register
    def _(self, record: Setup, run: Any) -> None:
        run.config.update({"camtrain": dict(record.values)}, allow_val_change=True)

    @_act.register
    def _(self, record: Document, run: Any) -> None:
        run.summary.update(self._named(record.summary))
        artifact = wandb.Artifact(
            f"{self.prefix.replace('/', '-')}{record.name}-{run.id}", type=f"camtrain-{record.name}"
        )
        for path in record.paths:
            artifact.add_file(str(path), name=path.name)
        if record.paths:
            run.log_artifact(artifact)


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
