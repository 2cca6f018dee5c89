"""Each kind of record as a line of JSON, its writer and its reader side by side.

What was not finite is null in a line, NaN in scalars and verdicts when read, None elsewhere. Pictures are files that a
line names. A reader takes the lines of every earlier version.
"""

import json
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from math import ceil, isfinite, nan
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Shaped, UInt8
from torch import Tensor

from camtrain.records.kinds import (
    Alert,
    Calibration,
    Classes,
    ClassRow,
    FourCells,
    Histograms,
    Metrics,
    Record,
    Scalars,
    Setup,
    Verdict,
    Verdicts,
)
from camtrain.records.panels import Example, Gallery, Panel, Panels, Strip

NAN = float("nan")

Line = dict[str, Any]


class Moment(float):
    """A pass within an epoch: `Moment(1.25)` lies between the ends of epochs 1 and 2, a quarter into epoch 2.

    >>> print(Moment(1.25), Moment(-0.5))
    2 at 25 % 0 at 50 %
    """

    def __str__(self) -> str:
        epoch = ceil(self)
        return f"{epoch} at {100 * (self - epoch + 1):.0f} %"


Epoch = int | Moment


@dataclass(frozen=True)
class Pass:
    """The lines of one epoch under one key; `step` tells a later pass over the same epoch from an earlier one."""

    epoch: Epoch
    step: int
    items: list[Line]


@dataclass(frozen=True)
class History:
    """A run as read from its files: by name, key and epoch, epochs ascending; pictures are paths in the folder.

    Where an epoch has several passes its number is that of the last one, and the others are `Moment`s before it.

    `scalars[name][epoch]`, `panels[key][epoch].items`, `cells[epoch]` (counts by cell), `verdicts[epoch]`,
    `examples[epoch]` and `strips[epoch]`, `alerts` in order, `histograms[epoch][name]` (counts), `classes[epoch]` with
    `rows` and `confusion`, `calibrations[epoch]` and `galleries[epoch]` (the lines of these records),
    `metrics[epoch]` with `rows` and `curves`, `setup` of the explanations. What was not finite
    is NaN in scalars and None elsewhere.

    >>> History().epochs
    []
    """

    scalars: dict[str, dict[Epoch, float]] = field(default_factory=dict)
    panels: dict[str, dict[Epoch, Pass]] = field(default_factory=dict)
    cells: dict[Epoch, dict[str, int]] = field(default_factory=dict)
    verdicts: dict[Epoch, list[Verdict]] = field(default_factory=dict)
    examples: dict[Epoch, list[Line]] = field(default_factory=dict)
    strips: dict[Epoch, list[Line]] = field(default_factory=dict)
    alerts: list[Line] = field(default_factory=list)
    histograms: dict[Epoch, dict[str, list[int]]] = field(default_factory=dict)
    classes: dict[Epoch, Line] = field(default_factory=dict)
    calibrations: dict[Epoch, Line] = field(default_factory=dict)
    galleries: dict[Epoch, Line] = field(default_factory=dict)
    metrics: dict[Epoch, Line] = field(default_factory=dict)
    setup: dict[str, Any] = field(default_factory=dict)

    @property
    def epochs(self) -> list[Epoch]:
        """Every epoch that anything was recorded in, ascending."""
        tables: list[dict[Epoch, Any]] = [*self.scalars.values(), *self.panels.values(), self.cells, self.verdicts]
        return sorted({epoch for by_epoch in tables for epoch in by_epoch})


_PICTURES = ("image", "overlays", "true_overlay", "mask", "hot")
_OWN_WORDS = ("words", "outcome")  # of tasks whose answers are no classes; else left out


@runtime_checkable
class PictureStore(Protocol):
    """What keeps pictures under a name without an ending, and returns what a line names them by."""

    def picture(self, stem: str, image: UInt8[Tensor, "3 H W"]) -> str:
        """Keep a picture."""

    def mask(self, stem: str, mask: Shaped[Tensor, "H W"]) -> str:
        """Keep a mask."""

    def moment(self, epoch: int, step: int) -> str:
        """What tells the pictures of this pass from those of others."""


def line_of(record: Record, store: PictureStore) -> Line:
    """The record as a line.

    >>> from camtrain.sinks import FilesSink
    >>> line_of(Scalars({"loss": nan}, epoch=0, step=1), store=FilesSink("unused"))
    {'kind': 'scalars', 'epoch': 0, 'step': 1, 'values': {'loss': None}}
    """
    kind, write = WRITERS[type(record)]
    head = {"kind": kind, "epoch": record.epoch, "step": record.step}
    line: Line = plain(head | write(record, store))
    return line


def read_line(history: History, line: Line) -> None:
    """Add what a line says; a kind of a later version is left out."""
    if line["kind"] in READERS:
        READERS[line["kind"]](history, line)


def parse(text: str) -> Line | None:
    """The line of a text; None for one that a crash cut short."""
    try:
        line: Line = json.loads(text)
    except json.JSONDecodeError:
        return None
    return line if isinstance(line, dict) and {"kind", "epoch"} <= line.keys() else None


def plain(value: Any) -> Any:
    """JSON has no NaN: what is not finite becomes null.

    >>> plain({"a": (1, nan)})
    {'a': [1, None]}
    """
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) or hasattr(value, "item"):
        number = float(value)
        return number if isfinite(number) else None
    return value


def slug(name: str) -> str:
    """A file name for any name, readable, and another one for another name.

    >>> slug("grad_cam"), slug("boats/7 (old).png")
    ('grad_cam', 'boats-7-old-.png-edf8c19b')
    """
    safe = re.sub(r"[^A-Za-z0-9_.]+", "-", name)[-60:].lstrip(".")
    return safe if safe == name else f"{safe}-{zlib.crc32(name.encode()):08x}"


def _write_scalars(record: Scalars, store: PictureStore) -> Line:
    return {"values": dict(record.values)}


def _read_scalars(history: History, line: Line) -> None:
    for name, value in line["values"].items():
        history.scalars.setdefault(name, {})[line["epoch"]] = _number(value)


def _write_cells(record: FourCells, store: PictureStore) -> Line:
    return {"counts": dict(record.counts)}


def _read_cells(history: History, line: Line) -> None:
    history.cells[line["epoch"]] = line["counts"]


def _write_alert(record: Alert, store: PictureStore) -> Line:
    return {"title": record.title, "text": record.text}


def _read_alert(history: History, line: Line) -> None:
    if line not in history.alerts:
        history.alerts.append(line)


def _write_histograms(record: Histograms, store: PictureStore) -> Line:
    return {"counts": dict(record.counts)}


def _read_histograms(history: History, line: Line) -> None:
    history.histograms[line["epoch"]] = line["counts"]


def _write_classes(record: Classes, store: PictureStore) -> Line:
    return {"rows": [_class_row(row) for row in record.rows], "confusion": record.confusion}


def _class_row(row: ClassRow) -> Line:
    """Without masks nothing is said of chance, and of classes not what was missed."""
    unsaid = {"chance"} if not isfinite(row.chance) else set()
    unsaid |= {"missed", "invented"} if row.missed is None else set()
    return {name: value for name, value in asdict(row).items() if name not in unsaid}


def _read_classes(history: History, line: Line) -> None:
    history.classes[line["epoch"]] = line


def _write_calibration(record: Calibration, store: PictureStore) -> Line:
    return asdict(record)


def _read_calibration(history: History, line: Line) -> None:
    history.calibrations[line["epoch"]] = line


def _write_gallery(record: Gallery, store: PictureStore) -> Line:
    moment = store.moment(record.epoch, record.step)
    sheets = [store.picture(f"cam/gallery/{moment}-{index:03d}", sheet) for index, sheet in enumerate(record.sheets)]
    return {"columns": dict(record.columns), "sheets": sheets, "side": record.side, "images": record.images}


def _read_gallery(history: History, line: Line) -> None:
    history.galleries[line["epoch"]] = line


def _write_metrics(record: Metrics, store: PictureStore) -> Line:
    return {"rows": _rows(record.rows), "curves": _rows(record.curves)}


def _read_metrics(history: History, line: Line) -> None:
    history.metrics[line["epoch"]] = line


def _write_setup(record: Setup, store: PictureStore) -> Line:
    pictured = {} if record.masks is None else {"masks_picture": store.picture("masks", record.masks)}
    return {"values": {**record.values, **pictured}}


def _read_setup(history: History, line: Line) -> None:
    history.setup.update(line["values"])


def _write_panels(record: Panels, store: PictureStore) -> Line:
    return {"key": record.key, "panels": [_panel(panel, record, store) for panel in record.panels]}


def _panel(panel: Panel, record: Panels, store: PictureStore) -> Line:
    """The image and the mask of a sample stay the same, its heatmaps have a file for each pass."""
    stem, true = f"{record.key}/{slug(panel.sample)}", panel.true_overlay
    moment = store.moment(record.epoch, record.step)
    line = {item.name: getattr(panel, item.name) for item in fields(Panel) if item.name not in _PICTURES}
    line = {name: value for name, value in line.items() if name not in _OWN_WORDS or value}
    line |= {name: None if line[name] is None else asdict(line[name]) for name in ("since_last", "since_first")}
    overlays = {
        method: store.picture(f"{stem}-{slug(method)}-{moment}", overlay) for method, overlay in panel.overlays.items()
    }
    return line | {
        "image": store.picture(stem, panel.image),
        "overlays": overlays,
        "true_overlay": None if true is None else store.picture(f"{stem}-true-{moment}", true),
        "mask": None if panel.mask is None else store.mask(stem, panel.mask),
    }


def _read_panels(history: History, line: Line) -> None:
    """Panels of the same pass are joined by sample."""
    passes = history.panels.setdefault(line["key"], {})
    earlier = passes.get(line["epoch"])
    joined = earlier.items if earlier is not None and earlier.step == line["step"] else []
    items = {item["sample"]: item for item in (*joined, *line["panels"])}
    passes[line["epoch"]] = Pass(line["epoch"], line["step"], list(items.values()))


def _write_verdicts(record: Verdicts, store: PictureStore) -> Line:
    moment = store.moment(record.epoch, record.step)
    examples = [_example(example, index, moment, store) for index, example in enumerate(record.examples)]
    strips = [_strip(strip, moment, store) for strip in record.strips]
    return {"rows": _rows(record.rows), "examples": examples, "strips": strips}


def _example(example: Example, index: int, moment: str, store: PictureStore) -> Line:
    stem = f"reliance/examples/{slug(example.class_name)}-{moment}-{index:03d}"
    line = {item.name: getattr(example, item.name) for item in fields(Example)}
    line["original"] = store.picture(f"{stem}-original", example.original)
    line["intervened"] = store.picture(f"{stem}-intervened", example.intervened)
    return line


def _strip(strip: Strip, moment: str, store: PictureStore) -> Line:
    line = {item.name: getattr(strip, item.name) for item in fields(Strip)}
    line["picture"] = store.picture(f"reliance/regions/{slug(strip.class_name)}-{moment}", strip.picture)
    return line


def _read_verdicts(history: History, line: Line) -> None:
    history.verdicts[line["epoch"]] = [read_verdict(row) for row in line["rows"]]
    history.examples[line["epoch"]] = line["examples"]
    history.strips[line["epoch"]] = line.get("strips", [])


def read_verdict(row: Line) -> Verdict:
    """The row of a verdict's plain values.

    >>> read_verdict(plain(asdict(Verdict(0, "boat", "undecided", nan, nan, nan, 0.0, nan, 2)))).effect
    nan
    """
    numbers = ("effect", "low", "high", "placebo", "p_value", "placebo_flips")
    box = {"box": tuple(row["box"])} if row.get("box") else {}  # JSON has no tuples
    return Verdict(**(row | box | {name: _number(row[name]) for name in numbers if name in row}))


def _rows(records: Iterable[Any]) -> list[Line]:
    return [asdict(record) for record in records]


def _number(value: float | None) -> float:
    return nan if value is None else float(value)


WRITERS: dict[type, tuple[str, Callable[[Any, PictureStore], Line]]] = {
    Scalars: ("scalars", _write_scalars),
    Panels: ("panels", _write_panels),
    FourCells: ("cells", _write_cells),
    Verdicts: ("verdicts", _write_verdicts),
    Alert: ("alert", _write_alert),
    Histograms: ("histograms", _write_histograms),
    Classes: ("classes", _write_classes),
    Calibration: ("calibration", _write_calibration),
    Gallery: ("gallery", _write_gallery),
    Metrics: ("metrics", _write_metrics),
    Setup: ("setup", _write_setup),
}
READERS: dict[str, Callable[[History, Line], None]] = {
    "scalars": _read_scalars,
    "panels": _read_panels,
    "cells": _read_cells,
    "verdicts": _read_verdicts,
    "alert": _read_alert,
    "histograms": _read_histograms,
    "classes": _read_classes,
    "calibration": _read_calibration,
    "gallery": _read_gallery,
    "metrics": _read_metrics,
    "setup": _read_setup,
}
