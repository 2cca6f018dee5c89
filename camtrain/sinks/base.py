"""What a sink is, a group of sinks that outlives the failure of any one of them, the sink of each logger, and
sinks that work in the background."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Unfinished
from dataclasses import replace
from typing import Any, Literal, Protocol, runtime_checkable

from camtrain.packages import is_a
from camtrain.records import Panels, Record, Verdicts

log = logging.getLogger(__name__)


@runtime_checkable
class Sink(Protocol):
    """Where records go: files, a logger, a report.

    The records of one `write` belong to one pass over the data, and share one row where a sink has rows.
    A sink ignores the kinds of record it has no use for. `close` may come more than once, and a `write` after
    it still works.
    """

    def write(self, *records: Record) -> None:
        """Take the records of one pass."""

    def close(self) -> None:
        """Let go of what is held; nothing that was written may be lost."""


class SinkGroup:
    """Several sinks as one: a sink that raises is reported once and tried again with the next records, others go on.

    >>> group = SinkGroup([])
    >>> group.write()
    >>> len(group)
    0
    """

    def __init__(self, sinks: Iterable[Sink] = ()) -> None:
        self.sinks: list[Sink] = list(sinks)
        self._reported: set[int] = set()

    def __len__(self) -> int:
        return len(self.sinks)

    def write(self, *records: Record) -> None:
        """Hand the records of one pass to every sink."""
        for sink in self.sinks:
            self._attempt(sink, lambda sink: sink.write(*records))

    def flush(self) -> None:
        """Wait until the sinks that work in the background have written everything."""
        for sink in self.sinks:
            self._attempt(sink, lambda sink: getattr(sink, "flush", lambda: None)())

    def close(self) -> None:
        """Close every sink."""
        for sink in self.sinks:
            self._attempt(sink, lambda sink: sink.close())

    def _attempt(self, sink: Sink, act: Callable[[Sink], None]) -> None:
        try:
            act(sink)
        except Exception as error:
            self._report(sink, error)

    def _report(self, sink: Sink, error: Exception) -> None:
        if id(sink) in self._reported:
            return
        self._reported.add(id(sink))
        log.warning(
            "%s failed (%s: %s); training and the other sinks go on, and further failures are not reported.",
            getattr(sink, "name", type(sink).__name__),
            type(error).__name__,
            error,
            exc_info=log.isEnabledFor(logging.DEBUG),
        )


PictureFormat = Literal["jpg", "png"]


def logger_sinks(loggers: Iterable[Any], pictures: PictureFormat = "jpg", prefix: str = "") -> list[Sink]:
    """A sink for each logger that shows pictures; the others get their scalars from Lightning.

    ``prefix`` goes before each name that a logger shows, as "test/", so that a test stands apart from the validations.
    """
    sinks = (sink_of(logger, pictures, prefix) for logger in loggers)
    return [sink for sink in sinks if sink is not None]


def sink_of(logger: Any, pictures: PictureFormat = "jpg", prefix: str = "") -> Sink | None:
    """The sink for a logger of either package, None for one that shows no pictures."""
    if is_a(logger, "WandbLogger"):
        from camtrain.sinks.wandb import WandbSink

        return WandbSink(logger, pictures, prefix)
    if is_a(logger, "TensorBoardLogger"):
        from camtrain.sinks.tensorboard import TensorBoardSink

        return TensorBoardSink(logger, prefix)
    if shows_pictures(logger):
        from camtrain.sinks.pictures import PictureSink

        return PictureSink(logger, prefix)
    return None


def shows_pictures(logger: Any) -> bool:
    """Whether the logger gets pictures: a known one, or one of your own (`camtrain.sinks.pictures.ShowsImages`)."""
    known = is_a(logger, "WandbLogger", "TensorBoardLogger", "MLFlowLogger", "CometLogger")
    return known or hasattr(logger, "log_image")


MOST_PICTURES = 256
PATIENCE = 60.0  # seconds to wait at the end for a sink that does not come back

Complain = Callable[[Exception], None]


class Background:
    """Hands records to another sink from one thread, in order.

    At most `most_pictures` panels and examples wait: the oldest ones are dropped to make room for new ones, and how
    many is said when the sink is flushed. Nothing else is ever dropped. Kinds in the sink's `prompt` (records that are
    cheap and must outlive a killed process) are written at once by the caller.

    What the sink raises in the thread is kept, and raised by the next `write` or `flush`. At the end of the process
    whatever waits is still written.

    >>> from camtrain.sinks.base import SinkGroup
    >>> from camtrain.records import Scalars
    >>> sink = Background(SinkGroup())
    >>> sink.write(Scalars({}, epoch=0, step=0))
    >>> sink.flush()
    """

    def __init__(self, sink: Sink, most_pictures: int = MOST_PICTURES) -> None:
        self.sink = sink
        self.most_pictures = most_pictures
        self.dropped = 0
        self._prompt: tuple[type, ...] = getattr(sink, "prompt", ())
        self._waiting: deque[tuple[Record, ...]] = deque()
        self._lock = threading.Lock()
        self._errors: list[Exception] = []
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=type(sink).__name__)
        self._last: Future[None] | None = None
        self._said = 0

    @property
    def name(self) -> str:
        """What the sink behind is called."""
        return type(self.sink).__name__

    def write(self, *records: Record) -> None:
        """Take the records and return at once; raises what went wrong earlier."""
        at_once = [record for record in records if isinstance(record, self._prompt)]
        later = tuple(record for record in records if not isinstance(record, self._prompt))
        if later:
            with self._lock:
                self._waiting.append(later)
                self.dropped += drop_oldest(self._waiting, self.most_pictures)
            self._last = self._executor.submit(self._work)
        if at_once:
            self.sink.write(*at_once)
        self._raise()

    def flush(self) -> None:
        """Wait until everything is written, but no longer than `PATIENCE`; say how many pictures were dropped."""
        if self._last is not None:
            self._wait(self._last)
        if self.dropped > self._said:
            log.warning("%s was too slow: %d pictures were dropped, no numbers.", self.name, self.dropped - self._said)
            self._said = self.dropped
        self._raise()

    def close(self) -> None:
        """Flush, and close the sink."""
        self.flush()
        self.sink.close()

    def _wait(self, last: "Future[None]") -> None:
        try:
            last.result(PATIENCE)
        except (TimeoutError, Unfinished):  # the same from Python 3.11 on
            self._errors.append(TimeoutError(f"still busy after {PATIENCE:.0f} s with {len(self._waiting)} passes"))

    def _work(self) -> None:
        with self._lock:
            records = self._waiting.popleft()
        try:
            self.sink.write(*records)
        except Exception as error:
            self._errors.append(error)

    def _raise(self) -> None:
        if self._errors:
            errors, self._errors = self._errors, []
            raise errors[0]


def drop_oldest(waiting: "deque[tuple[Record, ...]]", most: int) -> int:
    """Take the oldest pictures out of what waits until at most `most` are left; how many were taken."""
    excess = max(0, sum(pictures_in(records) for records in waiting) - most)
    left = excess
    for index, records in enumerate(waiting):
        if left <= 0:
            break
        kept: list[Record] = []
        for record in records:
            without = _without_oldest(record, left)
            left -= pictures_in([record]) - pictures_in([without])
            kept.append(without)
        waiting[index] = tuple(kept)
    return excess - max(0, left)


def pictures_in(records: Sequence[Record]) -> int:
    """How many panels, examples and strips there are."""
    return sum(
        len(record.panels) if isinstance(record, Panels) else len(record.examples) + len(record.strips)
        for record in records
        if isinstance(record, Panels | Verdicts)
    )


def _without_oldest(record: Record, count: int) -> Record:
    if isinstance(record, Panels):
        return replace(record, panels=record.panels[count:])
    if isinstance(record, Verdicts):
        rest = max(0, count - len(record.examples))
        return replace(record, examples=record.examples[count:], strips=record.strips[rest:])
    return record
