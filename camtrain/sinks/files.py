"""Records as local files: what the report is made from, and what is left when a logger fails."""

import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from functools import singledispatchmethod
from math import isfinite
from pathlib import Path
from typing import Any

from jaxtyping import Shaped, UInt8
from torch import Tensor

from camtrain.sinks.images import jpeg, mask_png, to_pixels
from camtrain.sinks.records import Alert, Example, FourCells, Panel, Panels, Record, Scalars, Verdicts

SCALARS_FILE = "scalars.jsonl"
RECORDS_FILE = "records.jsonl"

Line = dict[str, Any]


class FilesSink:
    """Writes `scalars.jsonl`, `records.jsonl` and JPEG pictures under `images/` in a folder.

    Lines are only ever appended and hold no reference to a state in memory: a killed process loses at most the
    line it was writing. `read_history` keeps the last word on each epoch. With `starts=True` the first write
    begins a new stretch of training: what the folder holds of its epoch and of later ones no longer counts
    (a run resumed from a checkpoint, or another run in the same folder).

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> FilesSink(folder).write(Scalars({"cam/empty_maps/grad_cam": 0.0}, epoch=0, step=1))
    >>> (folder / "scalars.jsonl").read_text().strip()
    '{"kind": "scalars", "epoch": 0, "step": 1, "values": {"cam/empty_maps/grad_cam": 0.0}}'
    """

    def __init__(self, folder: str | Path, *, starts: bool = False, quality: int = 90) -> None:
        self.folder = Path(folder)
        self.quality = quality
        self._starts = starts

    def write(self, *records: Record) -> None:
        """Append the records of one pass, the numbers before the pictures."""
        if self._starts and records:
            self._begin(min(record.epoch for record in records))
        for record in sorted(records, key=lambda record: not isinstance(record, Scalars)):
            self._append(SCALARS_FILE if isinstance(record, Scalars) else RECORDS_FILE, self._line(record))

    def close(self) -> None:
        """Nothing is held open."""

    def _begin(self, epoch: int) -> None:
        self._starts = False
        for name in (SCALARS_FILE, RECORDS_FILE):
            self._append(name, {"kind": "start", "epoch": epoch})

    def _append(self, name: str, line: Line) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            torn = file.tell() > 0 and not _ends_in_newline(path)
            file.write(b"\n" * torn + json.dumps(_plain(line)).encode() + b"\n")

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
    def _(self, record: Panels) -> Line:
        panels = [self._panel(panel, f"{record.key}/{slug(panel.sample)}", record.epoch) for panel in record.panels]
        return _head("panels", record) | {"key": record.key, "panels": panels}

    @_line.register
    def _(self, record: Verdicts) -> Line:
        examples = [self._example(example, index, record.epoch) for index, example in enumerate(record.examples)]
        return _head("verdicts", record) | {"rows": [asdict(row) for row in record.rows], "examples": examples}

    def _panel(self, panel: Panel, stem: str, epoch: int) -> Line:
        plain = {name: getattr(panel, name) for name in Panel.__dataclass_fields__}
        return plain | {
            "image": self._picture(stem, panel.image),
            "overlays": {
                method: self._picture(f"{stem}-{slug(method)}-{epoch:04d}", picture)
                for method, picture in panel.overlays.items()
            },
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

    def _picture(self, stem: str, image: UInt8[Tensor, "3 H W"]) -> str:
        return self._store(f"images/{stem}.jpg", jpeg(to_pixels(image), self.quality))

    def _mask(self, stem: str, mask: Shaped[Tensor, "H W"]) -> str:
        return self._store(f"images/{stem}-mask.png", mask_png(mask))

    def _store(self, name: str, content: bytes) -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return name


def slug(name: str) -> str:
    """A file name for any name, readable, and another one for another name.

    >>> slug("grad_cam"), slug("boats/7 (old).png")
    ('grad_cam', 'boats-7-old-.png-edf8c19b')
    """
    safe = re.sub(r"[^A-Za-z0-9_.]+", "-", name)[-60:].lstrip(".")
    return safe if safe == name else f"{safe}-{zlib.crc32(name.encode()):08x}"


def _head(kind: str, record: Record) -> Line:
    return {"kind": kind, "epoch": record.epoch, "step": record.step}


def _ends_in_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"


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
