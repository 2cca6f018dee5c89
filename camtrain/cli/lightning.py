"""`fit`, `validate` and `test`: LightningCLI over any module and any data module, of whichever package of Lightning."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import Namespace
from pytorch_lightning.cli import LightningCLI, SaveConfigCallback

import camtrain.callbacks
import camtrain.data.modules
import camtrain.module  # noqa: F401  loaded, a class is found by its bare name: --model ImageClassifier
from camtrain.errors import CamtrainError, ConfigurationError
from camtrain.loading import imported, require_whole
from camtrain.packages import NAMES, packages_of
from camtrain.sinks.run import Run

_TEST_AFTER_FIT = "test when training ends: the last weights, or those of the best checkpoint"
CHECKPOINTS = "checkpoints"
DEFAULT_NAME = "lightning_logs"


class _InOwnFolder:
    """Writes the configuration to `config.yaml` in the run's own folder, and to the logger.

    Lightning's own callback writes to the logger's `save_dir`, which the runs of a `WandbLogger` share, and refuses
    the second run.
    """

    parser: Any
    config: Any
    config_filename: str

    def __init__(self, parser: Any, config: Any, **options: Any) -> None:
        super().__init__(parser, config, **(options | {"save_to_log_dir": False}))  # type: ignore[call-arg]

    def save_config(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Write the file; Lightning calls this on rank zero, before training."""
        folder = Run.of(trainer).folder
        folder.mkdir(parents=True, exist_ok=True)
        self.parser.save(self.config, str(folder / self.config_filename), skip_none=False, overwrite=True)
        configuration = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
        for logger in trainer.loggers:
            logger.log_hyperparams({"configuration": configuration})


class _AnyModule:
    """LightningCLI over any module and any data module, named by their import paths.

    A module with a `class_names` parameter receives the data module's `class_names`.
    """

    package = NAMES[0]
    subcommand: str | None
    config: Any
    trainer: Any
    model: Any
    datamodule: Any
    _get: Any

    def __init__(self, args: Sequence[str] | None = None, **options: Any) -> None:
        cli: Any = import_module(f"{self.package}.cli")
        super().__init__(
            cli.LightningModule,  # type: ignore[call-arg]
            cli.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=type("SaveConfig", (_InOwnFolder, cli.SaveConfigCallback), {}),
            args=None if args is None else list(args),
            **options,
        )

    def add_arguments_to_parser(self, parser: Any) -> None:
        """Give the module the names of the classes; test after training where that is asked for."""
        parser.add_argument("--test_after_fit", type=Literal["last", "best"] | None, default=None, help=_TEST_AFTER_FIT)
        parser.link_arguments("data", "model.init_args.class_names", compute_fn=_class_names, apply_on="instantiate")

    def before_instantiate_classes(self) -> None:
        """Go on in the folder and the logger's run of the checkpoint that `fit` starts from; find the last one."""
        if self.subcommand == "fit":
            continue_run(self.config["fit"], self.package)
        elif self.config[self.subcommand].ckpt_path == "last":
            locate_last(self.config[self.subcommand])

    def after_fit(self) -> None:
        """Test the weights that training ended with, or those of the best checkpoint."""
        chosen = self._get(self.config, "test_after_fit")
        if chosen is not None:
            self.trainer.test(self.model, datamodule=self.datamodule, ckpt_path="best" if chosen == "best" else None)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """What there is to run, and the arguments that the command line provides itself."""
        offered = LightningCLI.subcommands()
        return {name: offered[name] for name in ("fit", "validate", "test")}


class SaveConfig(_InOwnFolder, SaveConfigCallback):
    """Writes the configuration to `config.yaml` in the run's own folder, and to the logger."""


class CommandLine(_AnyModule, LightningCLI):
    """LightningCLI over any module and any data module, named by their import paths."""


def command_line_for(package: str) -> Any:
    """The `CommandLine` of one of Lightning's packages, whose Trainer takes the modules of that package alone."""
    if package == CommandLine.package:
        return CommandLine
    bases = (_AnyModule, import_module(f"{package}.cli").LightningCLI)
    return type("CommandLine", bases, {"package": package})


def command_line(args: Sequence[str] | None) -> None:
    """Run LightningCLI; None reads the words that the program was called with.

    A mistake in the configuration or the data ends the program with its message, not with a traceback.
    """
    try:
        command_line_for(package_named(sys.argv[1:] if args is None else args))(args)
    except FileNotFoundError as error:
        if "heckpoint" not in str(error):  # Lightning's word for what ckpt_path names
            raise
        sys.exit(f"{error}. Name a file that is there with --ckpt_path, or 'last'.")
    except (CamtrainError, ValueError) as error:
        own = _own_error(error)
        if own is None and 'ckpt_path="best"' in str(error):
            sys.exit(f"{error} Name a file with --ckpt_path, or 'last' for the newest.")
        if own is None:
            raise
        sys.exit(f"{type(own).__name__}: {own}")


def package_named(words: Sequence[str]) -> str:
    """The package of Lightning that the module and data in these words are of; ConfigurationError where they differ.

    >>> package_named(["fit", "--model", "ImageClassifier"])
    'pytorch_lightning'
    """
    sources: dict[str, set[str]] = {}
    for path in _named_classes(words):
        with suppress(ConfigurationError):  # LightningCLI says what is wrong with it
            sources[path] = packages_of(imported(path)) or set(NAMES)
    common = set(NAMES).intersection(*sources.values())
    if not common:
        parts = " and ".join(f"{path} is of {' and '.join(sorted(names))}" for path, names in sources.items())
        raise ConfigurationError(f"A Trainer takes modules and data of its own package alone: {parts}. Import one.")
    return next(name for name in NAMES if name in common)


def _named_classes(words: Sequence[str]) -> Iterator[str]:
    """The import paths of the module and the data: what flags say, else what the configurations say."""
    settings: dict[str, Any] = {}
    for word, following in zip(words, [*words[1:], ""], strict=True):
        flag, equals, value = word.partition("=")
        value = value if equals else following
        if flag in ("--config", "-c") and Path(value).is_file():
            content = yaml.safe_load(Path(value).read_text(encoding="utf-8"))
            content = content if isinstance(content, dict) else {}
            settings |= {name: content[name] for name in ("model", "data") if name in content}
        elif flag in ("--model", "--data"):
            settings[flag[2:]] = value
    for setting in settings.values():
        path = setting.get("class_path") if isinstance(setting, dict) else setting
        if isinstance(path, str) and "." in path:
            yield path


def _own_error(error: BaseException | None) -> CamtrainError | None:
    """The error of camtrain that caused this one: the parser wraps what a constructor raises in its own."""
    while error is not None and not isinstance(error, CamtrainError):
        error = error.__cause__ or error.__context__
    return error


def _class_names(data: Any) -> list[str] | None:
    names = getattr(data, "class_names", None)
    return None if names is None else [str(name) for name in names]


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
        inside = path.parent.name == CHECKPOINTS and path.resolve().parent.parent.parent == runs.resolve()
        return Continued(path, path.resolve().parent.parent.name) if inside else None
    continued = _newest(runs.glob(f"*/{CHECKPOINTS}/*.ckpt"))
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
