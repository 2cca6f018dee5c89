"""Records to Weights & Biases."""

from collections.abc import Mapping
from functools import singledispatchmethod
from typing import Any

import numpy as np
import wandb

from camtrain.records import (
    FAILURES,
    Alert,
    Classes,
    Document,
    Histograms,
    Panels,
    Record,
    Scalars,
    Setup,
    Verdicts,
)
from camtrain.sinks.wandb_pictures import (
    IMAGES_PER_LIST,
    class_table,
    example_picture,
    panel_pictures,
    panel_table,
    strip_pictures,
    verdict_table,
)

TITLE_LENGTH = 63
NAMES = ("cam/*", "reliance/*", "alignment/*")
UNREMARKABLE = ("cam/empty_maps/*", "cam/drift/*")  # an alert says when heatmaps die
Payload = dict[str, Any]


class WandbSink:
    """Sends the records of a pass to Weights & Biases, as one row over `trainer/global_step`.

    Panels become image lists under their key with masks to toggle, and tables (`<key>_table`, a fresh one each pass)
    that sort, filter and group by class, cell and verdict; `runs.history.concat["cam/heatmaps_table"]` in a panel's
    query shows all passes. Alerts are sent as alerts with where to look, documents as artifacts, and the numbers that
    sum up a run go into its summary. `Scalars` go out only where Lightning has not logged them. A run that is
    disabled costs nothing.

    Args:
        logger: has the run as its `experiment`, as Lightning's `WandbLogger`.
        pictures: "jpg", or "png" at about twenty times the cost.
        prefix: goes before each name, as "test/".
    """

    def __init__(self, logger: Any, pictures: str = "jpg", prefix: str = "") -> None:
        self.logger = logger
        self.pictures = pictures
        self.prefix = prefix
        self._verdicts: dict[str, str] = {}
        self._defined = False

    def write(self, *records: Record) -> None:
        """Log one row, and raise the alerts."""
        run = self.logger.experiment
        if run.disabled or not records:
            return
        self._define(run)
        for record in records:
            if isinstance(record, Verdicts):
                self._verdicts = {row.class_name: row.verdict for row in record.rows}
        payload: Payload = {}
        for record in records:
            payload |= self._named(self._payload(record))
        if payload:
            last = records[-1]
            run.log(payload | {"trainer/global_step": last.step, "epoch": last.epoch})
        for record in records:
            self._act(record, run)

    def close(self) -> None:
        """The run is the logger's, which finishes it."""

    def _named(self, values: Mapping[str, Any]) -> Payload:
        return {f"{self.prefix}{name}": value for name, value in values.items()}

    def _define(self, run: Any) -> None:
        """Numbers are drawn over steps, which tell an epoch's passes apart; lines that lie at zero are not drawn."""
        if self._defined:
            return
        self._defined = True
        run.define_metric("epoch")
        run.define_metric("trainer/global_step")
        for names in NAMES:
            run.define_metric(f"{self.prefix}{names}", step_metric="trainer/global_step", step_sync=True)
        for names in UNREMARKABLE:
            run.define_metric(f"{self.prefix}{names}", step_metric="trainer/global_step", step_sync=True, hidden=True)

    @singledispatchmethod
    def _payload(self, record: Record) -> Payload:
        """Nothing of a kind of record that has no place in a row."""
        return {}

    @_payload.register
    def _(self, record: Scalars) -> Payload:
        return {} if record.logged else dict(record.values)

    @_payload.register
    def _(self, record: Histograms) -> Payload:
        return {
            name: wandb.Histogram(np_histogram=(np.array(counts), np.array(record.edges(len(counts)))))
            for name, counts in record.counts.items()
        }

    @_payload.register
    def _(self, record: Classes) -> Payload:
        return {"cam/classes": class_table(record, self._verdicts)} if record.rows else {}

    @_payload.register
    def _(self, record: Panels) -> Payload:
        images = panel_pictures(record.panels, record.epoch, self.pictures)
        shown = {record.key: images[:IMAGES_PER_LIST]} if images else {}
        if not images and record.key != FAILURES:
            return {}
        return {**shown, f"{record.key}_table": panel_table(record.panels, record.epoch, images, self._verdicts)}

    @_payload.register
    def _(self, record: Verdicts) -> Payload:
        images = [example_picture(item, self.pictures) for item in record.examples[:IMAGES_PER_LIST]]
        table = verdict_table(record.rows, record.epoch)
        strips = strip_pictures(record.strips[:IMAGES_PER_LIST], self.pictures)
        shown = {"reliance/examples": images, "reliance/regions": strips}
        return {"reliance/verdicts": table} | {key: some for key, some in shown.items() if some}

    @singledispatchmethod
    def _act(self, record: Record, run: Any) -> None:
        """What is not part of a row."""

    @_act.register
    def _(self, record: Alert, run: Any) -> None:
        where = str(run.url) if run.url else f"offline run {run.id}"
        run.alert(
            record.title[:TITLE_LENGTH],
            f"{record.text}\nPictures: {self.prefix}{FAILURES}_table in {where}",
            level="WARN",
        )

    @_act.register
    def _(self, record: Setup, run: Any) -> None:
        run.config.update({"camtrain": dict(record.values)}, allow_val_change=True)

    @_act.register
    def _(self, record: Document, run: Any) -> None:
        run.summary.update(self._named(record.summary))
        artifact = wandb.Artifact(
            f"{self.prefix.replace('/', '-')}{record.name}-{run.id}", type=f"camtrain-{record.name}"
        )
        for path in record.paths:
            artifact.add_file(str(path), name=path.name)
        if record.paths:
            run.log_artifact(artifact)
