"""Lines that must not be lost: room on the disk that is kept for them, and another folder where there is none."""

import errno
import os
import tempfile
from pathlib import Path

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
