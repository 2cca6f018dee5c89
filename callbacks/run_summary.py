"""RunSummary: what became of a run, on the terminal, in `run.json` and in the report."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.table import Table

from camtrain.callbacks._lightning import Attempt, Callback, LightningModule, Trainer, run_place
from camtrain.packages import is_a
from camtrain.reliance.remedies import advice_for
from camtrain.sinks import History, Scalars, VerdictRow, read_history
from camtrain.sinks.environment import write_run_info
from camtrain.sinks.formatting import signed
from camtrain.sinks.loggers import flush_sinks, publish_run, run_folder, sinks_for
from camtrain.sinks.report import REPORT_FILE
from camtrain.sinks.story import (
    RELIANT,
    Span,
    alignment_start,
    headline,
    latest_verdicts,
    measures,
    shown,
    span,
)

CLASSES_SHOWN = 10
NOTHING = "–"


class RunSummary(Callback):
    """A line for each epoch, and a table at the end of `fit`: what alignment changed, the verdicts, what lies where.

    Each epoch it keeps what the Trainer has logged (`trainer.callback_metrics`) in the local files of the run, beside
    the configuration and the versions (`run.json`); at the end, after an interruption or an error too, it writes
    `report.html` there. It needs no logger, works on rank zero only, and what fails in it is reported once and does
    not end the training. After `validate` and `test` it says what was found and where the report lies. Before alignment
    means the last epoch before `alignment/weight` rose above zero; without alignment the first and the last epoch are
    compared.

    >>> RunSummary().state_key
    'RunSummary'
    """

    def __init__(self) -> None:
        self._evaluated: set[str] = set()
        self._evaluated_at = -1
        self._epochs_kept = 0
        self._attempt = Attempt("RunSummary")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what the run is made of."""
        self._epochs_kept = 0
        if self.should_keep(trainer):
            self._attempt(_write_run_info, trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember which numbers come from validation, and of which epoch they are."""
        if not trainer.sanity_checking:
            self._evaluated |= {name for name in trainer.callback_metrics if not name.startswith("train")}
            self._evaluated_at = trainer.current_epoch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the epoch's numbers."""
        if self.should_keep(trainer):
            self._attempt(self._keep, trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the report and print the table."""
        if self.should_keep(trainer) and self._epochs_kept:
            self._attempt(summarize, trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The same for what there is of the run."""
        if trainer.state.fn == "fit":
            self.on_fit_end(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """After `validate` and `test`, say what was found and where the report lies, if there is one."""
        if stage in ("validate", "test") and self.should_keep(trainer):
            self._attempt(tell, trainer)

    def should_keep(self, trainer: Trainer) -> bool:
        """Whether this process writes: rank zero, and not in a `fast_dev_run`."""
        return trainer.is_global_zero and not trainer.fast_dev_run  # type: ignore[attr-defined]

    def _keep(self, trainer: Trainer) -> None:
        stale = self._evaluated if self._evaluated_at != trainer.current_epoch else ()
        values = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if name not in stale and torch.as_tensor(value).numel() == 1
        }
        sinks_for(trainer).write(Scalars(values, trainer.current_epoch, trainer.global_step))
        self._epochs_kept += 1
        _say(trainer, epoch_line(values, trainer.current_epoch))


def epoch_line(values: Mapping[str, float], epoch: int) -> str:
    """An epoch in a line: its accuracies, inside energy, flagged classes, and whether alignment is on.

    >>> epoch_line({"val/accuracy": 0.91, "cam/inside_energy/grad_cam": 0.4, "alignment/weight": 1.0}, epoch=3)
    'epoch 3: accuracy 91.0 %, inside energy 0.40, alignment on'
    """
    history = History(scalars={name: {epoch: value} for name, value in values.items()})
    said: dict[str, str] = {}
    for measure in measures(history):  # of several methods the first
        said.setdefault(measure.label.partition(",")[0].lower(), shown(measure.after, measure.unit))
    parts = [f"{label} {number}" for label, number in said.items()]
    return f"epoch {epoch}: " + ", ".join(parts + ["alignment on"] * (alignment_start(history) is not None))


def summarize(trainer: Trainer) -> None:
    """Write the report of a run, and print its table and where things lie."""
    folder = run_folder(trainer)
    report = publish_run(trainer, folder)
    history, console = read_history(folder), Console()
    console.print(headline(history), style="bold", soft_wrap=True, highlight=False, markup=False)
    console.print(summary_table(history))
    for label, place in [*advised(history), *places(trainer, report)]:
        console.print(f"{label:<11} {place}", soft_wrap=True, highlight=False, markup=False)


def tell(trainer: Trainer) -> None:
    """Print what `validate` or `test` found, and where the report lies that `ExplanationMonitor` wrote."""
    flush_sinks(trainer)
    report = run_place(trainer) / REPORT_FILE
    if report.is_file():
        console = Console()
        console.print(
            headline(read_history(report.parent)), style="bold", soft_wrap=True, highlight=False, markup=False
        )
        console.print(f"{'report':<11} {_short(report)}", soft_wrap=True, highlight=False, markup=False)


def summary_table(history: History) -> Table:
    """A run's numbers and verdicts before and after, with its story as the title.

    >>> summary_table(History(scalars={"val/accuracy": {0: 0.5, 1: 0.75}})).row_count
    1
    """
    run = span(history)
    table = Table()
    table.add_column("")
    for name in _columns(run):
        table.add_column(name, justify="right")
    for measure in measures(history):
        before, after = (shown(value, measure.unit) for value in (measure.before, measure.after))
        table.add_row(measure.label, *_known(run, before, after))
    earlier = {row.class_name: row for row in latest_verdicts(history, run.before)}
    now = latest_verdicts(history, run.after)
    for row in now[:CLASSES_SHOWN]:
        table.add_row(row.class_name, *_known(run, _verdict(earlier.get(row.class_name)), _verdict(row)))
    if len(now) > CLASSES_SHOWN:
        table.caption = f"and {len(now) - CLASSES_SHOWN} classes more in the report"
    return table


def advised(history: History) -> list[tuple[str, str]]:
    """The first choice against each cue that a class is found to lean on, as it stands in a configuration.

    >>> advised(History(verdicts={0: [VerdictRow(0, "boat", "reliant", 0.4, 0.3, 0.5, 0.0, 0.01, 9)]}))
    [('to correct', 'camtrain.callbacks.AttentionAlignment {start_when: reliance/flagged}; the report says more')]
    """
    rows = [row for row in latest_verdicts(history, span(history).after) if row.verdict == RELIANT]
    said = (one.remedies[0].yaml for one in advice_for(rows))
    short = (text.removeprefix("- class_path: ").replace("\n  init_args:", "") for text in said)
    return [("to correct", f"{text}; the report says more") for text in short]


def places(trainer: Trainer, report: Path) -> list[tuple[str, str]]:
    """Where a run's report, checkpoint and Weights & Biases run lie, and how to send an offline run there."""
    checkpoints = [_checkpoint(callback) for callback in trainer.checkpoint_callbacks]
    found = [("report", _short(report)), *(("checkpoint", _short(path)) for path in checkpoints if path)]
    for logger in trainer.loggers:
        if is_a(logger, "WandbLogger"):
            found += _wandb_places(logger)
    return found


def _say(trainer: Trainer, line: str) -> None:
    """Above the progress bar, where there is one."""
    bar = trainer.progress_bar_callback
    if bar is None:
        Console().print(line, soft_wrap=True, highlight=False, markup=False)
    else:
        bar.print(line)


def _columns(run: Span) -> Iterable[str]:
    before, after = ("before alignment", "after") if run.aligned else ("first", "last")
    return _known(run, f"{before} (epoch {run.before})", f"{after} (epoch {run.after})")


def _known(run: Span, before: str, after: str) -> tuple[str, ...]:
    return (after,) if run.before is None else (before, after)


def _verdict(row: VerdictRow | None) -> str:
    return NOTHING if row is None else f"{row.verdict} ({signed(row.effect)})"


def _checkpoint(callback: Any) -> str:
    return (callback.best_model_path or callback.last_model_path) if is_a(callback, "ModelCheckpoint") else ""


def _wandb_places(logger: Any) -> list[tuple[str, str]]:
    run = logger.experiment
    if run.disabled:
        return []
    if not run.offline:
        return [("W&B run", str(run.url))]
    return [
        ("offline run", _short(run.settings.sync_dir)),
        ("to send it", f"wandb sync {_short(run.settings.sync_dir)}"),
    ]


def _short(path: str | Path) -> str:
    """Relative to the working folder where it lies below it."""
    path = Path(path).absolute()
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def _write_run_info(trainer: Trainer, pl_module: LightningModule) -> None:
    write_run_info(run_folder(trainer), _configuration(trainer, pl_module))


def _configuration(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
    """What the command line was given; without one, what the module saved of its arguments."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if is_a(callback, "SaveConfigCallback"):
            configuration: dict[str, Any] = yaml.safe_load(callback.parser.dump(callback.config))
            return configuration
    return {"model": {"class": type(pl_module).__name__, **pl_module.hparams}, "max_epochs": trainer.max_epochs}
