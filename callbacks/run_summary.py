"""RunSummary: what became of a run, on the terminal, in `run.json` and in the report."""

from typing import Any

import yaml

from camtrain.callbacks._lightning import Attempt, Callback, LightningModule, Trainer, tell_of_cut_checkpoint
from camtrain.packages import is_a
from camtrain.report.terminal import epoch_line, print_line
from camtrain.sinks.run import Run


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
        self._epochs_kept = 0
        self._attempt = Attempt("RunSummary")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what the run is made of."""
        self._epochs_kept = 0
        self._attempt(_describe, trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the numbers of a validation at its own step."""
        if not trainer.sanity_checking:
            Run.of(trainer).end_validation()
            if trainer.state.fn == "fit":
                self._attempt(Run.of(trainer).write_scalars)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the epoch's numbers."""
        self._attempt(self._keep, trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the report and print the table."""
        if self._epochs_kept:
            self._attempt(Run.of(trainer).conclude, table=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The same for what there is of the run."""
        tell_of_cut_checkpoint(trainer)
        if trainer.state.fn == "fit":
            self.on_fit_end(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """After `validate` and `test`, say what was found and where the report lies, if there is one."""
        if stage in ("validate", "test"):
            self._attempt(Run.of(trainer).conclude)

    def _keep(self, trainer: Trainer) -> None:
        run = Run.of(trainer)
        values = run.write_scalars()
        self._epochs_kept += 1
        if run.writes:
            print_line(epoch_line(values, trainer.current_epoch), trainer.progress_bar_callback)


def _describe(trainer: Trainer, pl_module: LightningModule) -> None:
    Run.of(trainer).describe(_configuration(trainer, pl_module))


def _configuration(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
    """What the command line was given; without one, what the module saved of its arguments."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if is_a(callback, "SaveConfigCallback"):
            configuration: dict[str, Any] = yaml.safe_load(callback.parser.dump(callback.config))
            return configuration
    return {"model": {"class": type(pl_module).__name__, **pl_module.hparams}, "max_epochs": trainer.max_epochs}
