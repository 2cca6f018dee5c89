"""Sinks over Lightning's loggers, and the folder that a run's own files go to."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, fields
from functools import singledispatchmethod
from math import isfinite
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import pytorch_lightning as pl
import torch
import wandb
from pytorch_lightning.loggers import Logger, WandbLogger

from camtrain.render import draw_contours, side_by_side
from camtrain.sinks.files import FilesSink
from camtrain.sinks.images import Pixels, to_pixels
from camtrain.sinks.protocol import Sink, SinkGroup
from camtrain.sinks.records import (
    FAILURES,
    Alert,
    Example,
    FourCells,
    Panel,
    Panels,
    Record,
    Scalars,
    VerdictRow,
    Verdicts,
)

IMAGES_PER_LIST = 108  # Weights & Biases shows no more
TITLE_LENGTH = 63

Payload = dict[str, Any]

_groups: WeakKeyDictionary[pl.Trainer, dict[Path, SinkGroup]] = WeakKeyDictionary()


class WandbSink:
    """Sends the records of a pass to Weights & Biases, as one row over `trainer/global_step` and `epoch`.

    Panels become image lists under their key, failures and verdicts also tables that sort and filter (a fresh
    one each pass), alerts alerts. `Scalars` go out only where Lightning has not logged them. A run that is
    disabled costs nothing.
    """

    def __init__(self, logger: WandbLogger) -> None:
        self.logger = logger

    def write(self, *records: Record) -> None:
        """Log one row, and raise the alerts."""
        run = self.logger.experiment
        if run.disabled or not records:
            return
        payload: Payload = {}
        for record in records:
            payload |= self._payload(record)
        if payload:
            last = records[-1]
            run.log(payload | {"trainer/global_step": last.step, "epoch": last.epoch})
        for record in records:
            if isinstance(record, Alert):
                run.alert(record.title[:TITLE_LENGTH], record.text, level="WARN")

    def close(self) -> None:
        """The run is the logger's, which finishes it."""

    @singledispatchmethod
    def _payload(self, record: Record) -> Payload:
        raise TypeError(f"WandbSink cannot log a {type(record).__name__}.")

    @_payload.register(Alert)
    @_payload.register(FourCells)
    def _(self, record: Alert | FourCells) -> Payload:
        return {}

    @_payload.register
    def _(self, record: Scalars) -> Payload:
        return {} if record.logged else dict(record.values)

    @_payload.register
    def _(self, record: Panels) -> Payload:
        images = [_image(_panel_pixels(panel), panel.caption()) for panel in record.panels[:IMAGES_PER_LIST]]
        if record.key != FAILURES:
            return {record.key: images} if images else {}
        table = _failure_table(record.panels, record.epoch)
        return {f"{record.key}_table": table} | ({record.key: images} if images else {})

    @_payload.register
    def _(self, record: Verdicts) -> Payload:
        images = [_image(_example_pixels(item), _example_caption(item)) for item in record.examples]
        table = _verdict_table(record.rows, record.epoch)
        return {"reliance/verdicts": table} | ({"reliance/examples": images[:IMAGES_PER_LIST]} if images else {})


def sinks_for(trainer: pl.Trainer, folder: str | Path | None = None) -> SinkGroup:
    """Where the trainer's records go: files in `folder` (by default `run_folder`) and each logger that is known.

    The callbacks of one trainer share one group, so that a sink that fails is reported once. Only rank zero
    writes: elsewhere the group is empty. Call it from `setup` on, when loggers know their version.
    """
    if not trainer.is_global_zero:
        return SinkGroup()
    place = run_folder(trainer) if folder is None else Path(folder)
    groups = _groups.setdefault(trainer, {})
    if place not in groups:
        groups[place] = SinkGroup([_files(trainer, place), *_logger_sinks(trainer.loggers)])
    return groups[place]


def run_folder(trainer: pl.Trainer) -> Path:
    """The folder of the run's own files: `<save_dir>/<name>/<version>/camtrain` beside the checkpoints.

    It follows `ModelCheckpoint`: the first logger names it, and without one it is `<default_root_dir>/camtrain`.
    """
    if not trainer.loggers:
        return Path(trainer.default_root_dir) / "camtrain"
    logger = trainer.loggers[0]
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    return Path(logger.save_dir or trainer.default_root_dir) / str(logger.name) / version / "camtrain"


def _files(trainer: pl.Trainer, folder: Path) -> Sink:
    return FilesSink(folder, starts=trainer.state.fn == "fit")


def _logger_sinks(loggers: Iterable[Logger]) -> list[Sink]:
    return [WandbSink(logger) for logger in loggers if isinstance(logger, WandbLogger)]


def _image(pixels: Pixels, caption: str) -> wandb.Image:
    return wandb.Image(pixels, caption=caption, file_type="jpg")


def _panel_pixels(panel: Panel) -> Pixels:
    """The image with the object's outline, then each method's overlay, left to right."""
    image = panel.image.cpu().unsqueeze(0)
    outlined = image if panel.mask is None else draw_contours(image, panel.mask.cpu().unsqueeze(0))
    return to_pixels(side_by_side([outlined, *(item.cpu().unsqueeze(0) for item in panel.overlays.values())])[0])


def _example_pixels(example: Example) -> Pixels:
    return to_pixels(side_by_side([torch.stack([item.cpu()]) for item in (example.original, example.intervened)])[0])


def _example_caption(example: Example) -> str:
    change = f"{example.class_name}: {100 * example.before:.0f} % to {100 * example.after:.0f} %"
    return f"{change} · {example.caption}" if example.caption else change


def _failure_table(panels: Sequence[Panel], epoch: int) -> wandb.Table:
    methods = list(dict.fromkeys(name for panel in panels for name in panel.inside_energy))
    columns: list[str | int] = ["epoch", "sample", "picture", "true", "predicted", "probability", "true_probability"]
    columns += ["correct", "cell", "group", *(f"inside_energy/{name}" for name in methods)]
    return wandb.Table(columns=columns, data=[_failure_row(panel, epoch, methods) for panel in panels])


def _failure_row(panel: Panel, epoch: int, methods: Sequence[str]) -> list[Any]:
    picture = _image(_panel_pixels(panel), panel.caption())
    said = [panel.label_name, panel.predicted_name, _number(panel.probability), _number(panel.true_probability)]
    kind = [panel.correct, panel.cell, panel.group_name]
    return [epoch, panel.sample, picture, *said, *kind, *_numbers(panel.inside_energy, methods)]


def _verdict_table(rows: Sequence[VerdictRow], epoch: int) -> wandb.Table:
    columns: list[str | int] = ["epoch", *(item.name for item in fields(VerdictRow))]
    return wandb.Table(columns=columns, data=[[epoch, *map(_number, astuple(row))] for row in rows])


def _numbers(values: Mapping[str, float], names: Iterable[str]) -> list[Any]:
    return [_number(values.get(name)) for name in names]


def _number(value: Any) -> Any:
    """Tables hold no NaN: an empty cell instead."""
    return None if isinstance(value, float) and not isfinite(value) else value
