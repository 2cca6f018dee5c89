"""Records as local files: what the report is made from, and what is left when a logger fails."""

import errno
import json
import re
import threading
import zlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import singledispatchmethod
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from jaxtyping import Shaped, UInt8
from torch import Tensor

from camtrain.sinks.images import jpeg, mask_png, png, to_pixels
from camtrain.sinks.records import (
    Alert,
    Classes,
    Document,
    Example,
    FourCells,
    Histograms,
    Metrics,
    Panel,
    Panels,
    Record,
    Scalars,
    Setup,
    Strip,
    Verdicts,
)
from camtrain.sinks.reserve import Appender

SCALARS_FILE = "scalars.jsonl"
RECORDS_FILE = "records.jsonl"

_PICTURES = ("image", "overlays", "true_overlay", "mask", "hot")

Line = dict[str, Any]


class FilesSink:
    """Writes `scalars.jsonl`, `records.jsonl` and pictures under `images/` in a folder.

    Lines are only ever appended and hold no reference to a state in memory: a killed process loses at most the
    line it was writing. `read_history` keeps the last word on each epoch. With `starts=True` the first write
    begins a new stretch of training: what the folder holds of its epoch and of later ones no longer counts
    (a run resumed from a checkpoint, or another run in the same folder).

    Numbers come first, and some room on the disk is kept for them: where pictures cannot be written any more, numbers
    still are. Several threads may write.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> FilesSink(folder).write(Scalars({"cam/empty_maps/grad_cam": 0.0}, epoch=0, step=1))
    >>> (folder / "scalars.jsonl").read_text().strip()
    '{"kind": "scalars", "epoch": 0, "step": 1, "values": {"cam/empty_maps/grad_cam": 0.0}}'
    """

    prompt = (Scalars, FourCells, Histograms, Classes, Metrics, Alert, Setup)

    def __init__(
        self, folder: str | Path, *, starts: bool = False, quality: int = 90, pictures: Literal["jpg", "png"] = "jpg"
    ) -> None:
        self.folder = Path(folder)
        self.quality = quality
        self.pictures = pictures
        self._starts = starts
        self._lock = threading.RLock()
        self._lines = Appender(self.folder)

    def write(self, *records: Record) -> None:
        """Append the records of one pass, the numbers before the pictures; raises the first error at the end."""
        errors = []
        with self._lock:
            if self._starts and records:
                self._begin(min(record.epoch for record in records))
        for record in sorted(records, key=lambda record: not isinstance(record, self.prompt)):
            try:
                self._write(record)
            except OSError as error:
                errors.append(error)
                if isinstance(record, Verdicts) and (record.examples or record.strips):
                    self._write(replace(record, examples=(), strips=()))
        if errors:
            raise errors[0]

    def close(self) -> None:
        """Nothing is held open; the room that was kept is given back."""
        self._lines.release()

    def _write(self, record: Record) -> None:
        if not isinstance(record, Document):
            self._append(SCALARS_FILE if isinstance(record, Scalars) else RECORDS_FILE, self._line(record))

    def _begin(self, epoch: int) -> None:
        self._starts = False
        for name in (SCALARS_FILE, RECORDS_FILE):
            self._append(name, {"kind": "start", "epoch": epoch})

    def _append(self, name: str, line: Line) -> None:
        content = json.dumps(_plain(line)).encode()
        with self._lock:
            self._lines.append(name, content)

    @singledispatchmethod
    def _line(self, record: Record) -> Line:
        raise TypeError(f"FilesSink cannot write a {type(record).__name__}.")

    @_line.register
    def _(self, record: Scalars) -> Line:
        return _head("scalars", record) | {"values": dict(record.values)}

    @_line.register
    def _(self, record: FourCells) -> Line:
        return _head("cells", record) | {"counts": dict(record.counts)}

    @_line.register
    def _(self, record: Alert) -> Line:
        return _head("alert", record) | {"title": record.title, "text": record.text}

    @_line.register
    def _(self, record: Histograms) -> Line:
        return _head("histograms", record) | {"counts": dict(record.counts)}

    @_line.register
    def _(self, record: Classes) -> Line:
        return _head("classes", record) | {"rows": [asdict(row) for row in record.rows], "confusion": record.confusion}

    @_line.register
    def _(self, record: Metrics) -> Line:
        rows, curves = ([asdict(one) for one in some] for some in (record.rows, record.curves))
        return _head("metrics", record) | {"rows": rows, "curves": curves}

    @_line.register
    def _(self, record: Setup) -> Line:
        return _head("setup", record) | {"values": dict(record.values)}

    @_line.register
    def _(self, record: Panels) -> Line:
        panels = [self._panel(panel, f"{record.key}/{slug(panel.sample)}", record.epoch) for panel in record.panels]
        return _head("panels", record) | {"key": record.key, "panels": panels}

    @_line.register
    def _(self, record: Verdicts) -> Line:
        examples = [self._example(example, index, record.epoch) for index, example in enumerate(record.examples)]
        strips = [self._strip(strip, record.epoch) for strip in record.strips]
        rows = [asdict(row) for row in record.rows]
        return _head("verdicts", record) | {"rows": rows, "examples": examples, "strips": strips}

    def _panel(self, panel: Panel, stem: str, epoch: int) -> Line:
        plain = {name: getattr(panel, name) for name in Panel.__dataclass_fields__ if name not in _PICTURES}
        moves = {name: None if move is None else asdict(move) for name, move in _moves(panel).items()}
        overlays = {
            method: self._picture(f"{stem}-{slug(method)}-{epoch:04d}", picture)
            for method, picture in panel.overlays.items()
        }
        true = panel.true_overlay
        return plain | {
            **moves,
            "image": self._picture(stem, panel.image),
            "overlays": overlays,
            "true_overlay": None if true is None else self._picture(f"{stem}-true-{epoch:04d}", true),
            "inside_energy": dict(panel.inside_energy),
            "mask": None if panel.mask is None else self._mask(stem, panel.mask),
        }

    def _example(self, example: Example, index: int, epoch: int) -> Line:
        stem = f"reliance/examples/{slug(example.class_name)}-{epoch:04d}-{index:03d}"
        plain = {name: getattr(example, name) for name in Example.__dataclass_fields__}
        return plain | {
            "original": self._picture(f"{stem}-original", example.original),
            "intervened": self._picture(f"{stem}-intervened", example.intervened),
        }

    def _strip(self, strip: Strip, epoch: int) -> Line:
        plain = {name: getattr(strip, name) for name in Strip.__dataclass_fields__}
        stem = f"reliance/regions/{slug(strip.class_name)}-{epoch:04d}"
        return plain | {"picture": self._picture(stem, strip.picture)}

    def _picture(self, stem: str, image: UInt8[Tensor, "3 H W"]) -> str:
        pixels = to_pixels(image)
        content = png(pixels) if self.pictures == "png" else jpeg(pixels, self.quality)
        return self._store(f"images/{stem}.{self.pictures}", content)

    def _mask(self, stem: str, mask: Shaped[Tensor, "H W"]) -> str:
        return self._store(f"images/{stem}-mask.png", mask_png(mask))

    def _store(self, name: str, content: bytes) -> str:
        path = self.folder / name
        if self._lines.full:
            raise OSError(errno.ENOSPC, "no room for pictures", str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.write_bytes(content)
        except OSError:
            path.unlink(missing_ok=True)  # half a picture takes room from the numbers
            raise
        return name


def _moves(panel: Panel) -> dict[str, Any]:
    return {"since_last": panel.since_last, "since_first": panel.since_first}


def slug(name: str) -> str:
    """A file name for any name, readable, and another one for another name.

    >>> slug("grad_cam"), slug("boats/7 (old).png")
    ('grad_cam', 'boats-7-old-.png-edf8c19b')
    """
    safe = re.sub(r"[^A-Za-z0-9_.]+", "-", name)[-60:].lstrip(".")
    return safe if safe == name else f"{safe}-{zlib.crc32(name.encode()):08x}"


def _head(kind: str, record: Record) -> Line:
    return {"kind": kind, "epoch": record.epoch, "step": record.step}


def _plain(value: Any) -> Any:
    """JSON has no NaN: what is not finite becomes null."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) or hasattr(value, "item"):
        number = float(value)
        return number if isfinite(number) else None
    return value
