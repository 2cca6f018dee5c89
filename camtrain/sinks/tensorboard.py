"""Records to TensorBoard."""

from functools import singledispatchmethod
from itertools import pairwise
from typing import Any

import torch

from camtrain.records import Alert, Histograms, Panel, Panels, Record, Scalars, Verdicts
from camtrain.render import side_by_side
from camtrain.report.charts import number, signed


class TensorBoardSink:
    """Sends pictures, histograms, verdicts and alerts to TensorBoard, over `trainer/global_step`.

    Args:
        logger: has a `SummaryWriter` as its `experiment`, as Lightning's `TensorBoardLogger`.
        prefix: goes before each name, as "test/".
    """

    def __init__(self, logger: Any, prefix: str = "") -> None:
        self.logger = logger
        self.prefix = prefix

    def write(self, *records: Record) -> None:
        """Add the records of one pass."""
        for record in records:
            self._add(record, self.logger.experiment)

    def close(self) -> None:
        """Write what is buffered; the writer is the logger's."""
        self.logger.experiment.flush()

    @singledispatchmethod
    def _add(self, record: Record, writer: Any) -> None:
        """Other kinds have no place there."""

    @_add.register
    def _(self, record: Scalars, writer: Any) -> None:
        for name, value in {} if record.logged else record.values.items():
            writer.add_scalar(f"{self.prefix}{name}", value, record.step)

    @_add.register
    def _(self, record: Panels, writer: Any) -> None:
        for panel in record.panels:
            writer.add_image(f"{self.prefix}{record.key}/{panel.sample}", _joined(panel), record.step)

    @_add.register
    def _(self, record: Histograms, writer: Any) -> None:
        for name, counts in record.counts.items():
            edges = record.edges(len(counts))
            total = sum(counts)
            middles = [(low + high) / 2 for low, high in pairwise(edges)]
            sums = [sum(c * m**power for c, m in zip(counts, middles, strict=True)) for power in (1, 2)]
            writer.add_histogram_raw(
                f"{self.prefix}{name}",
                0.0,
                1.0,
                total,
                sums[0],
                sums[1],
                edges[1:],
                list(counts),
                global_step=record.step,
            )

    @_add.register
    def _(self, record: Alert, writer: Any) -> None:
        writer.add_text(f"{self.prefix}camtrain/alerts", f"**{record.title}** {record.text}", record.step)

    @_add.register
    def _(self, record: Verdicts, writer: Any) -> None:
        lines = ["| class | verdict | effect | interval | images |", "|---|---|---|---|---|"]
        lines += [
            f"| {row.class_name} | {row.verdict} | {signed(row.effect)} | {number(row.low)} to {number(row.high)} "
            f"| {row.images} |"
            for row in record.rows
        ]
        writer.add_text(f"{self.prefix}reliance/verdicts", "\n".join(lines), record.step)
        for example in record.examples:
            pair = side_by_side([torch.stack([item.cpu()]) for item in (example.original, example.intervened)])[0]
            writer.add_image(f"{self.prefix}reliance/examples/{example.class_name}", pair, record.step)
        for strip in record.strips:
            writer.add_image(f"{self.prefix}reliance/regions/{strip.class_name}", strip.picture.cpu(), record.step)


def _joined(panel: Panel) -> Any:
    parts = [panel.image, *panel.overlays.values(), *([] if panel.true_overlay is None else [panel.true_overlay])]
    return side_by_side([part.cpu().unsqueeze(0) for part in parts])[0]
