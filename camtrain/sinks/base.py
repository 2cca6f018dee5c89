"""What a sink is, a group of sinks that outlives the failure of any one of them, and the sink of each logger."""

import logging
from collections.abc import Callable, Iterable
from typing import Any, Literal, Protocol, runtime_checkable

from camtrain.packages import is_a
from camtrain.records import Record

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


def logger_sinks(loggers: Iterable[Any], pictures: PictureFormat = "jpg") -> list[Sink]:
    """A sink for each logger that shows pictures; the others get their scalars from Lightning."""
    sinks = (sink_of(logger, pictures) for logger in loggers)
    return [sink for sink in sinks if sink is not None]


def sink_of(logger: Any, pictures: PictureFormat = "jpg") -> Sink | None:
    """The sink for a logger of either package, None for one that shows no pictures."""
    if is_a(logger, "WandbLogger"):
        from camtrain.sinks.wandb import WandbSink

        return WandbSink(logger, pictures)
    if is_a(logger, "TensorBoardLogger"):
        from camtrain.sinks.tensorboard import TensorBoardSink

        return TensorBoardSink(logger)
    if shows_pictures(logger):
        from camtrain.sinks.pictures import PictureSink

        return PictureSink(logger)
    return None


def shows_pictures(logger: Any) -> bool:
    """Whether the logger gets pictures: a known one, or one of your own (`camtrain.sinks.pictures.ShowsImages`)."""
    known = is_a(logger, "WandbLogger", "TensorBoardLogger", "MLFlowLogger", "CometLogger")
    return known or hasattr(logger, "log_image")
