"""Sinks over Lightning's loggers, and the folder that a run's own files go to."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary

from camtrain.packages import is_a
from camtrain.sinks.background import Background
from camtrain.sinks.files import FilesSink
from camtrain.sinks.guard import guard
from camtrain.sinks.history import read_history
from camtrain.sinks.protocol import Sink, SinkGroup
from camtrain.sinks.publishing import is_published, publish, summary_of
from camtrain.sinks.records import Document
from camtrain.sinks.report import REPORT_FILE
from camtrain.sinks.tensorboard import TensorBoardSink
from camtrain.sinks.weights_and_biases import WandbSink

PictureFormat = Literal["jpg", "png"]

_groups: WeakKeyDictionary[Any, dict[Path, SinkGroup]] = WeakKeyDictionary()
_guards: WeakKeyDictionary[Any, list[Callable[[], None]]] = WeakKeyDictionary()
_formats: WeakKeyDictionary[Any, PictureFormat] = WeakKeyDictionary()


def choose_pictures(trainer: Any, pictures: PictureFormat) -> None:
    """How the trainer's sinks encode pictures, "jpg" by default; before the first call of `sinks_for`."""
    _formats[trainer] = pictures


def guard_loggers(trainer: Any) -> None:
    """Let the trainer's loggers lose the connection to their service without ending the training."""
    _guards.setdefault(trainer, []).extend(map(guard, trainer.loggers))


def unguard_loggers(trainer: Any) -> None:
    """Give the loggers back as they were."""
    for undo in _guards.pop(trainer, []):
        undo()


def sinks_for(trainer: Any, folder: str | Path | None = None) -> SinkGroup:
    """Where the trainer's records go: files in `folder` (by default `run_folder`) and each logger that is known.

    The callbacks of one trainer share one group, so that a sink that fails is reported once. Each sink works in a
    thread of its own. Only rank zero writes: elsewhere the group is empty. Call it from `setup` on, when loggers know
    their version.
    """
    if not trainer.is_global_zero:
        return SinkGroup()
    place = run_folder(trainer) if folder is None else Path(folder)
    groups = _groups.setdefault(trainer, {})
    if place not in groups:
        pictures = _formats.get(trainer, "jpg")
        files = FilesSink(place, starts=trainer.state.fn == "fit", pictures=pictures)
        groups[place] = SinkGroup(map(Background, [files, *logger_sinks(trainer.loggers, pictures)]))
    return groups[place]


def flush_sinks(trainer: Any) -> None:
    """Wait until everything that the trainer's callbacks recorded is written; nothing where nothing was."""
    for group in _groups.get(trainer, {}).values():
        group.flush()


def close_sinks(trainer: Any) -> None:
    """Flush and close the trainer's sinks; the next record opens them again."""
    for group in _groups.get(trainer, {}).values():
        group.close()


def publish_run(trainer: Any, folder: Path) -> Path:
    """Write the report of a run when all that was recorded is written, hand it to the sinks, return its path.

    Where nothing was recorded since the last time, the report stays as it is.
    """
    flush_sinks(trainer)
    if not is_published(folder):
        paths = publish(folder)
        epoch, step = trainer.current_epoch, trainer.global_step
        sinks_for(trainer, folder).write(Document("report", paths, summary_of(read_history(folder)), epoch, step))
    close_sinks(trainer)
    return folder / REPORT_FILE


def run_folder(trainer: Any) -> Path:
    """The folder of the run's own files: `<save_dir>/<name>/<version>/camtrain` beside the checkpoints.

    It follows `ModelCheckpoint`: the first logger names it, and without one it is `<default_root_dir>/camtrain`.
    """
    if not trainer.loggers:
        return Path(trainer.default_root_dir) / "camtrain"
    logger = trainer.loggers[0]
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    return Path(logger.save_dir or trainer.default_root_dir) / str(logger.name) / version / "camtrain"


def logger_sinks(loggers: Iterable[Any], pictures: PictureFormat = "jpg") -> list[Sink]:
    """A sink for each logger that shows pictures; the others get their scalars from Lightning."""
    found: list[Sink] = []
    for logger in loggers:
        if is_a(logger, "WandbLogger"):
            found.append(WandbSink(logger, pictures))
        elif is_a(logger, "TensorBoardLogger"):
            found.append(TensorBoardSink(logger))
    return found
