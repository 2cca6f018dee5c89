"""The monitor's part in the local files: scalars of each epoch, alerts, and the report at the end."""

from dataclasses import asdict
from typing import Any

import torch

from camtrain.callbacks._lightning import Trainer, run_place
from camtrain.sinks.loggers import publish_run, sinks_for
from camtrain.sinks.records import Alert, Scalars
from camtrain.sinks.watch import Reading, troubles


class Reporter:
    """Writes on rank zero only."""

    def __init__(self) -> None:
        self._readings: list[Reading] = []
        self._raised: set[str] = set()

    def keep_scalars(self, trainer: Trainer) -> None:
        """Write what the Trainer has logged."""
        if trainer.is_global_zero:
            record = Scalars(_scalars(trainer), trainer.current_epoch, trainer.global_step)
            sinks_for(trainer, run_place(trainer)).write(record)

    def watch(self, trainer: Trainer) -> None:
        """Raise an alert for each trouble, once a run."""
        if not trainer.is_global_zero or trainer.state.fn != "fit":
            return
        now = Reading.of(_scalars(trainer))
        found = {kind: said for kind, said in troubles(self._readings, now).items() if kind not in self._raised}
        self._readings.append(now)
        self._raised |= set(found)
        alerts = [Alert(title, text, trainer.current_epoch, trainer.global_step) for title, text in found.values()]
        if alerts:
            sinks_for(trainer, run_place(trainer)).write(*alerts)

    def finish(self, trainer: Trainer) -> None:
        """Write the report when everything else is written."""
        if trainer.is_global_zero:
            publish_run(trainer, run_place(trainer))

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"readings": [asdict(one) for one in self._readings], "raised": sorted(self._raised)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where the run that is resumed left."""
        self._readings = [Reading(**one) for one in state["readings"]]
        self._raised = set(state["raised"])


def _scalars(trainer: Trainer) -> dict[str, float]:
    return {name: float(v) for name, v in trainer.callback_metrics.items() if torch.as_tensor(v).numel() == 1}
