"""A training that goes on from a checkpoint goes on in the same folder and in the same run of its logger."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from camtrain.errors import ConfigurationError
from camtrain.loading import require_whole
from camtrain.packages import NAMES

FOLDER = "checkpoints"
DEFAULT_NAME = "lightning_logs"


@dataclass(frozen=True)
class Continued:
    """A checkpoint and the version (W&B: the id) of the run that wrote it."""

    checkpoint: Path
    version: str


def find_continued(checkpoint: str, runs: Path) -> Continued | None:
    """The run that a checkpoint belongs to; for `"last"` the newest checkpoint of all runs in the folder `runs`.

    A run's checkpoints lie in `<runs>/<version>/checkpoints`. None for a checkpoint that lies elsewhere. Raises
    ConfigurationError where `"last"` finds none, and for one that was cut short, with the one before it.
    """
    if checkpoint != "last":
        path = Path(checkpoint)
        require_whole(path)
        inside = path.parent.name == FOLDER and path.resolve().parent.parent.parent == runs.resolve()
        return Continued(path, path.resolve().parent.parent.name) if inside else None
    continued = _newest(runs.glob(f"*/{FOLDER}/*.ckpt"))
    if continued is None:
        raise ConfigurationError(
            f"ckpt_path is 'last', and no run in {runs} has a checkpoint: name the file, or let ModelCheckpoint save "
            "one in every epoch (filename: last, enable_version_counter: false)."
        )
    require_whole(continued)
    return Continued(continued, continued.parent.parent.name)


def continue_run(config: Any, package: str = NAMES[0]) -> Continued | None:
    """Point the first logger of a parsed `fit` configuration at the run that `ckpt_path` comes from, in place.

    Nothing happens without `ckpt_path`, without a logger, or where the logger's configuration names a run already.
    Where none is configured, that of this package of Lightning, as it wrote that run, is.
    """
    logger = _first(config.trainer.logger)
    if not config.ckpt_path or logger is False:
        return None
    if not hasattr(logger, "class_path"):
        continued = find_continued(str(config.ckpt_path), _runs_of(config))
        if continued is not None:
            config.trainer.logger = _default_logger(continued, package)
            config.ckpt_path = str(continued.checkpoint)
        return continued
    key = "id" if logger.class_path.endswith("WandbLogger") else "version"
    options = logger.init_args
    if options.get(key) is not None:
        return None
    continued = find_continued(str(config.ckpt_path), _runs_of(config))
    if continued is not None:
        options[key] = continued.version
        config.ckpt_path = str(continued.checkpoint)
    return continued


def locate_last(config: Any) -> None:
    """Name the newest checkpoint in a parsed `validate` or `test` configuration that asks for the last, in place.

    Where there is no logger, and so no folder of runs, Lightning looks for it.
    """
    if _first(config.trainer.logger) is False:
        return
    continued = find_continued("last", _runs_of(config))
    assert continued is not None
    config.ckpt_path = str(continued.checkpoint)


def _runs_of(config: Any) -> Path:
    """The folder in which the first logger has its runs."""
    root = Path(config.trainer.default_root_dir or ".")
    logger = _first(config.trainer.logger)
    if not hasattr(logger, "class_path"):
        return root / DEFAULT_NAME
    options = logger.init_args
    name = options.get("project") if logger.class_path.endswith("WandbLogger") else options.get("name")
    return Path(options.get("save_dir") or root) / str(name or DEFAULT_NAME)


def _default_logger(continued: Continued, package: str) -> Namespace:
    """The logger that Lightning took where none was configured."""
    folder = continued.checkpoint.resolve().parent.parent
    kind = "TensorBoardLogger" if any(folder.glob("events.out*")) else "CSVLogger"
    options = Namespace(save_dir=str(folder.parent.parent), name=folder.parent.name, version=continued.version)  # type: ignore[no-untyped-call]
    return Namespace(class_path=f"{package}.loggers.{kind}", init_args=options)  # type: ignore[no-untyped-call]


def _first(loggers: Any) -> Any:
    return loggers[0] if isinstance(loggers, list) and loggers else loggers


def _newest(paths: Iterable[Path]) -> Path | None:
    """The last written; of two at once, that which is called `last`."""
    return max(paths, key=lambda path: (path.stat().st_mtime_ns, path.stem.startswith("last")), default=None)
