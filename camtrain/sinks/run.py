"""Run: all that is written of what one Trainer does, its folder, its sinks, its numbers and its report."""

import functools
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from camtrain.packages import is_a
from camtrain.records import MASKS_FILE, Document, Record, Scalars, Verdict, Verdicts, read_history
from camtrain.records.folder import read_run_info, write_run_info, write_verdicts
from camtrain.report import REPORT_FILE, write_report
from camtrain.report.summary import latest_verdicts, summary_of
from camtrain.report.terminal import advised, places, print_summary
from camtrain.sinks.base import Background, PictureFormat, SinkGroup, logger_sinks, shows_pictures
from camtrain.sinks.files import FilesSink

WITHOUT_LOGGER = "camtrain_logs"
UNNAMED = ("lightning_logs", "default")  # loggers' own names, which say nothing

_ATTRIBUTE = "_camtrain_run"  # on the Trainer: a run lives as long as its Trainer does
log = logging.getLogger(__name__)
GUARDED = ("log_metrics", "log_hyperparams", "after_save_checkpoint", "save", "finalize")


class Run:
    """The folder, the sinks, the numbers and the report of one Trainer, shared by all its callbacks.

    Records go to files in `place` and to each logger that is known, each in a thread of its own. Only rank zero
    writes, and nothing is written in a `fast_dev_run`. Use it from `setup` on, when loggers know their version.

    >>> import pytorch_lightning as pl
    >>> trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, barebones=True)
    >>> Run.of(trainer) is Run.of(trainer)
    True
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.pictures: PictureFormat = "jpg"
        self.verdicts: tuple[Verdict, ...] = ()  # the last ones, in every process
        self.quiet = False  # whoever tells the end of a run in words of its own
        self._folder: Path | None = None
        self._groups: dict[Path, SinkGroup] = {}
        self._unpublished: set[Path] = set()
        self._untold: set[Path] = set()
        self._begun: set[tuple[Path, str]] = set()
        self._evaluated: set[str] = set()
        self._evaluated_in = self._evaluated_at = -1  # epoch and step
        self._last = Scalars({}, -1, -1)
        self._guards = ExitStack()
        self._began = datetime.now()

    @classmethod
    def of(cls, trainer: Any) -> "Run":
        """The run of a Trainer of either Lightning package, made when it is first asked for."""
        run = getattr(trainer, _ATTRIBUTE, None)
        if run is None or run.trainer is not trainer:
            run = cls(trainer)
            setattr(trainer, _ATTRIBUTE, run)
        return run

    def __reduce__(self) -> tuple[Any, ...]:
        """Threads stay where they are: with a Trainer that is sent to another process goes a run that has none."""
        return Run, (self.trainer,)

    @property
    def writes(self) -> bool:
        """Whether this process writes: rank zero, and not in a `fast_dev_run`."""
        return bool(self.trainer.is_global_zero and not self.trainer.fast_dev_run)

    @property
    def home(self) -> Path:
        """Where the run's checkpoints lie: `<save_dir>/<name>/<version>` of the first logger, as `ModelCheckpoint`."""
        if not self.trainer.loggers:
            return Path(self.trainer.default_root_dir)
        logger = self.trainer.loggers[0]
        version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
        return Path(logger.save_dir or self.trainer.default_root_dir) / str(logger.name) / version

    @property
    def folder(self) -> Path:
        """The run's own files: `camtrain` beside the checkpoints; without a logger `<default_root_dir>/camtrain_logs`.

        A further run there without a logger gets a folder `version_1` and so on in it; one that goes on from a
        checkpoint has that of the last.
        """
        if self._folder is None:
            if self.trainer.loggers:
                self._folder = self.home / "camtrain"
            else:
                self._folder = numbered(self.home / WITHOUT_LOGGER, last=self.trainer.ckpt_path is not None)
        return self._folder

    @folder.setter
    def folder(self, folder: Path) -> None:
        self._folder = folder

    @property
    def place(self) -> Path:
        """The folder; what `validate` or `test` writes lies in a folder of that name inside it."""
        stage = self.trainer.state.fn
        return self.folder if stage in (None, "fit") else self.folder / str(stage.value)

    @property
    def title(self) -> str:
        """What people call the run: its project, its model, when it began; what its folder says already stays.

        The project is what the logger calls it, else the folder that the run lies in.
        """
        title = read_run_info(self.place).get("title")
        if title:
            return str(title)
        names = [str(logger.name) for logger in self.trainer.loggers if logger.name]
        project = next(
            (name for name in names if name not in UNNAMED), Path(self.trainer.default_root_dir).resolve().name
        )
        return f"{project}, {_model_of(self.trainer.lightning_module)}, {self._began:%Y-%m-%d %H:%M}"

    def is_first_time(self, what: str) -> bool:
        """Whether this is asked for the first time in the folder of the stage that runs."""
        asked = self.has_begun(what)
        self._begun.add((self.place, what))
        return not asked

    def has_begun(self, what: str) -> bool:
        """Whether `is_first_time` was asked for it in the folder of the stage that runs."""
        return (self.place, what) in self._begun

    def write(self, *records: Record) -> None:
        """Hand the records of one pass to the sinks of the stage that runs."""
        self.verdicts = next((each.rows for each in records if isinstance(each, Verdicts)), self.verdicts)
        if self.writes and records:
            self._unpublished.add(self.place)
            self._untold.add(self.place)
            self._sinks().write(*records)

    def show_masks(self, sheet: Callable[[], Image.Image]) -> None:
        """Keep a sheet of the masks that were made for alignment, for the report and the loggers."""
        if self.writes:
            self.place.mkdir(parents=True, exist_ok=True)
            path = self.place / MASKS_FILE
            sheet().save(path, quality=90)
            self.write(Document("masks", (path,), {}, self.trainer.current_epoch, self.trainer.global_step))

    def describe(self, configuration: Mapping[str, Any]) -> None:
        """Write what the run is made of."""
        if self.writes:
            self._unpublished.add(self.place)
            write_run_info(self.place, configuration, title=self.title)

    def end_validation(self) -> None:
        """A pass over held-out data is over: which numbers came from it, and that they are this epoch's.

        Call it on every process: what is logged may have to be collected from all of them.
        """
        results = self.trainer._results
        self._evaluated |= {item.meta.name for item in results.values()} if results is not None else set()
        self._evaluated_in, self._evaluated_at = self.trainer.current_epoch, self.trainer.global_step

    def scalars(self) -> dict[str, float]:
        """This epoch's numbers: what the Trainer has logged, without what is left of an earlier epoch.

        Where no validation was in this epoch that is the last one's numbers, and while one runs those of the training,
        which the epoch's end brings. On every process, as above.
        """
        logged = {name: value for name, value in self.trainer.callback_metrics.items() if self._is_current(name)}
        return {_local(name): float(value) for name, value in logged.items() if torch.as_tensor(value).numel() == 1}

    def _is_current(self, name: str) -> bool:
        if self.trainer.state.fn != "fit":
            return True
        if _plain(name) in self._evaluated:
            return self._evaluated_in == int(self.trainer.current_epoch)
        return bool(self.trainer.training)

    def write_scalars(self) -> dict[str, float]:
        """Write this epoch's numbers where they were not, and return them.

        Those of a validation are written at its own step: an epoch that goes on after it adds no point to them.
        """
        values, epoch, step = self.scalars(), self.trainer.current_epoch, self.trainer.global_step
        over = self.trainer.state.fn == "fit" and step != self._evaluated_at
        fresh = {name: value for name, value in values.items() if not (over and _plain(name) in self._evaluated)}
        row = Scalars(fresh, epoch, step)
        if row != self._last and (fresh or not values):
            self.write(row)
            self._last = row
        return values

    def flush(self) -> None:
        """Wait until everything that was recorded is written."""
        for group in self._groups.values():
            group.flush()

    def publish(self) -> Path:
        """Write the report of the stage when all that was recorded is written, hand it to the sinks, return its path.

        Where nothing was recorded since the last time, the report stays as it is.
        """
        self.flush()
        place = self.place
        if place in self._unpublished and self.writes:
            paths = publish(place)
            epoch, step = self.trainer.current_epoch, self.trainer.global_step
            self._sinks().write(Document("report", paths, summary_of(read_history(place)), epoch, step))
            self._unpublished.discard(place)
        for group in self._groups.values():
            group.close()
        return place / REPORT_FILE

    def conclude(self, *, table: bool = False) -> None:
        """Write the report of the stage that ends, and say what became of it and where things lie, once.

        Every callback calls it at the end; `table` has the numbers said as well.
        """
        place = self.place
        report = self.publish()
        if place not in self._untold or self.quiet:
            return
        self._untold.discard(place)
        history = read_history(place)
        checkpoints = self.trainer.checkpoint_callbacks if self.trainer.state.fn == "fit" else []
        loggers = self.trainer.loggers
        lines = [*advised(history), *places(report, checkpoints, loggers, note=_pictures_are_here(loggers))]
        print_summary(history, lines, table=table)

    def guard_loggers(self) -> None:
        """Let the loggers lose the connection to their service without ending the training."""
        for logger in self.trainer.loggers:
            self._guards.callback(guard(logger))

    def release_loggers(self) -> None:
        """Give the loggers back as they were."""
        self._guards.close()

    def _sinks(self) -> SinkGroup:
        """Those of the stage that runs; what is written first begins a new stretch in the folder."""
        place = self.place
        if place not in self._groups:
            if not read_run_info(place):
                write_run_info(place, {}, title=self.title)
            prefix = "test/" if self.trainer.testing else ""
            files = FilesSink(place, starts=True, pictures=self.pictures)
            sinks = [files, *logger_sinks(self.trainer.loggers, self.pictures, prefix)]
            self._groups[place] = SinkGroup(map(Background, sinks))
        return self._groups[place]


def _model_of(module: Any) -> str:
    """The network that a module says it is made of, else the module's class."""
    model = getattr(module, "hparams", {}).get("model")
    return model.rpartition(":")[2].rpartition(".")[2] if isinstance(model, str) else type(module).__name__


def _plain(name: str) -> str:
    """A logged name as it was given to `log`.

    >>> _plain("val/loss/dataloader_idx_1"), _plain("val/loss_epoch")
    ('val/loss', 'val/loss')
    """
    return name.partition("/dataloader_idx_")[0].removesuffix("_epoch")


def _local(name: str) -> str:
    """The name in the folder of `test`, which says already what `test/` says."""
    return name.removeprefix("test/") if name.startswith(("test/cam/", "test/reliance/")) else name


def _pictures_are_here(loggers: Sequence[Any]) -> str:
    """Said behind the report's path where loggers show no pictures."""
    if not loggers or any(map(shows_pictures, loggers)):
        return ""
    return f" (the pictures are here: {' and '.join(type(logger).__name__ for logger in loggers)} can show none)"


def publish(folder: Path) -> tuple[Path, ...]:
    """Write `report.html`, and `verdicts.json` where there are any, from what the folder holds; return their paths.

    >>> import tempfile
    >>> [path.name for path in publish(Path(tempfile.mkdtemp()))]
    ['report.html']
    """
    report, history = write_report(folder), read_history(folder)
    rows = latest_verdicts(history, max(history.epochs, default=None))
    return (report, write_verdicts(folder, rows)) if rows else (report,)


def numbered(folder: Path, *, last: bool = False) -> Path:
    """The folder, or `version_1` and so on in it where it is in use: the first that is not, or the last that is.

    >>> numbered(Path("no-such-folder")).name
    'no-such-folder'
    """
    places = [folder]
    while _in_use(places[-1]):
        places.append(folder / f"version_{len(places)}")
    return places[-2 if last and len(places) > 1 else -1]


def _in_use(folder: Path) -> bool:
    """Whether anything lies in it, other runs' folders aside."""
    return folder.is_dir() and any(not path.name.startswith("version_") for path in folder.iterdir())


def guard(logger: Any) -> Callable[[], None]:
    """Let a logger's calls fail quietly once the connection to its service is lost; return what undoes this.

    The loss is reported once. Other errors go through as before.

    >>> class Cut:
    ...     def log_metrics(self, metrics):
    ...         raise ConnectionResetError("gone")
    >>> cut = Cut()
    >>> undo = guard(cut)
    >>> cut.log_metrics({})
    >>> undo()
    >>> cut.log_metrics({})
    Traceback (most recent call last):
    ConnectionResetError: gone
    """
    reported: list[str] = []
    undone = ExitStack()
    for name in GUARDED:
        if callable(getattr(logger, name, None)) and name not in vars(logger):
            call = getattr(logger, name)
            call = _named_for_files(call) if name == "log_metrics" and is_a(logger, "MLFlowLogger") else call
            setattr(logger, name, _guarded(call, type(logger).__name__, reported))
            undone.callback(vars(logger).pop, name)
    return undone.close


def _named_for_files(call: Callable[..., Any]) -> Callable[..., Any]:
    """MLflow keeps a metric as a file of its name, which cannot be a folder of others too, nor hold every character."""

    @functools.wraps(call)
    def named(metrics: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        return call({file_name(name): value for name, value in metrics.items()}, *args, **kwargs)

    return named


def file_name(name: str) -> str:
    """The name that MLflow knows a metric of ours by.

    >>> file_name("reliance/effect/sea (north)"), file_name("reliance/effect")
    ('reliance/effect_of/sea _north_', 'reliance/effect')
    """
    head, found, rest = name.partition("reliance/effect/")
    plain = re.sub(r"[^-. :/\w]", "_", rest, flags=re.ASCII)
    return f"{head}reliance/effect_of/{plain}" if found else name


def _guarded(call: Callable[..., Any], owner: str, reported: list[str]) -> Callable[..., Any]:
    @functools.wraps(call)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return call(*args, **kwargs)
        except ConnectionError as error:
            if not reported:
                reported.append(owner)
                log.warning(
                    "%s lost its service (%s: %s); training goes on, and numbers are kept in the run's local files.",
                    owner,
                    type(error).__name__,
                    error,
                )

    return guarded
