"""How the heatmaps of the probes move from pass to pass."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.stats import rankdata

from camtrain.records import Drift, Panel

Heat = NDArray[np.float32]


def drift(earlier: Heat, later: Heat) -> Drift:
    """The drift between two raw heatmaps `(h, w)` of one image; NaN where one is empty or their sizes differ.

    >>> heat = np.array([[0, 1], [2, 3]], np.float32)
    >>> drift(heat, heat)
    Drift(rank_correlation=1.0, shift=0.0)
    """
    if earlier.shape != later.shape:
        return Drift(float("nan"), float("nan"))
    way = np.subtract(center_of_mass(later), center_of_mass(earlier))
    return Drift(rank_correlation(earlier, later), float(np.hypot(*way) / np.sqrt(2)))


def rank_correlation(a: Heat, b: Heat) -> float:
    """Spearman's rank correlation of two arrays of one shape, ties at their mean rank; NaN where one is constant.

    >>> rank_correlation(np.array([1, 2, 3], np.float32), np.array([3, 2, 1], np.float32))
    -1.0
    """
    ranks = [rankdata(np.ravel(values)) for values in (a, b)]
    centered = [rank - rank.mean() for rank in ranks]
    scale = float(np.sqrt((centered[0] ** 2).sum() * (centered[1] ** 2).sum()))
    return round(float(centered[0] @ centered[1]) / scale, 12) if scale > 0 else float("nan")


def center_of_mass(heat: Float[np.ndarray, "h w"]) -> tuple[float, float]:
    """Where the energy lies on average, (y, x) as shares of height and width in [0, 1]; NaN for an empty heatmap.

    >>> center_of_mass(np.eye(1, 4, 3, dtype=np.float32))
    (0.5, 0.875)
    """
    total = float(heat.sum())
    if not total > 0 or not np.isfinite(total):
        return float("nan"), float("nan")
    height, width = heat.shape
    rows, columns = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    return float(heat.sum(1) @ rows / total), float(heat.sum(0) @ columns / total)


@dataclass(frozen=True, eq=False)
class Trace:
    """One probe: its raw heatmap in the first pass and in the last one, and what was predicted last."""

    first: Heat
    last: Heat
    predicted: int | None


@dataclass
class Traces:
    """Remembers each probe's heatmap of the first method, at feature resolution."""

    traces: dict[str, Trace] = field(default_factory=dict)

    def moved(self, panel: Panel, heat: Heat) -> Panel:
        """The panel with its drift; remembers its heatmap for the next pass."""
        before = self.traces.get(panel.sample)
        self.traces[panel.sample] = Trace(heat if before is None else before.first, heat, panel.predicted)
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

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> "Traces":
        """Take up where another run left."""
        read = {
            sample: (np.array(item["first"], np.float32), np.array(item["last"], np.float32), item["predicted"])
            for sample, item in state.items()
        }
        return cls({sample: Trace(*values) for sample, values in read.items()})


def drift_scalars(panels: Sequence[Panel]) -> dict[str, float]:
    """The means over the probes by logged name; none in the first pass.

    >>> drift_scalars([])
    {}
    """
    scalars: dict[str, float] = {}
    for since in ("since_last", "since_first"):
        moves: list[Drift] = [move for panel in panels if (move := getattr(panel, since)) is not None]
        for name in ("rank_correlation", "shift"):
            finite = [value for move in moves if isfinite(value := getattr(move, name))]
            scalars |= {f"cam/drift/{name}_{since}": float(np.mean(finite))} if finite else {}
    flips = [panel.flipped for panel in panels if panel.flipped is not None]
    return scalars | ({"cam/drift/flipped_probes": float(np.mean(flips))} if flips else {})
