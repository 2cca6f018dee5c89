"""Room on a disk that is kept free for numbers, so that a disk full of pictures does not cost them."""

from pathlib import Path

RESERVE_FILE = ".reserve"
SIZE = 512 * 1024


class Appender:
    """Appends lines to files of a folder; on a full disk it gives up its reserve, then keeps lines for the next time.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> Appender(folder).append("numbers.jsonl", b"{}")
    >>> (folder / "numbers.jsonl").read_bytes()
    b'{}\\n'
    """

    def __init__(self, folder: Path, reserve: int = SIZE) -> None:
        self.folder = folder
        self.reserve = reserve
        self._waiting: dict[str, list[bytes]] = {}
        self._reserved = False

    def append(self, name: str, line: bytes) -> None:
        """Append a line, and those that could not be written before; raises OSError where there is no way."""
        self._waiting.setdefault(name, []).append(line)
        self._keep_room()
        try:
            self._write_all()
        except OSError:
            if not self._give_up_reserve():
                raise
            self._write_all()

    def release(self) -> None:
        """Remove the reserve, at the end of a run."""
        self._give_up_reserve()

    def _write_all(self) -> None:
        for name in list(self._waiting):
            _append(self.folder / name, b"".join(line + b"\n" for line in self._waiting[name]))
            del self._waiting[name]

    def _keep_room(self) -> None:
        if self._reserved or not self.reserve:
            return
        self._reserved = True  # once: a disk that has no room for it now gets none later
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / RESERVE_FILE).write_bytes(bytes(self.reserve))
        except OSError:
            self._give_up_reserve()

    def _give_up_reserve(self) -> bool:
        try:
            (self.folder / RESERVE_FILE).unlink()
        except OSError:
            return False
        return True


def _append(path: Path, content: bytes) -> None:
    """All of it or nothing: a line that a full disk cut short is taken back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        start = file.tell()
        torn = start > 0 and not _ends_in_newline(path)
        try:
            file.write(b"\n" * torn + content)
            file.flush()
        except OSError:
            file.truncate(start)
            raise


def _ends_in_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"
