"""The scalars of one pass, reduced over processes."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from camtrain.callbacks._explained import ExplainedBatch
from camtrain.cam import is_empty
from camtrain.metrics import NanMean, ReasonCells
from camtrain.records import CELLS


class GroundingTally:
    """The scalars of one pass, by logged name, reduced over processes."""

    def __init__(self, methods: Sequence[str]) -> None:
        measures = ("inside_energy", "pointing_game", "empty_maps")
        self._means = {f"{measure}/{method}": NanMean() for method in methods for measure in measures}
        self._cells = ReasonCells()
        self._masked = NanMean()

    def reset(self, device: torch.device) -> None:
        """Start a new pass on a device."""
        for metric in (*self._means.values(), self._cells, self._masked):
            metric.reset()
            metric.to(device)

    def update(self, explained: ExplainedBatch) -> None:
        """Add a batch."""
        for name, heatmaps in explained.heatmaps.items():
            self._means[f"inside_energy/{name}"].update(explained.energies[name])
            self._means[f"pointing_game/{name}"].update(explained.hits[name])
            self._means[f"empty_maps/{name}"].update(is_empty(heatmaps).float())
        self._cells.update(explained.cells)
        self._masked.update((explained.cells >= 0).float())

    def compute(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        """Scalars by logged name, and the counts of the four cells; without masks, what needs none."""
        with warnings.catch_warnings():  # a process whose batches all failed has no update to reduce
            warnings.filterwarnings("ignore", message=".*was called before the ``update`` method.*")
            return self._computed()

    def _computed(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        masked = float(self._masked.compute().nan_to_num(0.0)) > 0
        scalars = {f"cam/{name}": metric.compute() for name, metric in self._means.items()}
        if not masked:
            return {name: value for name, value in scalars.items() if "/empty_maps/" in name}, {}
        counts = self._cells.compute()
        shares = counts / counts.sum()
        for cell, share in zip(CELLS, shares, strict=True):
            scalars[f"cam/{cell.replace('/', '_')}"] = share
        return scalars, {cell: int(count) for cell, count in zip(CELLS, counts, strict=True)}
