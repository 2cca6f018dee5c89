"""The probes' heatmaps of the first and the last pass, and how far they have moved since."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camtrain.callbacks._kept import Kept
from camtrain.records import Drift, Panel
from camtrain.sinks.drift import drift

Heat = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Trace:
    """One probe: its raw heatmap in the first pass and in the last one, and what was predicted last."""

    first: Heat
    last: Heat
    predicted: int | None


@dataclass
class Drifting:
    """Remembers each probe's heatmap of the first method, at feature resolution."""

    traces: dict[str, Trace] = field(default_factory=dict)

    def moved(self, kept: Sequence[Kept], panels: Sequence[Panel]) -> list[Panel]:
        """The panels with their drift; remembers their heatmaps for the next pass."""
        return [self._moved(one, panel) for one, panel in zip(kept, panels, strict=True)]

    def _moved(self, kept: Kept, panel: Panel) -> Panel:
        heat = next(iter(kept.heatmaps.values())).cpu().numpy()
        before = self.traces.get(kept.sample)
        self.traces[kept.sample] = Trace(heat if before is None else before.first, heat, panel.predicted)
        if before is None or heat.ndim != 2:
            return panel
        return replace(
            panel,
            since_last=drift(before.last, heat),
            since_first=drift(before.first, heat),
            flipped=before.predicted != panel.predicted,
        )

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            sample: {"first": trace.first.tolist(), "last": trace.last.tolist(), "predicted": trace.predicted}
            for sample, trace in self.traces.items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where another run left."""
        self.traces = {
            sample: Trace(np.array(one["first"], np.float32), np.array(one["last"], np.float32), one["predicted"])
            for sample, one in state.items()
        }


def drift_scalars(panels: Sequence[Panel]) -> dict[str, float]:
    """The means over the probes by logged name; none in the first pass.

    >>> drift_scalars([])
    {}
    """
    scalars: dict[str, float] = {}
    for since in ("since_last", "since_first"):
        moves: list[Drift] = [move for panel in panels if (move := getattr(panel, since)) is not None]
        for name in ("rank_correlation", "shift"):
            known = [value for move in moves if isfinite(value := getattr(move, name))]
            scalars |= {f"cam/drift/{name}_{since}": float(np.mean(known))} if known else {}
    flips = [panel.flipped for panel in panels if panel.flipped is not None]
    return scalars | ({"cam/drift/flipped_probes": float(np.mean(flips))} if flips else {})
