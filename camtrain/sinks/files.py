"""Records as local files, which must not be lost: room on the disk is kept for them, and another folder is found."""

import errno
import json
import os
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import Literal

from jaxtyping import Shaped, UInt8
from torch import Tensor

from camtrain.records import (
    Alert,
    Calibration,
    Classes,
    Document,
    FourCells,
    Histograms,
    Metrics,
    Record,
    Scalars,
    Setup,
    Verdicts,
)
from camtrain.records.folder import RECORDS_FILE, SCALARS_FILE
from camtrain.records.formats import Line, line_of
from camtrain.records.images import jpeg, mask_png, png, to_pixels


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

    prompt = (Scalars, FourCells, Histograms, Classes, Calibration, Metrics, Alert, Setup)

    def __init__(
        self, folder: str | Path, *, starts: bool = False, quality: int = 90, pictures: Literal["jpg", "png"] = "jpg"
    ) -> None:
        self.folder = Path(folder)
        self.quality = quality
        self.pictures = pictures
        self._starts = starts
        self._lock = threading.RLock()
        self._lines = Appender(self.folder)
        self._steps: dict[int, int] = {}  # by epoch, of its first pass with pictures

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
            self._append(SCALARS_FILE if isinstance(record, Scalars) else RECORDS_FILE, line_of(record, self))

    def _begin(self, epoch: int) -> None:
        self._starts = False
        for name in (SCALARS_FILE, RECORDS_FILE):
            self._append(name, {"kind": "start", "epoch": epoch})

    def _append(self, name: str, line: Line) -> None:
        content = json.dumps(line).encode()
        with self._lock:
            self._lines.append(name, content)

    def picture(self, stem: str, image: UInt8[Tensor, "3 H W"]) -> str:
        """Keep a picture under `images/`; returns its name in the folder."""
        pixels = to_pixels(image)
        content = png(pixels) if self.pictures == "png" else jpeg(pixels, self.quality)
        return self._store(f"images/{stem}.{self.pictures}", content)

    def mask(self, stem: str, mask: Shaped[Tensor, "H W"]) -> str:
        """Keep a mask as PNG, whatever pictures are kept as."""
        return self._store(f"images/{stem}-mask.png", mask_png(mask))

    def moment(self, epoch: int, step: int) -> str:
        """The epoch, and the step as well in an epoch's later passes."""
        first = self._steps.setdefault(epoch, step)
        return f"{epoch:04d}" if step == first else f"{epoch:04d}-{step}"

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


RESERVE_FILE = ".reserve"
SIZE = 512 * 1024


class Appender:
    """Appends lines to files of a folder, and finds them a place where the disk is full or the folder read-only.

    First it gives up its reserve (from then on `full`: whoever writes pictures should stop); then lines go to a folder
    of their own below the temporary one, which the error names, once; where that fails too, they wait for the next
    time.

    >>> folder = Path(tempfile.mkdtemp())
    >>> Appender(folder).append("numbers.jsonl", b"{}")
    >>> (folder / "numbers.jsonl").read_bytes()
    b'{}\\n'
    """

    def __init__(self, folder: Path, reserve: int = SIZE) -> None:
        self.folder = folder
        self.full = False
        self._reserve = reserve
        self._waiting: dict[str, list[bytes]] = {}

    def append(self, name: str, line: bytes) -> None:
        """Append a line, and those that could not be written before.

        Raises OSError where there is no way into the folder, the first time and whenever lines have to wait.
        """
        self._waiting.setdefault(name, []).append(line)
        self._keep_room()
        try:
            self._write_all()
        except OSError as error:
            if self._give_up_reserve():
                self.full = True
                self._write_all()
            else:
                self._go_elsewhere(error)

    def release(self) -> None:
        """Remove the reserve, at the end of a run."""
        self._give_up_reserve()

    def _write_all(self) -> None:
        for name in list(self._waiting):
            _append(self.folder / name, b"".join(line + b"\n" for line in self._waiting[name]))
            del self._waiting[name]

    def _keep_room(self) -> None:
        size, self._reserve = self._reserve, 0  # once: a disk that has no room for it now gets none later
        if not size:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / RESERVE_FILE).write_bytes(bytes(size))
        except OSError:
            self._give_up_reserve()

    def _give_up_reserve(self) -> bool:
        try:
            (self.folder / RESERVE_FILE).unlink()
        except OSError:
            return False
        return True

    def _go_elsewhere(self, error: OSError) -> None:
        self.full = True
        self.folder = Path(tempfile.mkdtemp(prefix="camtrain-"))
        self._write_all()
        raise OSError(error.errno, f"{error}; numbers go to {self.folder} instead") from error


def _append(path: Path, content: bytes) -> None:
    """All of it or nothing: a line that a full disk cut short is taken back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:
        start = file.seek(0, os.SEEK_END)
        torn = start > 0 and not _ends_in_newline(path)
        whole = b"\n" * torn + content
        try:
            if file.write(whole) != len(whole):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        except OSError:
            file.truncate(start)
            raise


def _ends_in_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"
