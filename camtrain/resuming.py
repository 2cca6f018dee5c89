"""A training that goes on from a checkpoint goes on in the same folder and in the same run of its logger."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from camtrain.errors import ConfigurationError

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
    ConfigurationError where `"last"` finds none.
    """
    if checkpoint != "last":
        path = Path(checkpoint)
        inside = path.parent.name == FOLDER and path.resolve().parent.parent.parent == runs.resolve()
        return Continued(path, path.resolve().parent.parent.name) if inside else None
    found = _newest(runs.glob(f"*/{FOLDER}/*.ckpt"))
    if found is None:
        raise ConfigurationError(
            f"ckpt_path is 'last', and no run in {runs} has a checkpoint: name the file, or let ModelCheckpoint save "
            "one in every epoch (filename: last, enable_version_counter: false)."
        )
    return Continued(found, found.parent.parent.name)


def continue_run(config: Any) -> Continued | None:
    """Point the first logger of a parsed `fit` configuration at the run that `ckpt_path` comes from, in place.

    Nothing happens without `ckpt_path`, without a logger that is named by its class, or where the logger's
    configuration names a run already.
    """
    logger = _first(config.trainer.logger)
    if not config.ckpt_path or not hasattr(logger, "class_path"):
        return None
    key = "id" if logger.class_path.endswith("WandbLogger") else "version"
    options = logger.init_args
    if options.get(key) is not None:
        return None
    name = options.get("project") if key == "id" else options.get("name")
    runs = Path(options.get("save_dir") or config.trainer.default_root_dir or ".") / str(name or DEFAULT_NAME)
    found = find_continued(str(config.ckpt_path), runs)
    if found is not None:
        options[key] = found.version
        config.ckpt_path = str(found.checkpoint)
    return found


def _first(loggers: Any) -> Any:
    return loggers[0] if isinstance(loggers, list) and loggers else loggers


def _newest(paths: Iterable[Path]) -> Path | None:
    """The last written; of two at once, that which is called `last`."""
    return max(paths, key=lambda path: (path.stat().st_mtime_ns, path.stem.startswith("last")), default=None)
