"""What moves from pass to pass: the heatmaps of the probes, and numbers that go wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.stats import rankdata

from camtrain.records import FAILURES, Alert, Drift, Panel

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
            flipped=None if panel.predicted is None else before.predicted != panel.predicted,
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


DEAD = 0.5  # share of empty heatmaps
DEAD_BEFORE = 0.25
APART = 0.05  # in accuracy and in inside energy, both shares

EMPTY_MAPS, INSIDE_ENERGY = "cam/empty_maps/", "cam/inside_energy/"


@dataclass(frozen=True)
class Reading:
    """What is watched of one epoch: accuracy, inside energy, share of empty heatmaps; NaN for what is not known."""

    accuracy: float
    inside_energy: float
    empty_maps: float

    @classmethod
    def of(cls, scalars: Mapping[str, float]) -> "Reading":
        """The reading of an epoch's scalars by logged name, by the first method.

        >>> Reading.of({"val/accuracy": 0.5, "cam/empty_maps/grad_cam": 0.1})
        Reading(accuracy=0.5, inside_energy=nan, empty_maps=0.1)
        """
        others = {name: value for name, value in scalars.items() if not name.startswith(("cam/", "train", "reliance/"))}
        return cls(
            accuracy=_first({name: value for name, value in others.items() if "worst" not in name}, "acc"),
            inside_energy=_first(scalars, INSIDE_ENERGY),
            empty_maps=_first(scalars, EMPTY_MAPS),
        )


class Alarms:
    """Remembers the readings of a run, and raises each kind of trouble once.

    >>> alarms = Alarms()
    >>> _ = alarms.hear({"val/accuracy": 0.5, "cam/inside_energy/grad_cam": 0.6}, epoch=0, step=10)
    >>> found = alarms.hear({"val/accuracy": 0.7, "cam/inside_energy/grad_cam": 0.3}, epoch=1, step=20)
    >>> [alert.title for alert in found]
    ['accuracy rises while evidence leaves the object']
    """

    def __init__(self) -> None:
        self._readings: list[Reading] = []
        self._raised: set[str] = set()

    def hear(self, scalars: Mapping[str, float], *, epoch: int, step: int) -> list[Alert]:
        """The alerts that the numbers of a pass give rise to."""
        now = Reading.of(scalars)
        new = {kind: said for kind, said in troubles(self._readings, now).items() if kind not in self._raised}
        self._readings.append(now)
        self._raised |= set(new)
        return [Alert(title, text, epoch, step) for title, text in new.values()]

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"readings": [asdict(reading) for reading in self._readings], "raised": sorted(self._raised)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where the run that is resumed left."""
        self._readings = [Reading(**reading) for reading in state["readings"]]
        self._raised = set(state["raised"])


def troubles(before: Sequence[Reading], now: Reading) -> dict[str, tuple[str, str]]:
    """What went wrong since the earlier epochs, as title and text by kind; empty where nothing did.

    `dead`: half of the heatmaps are empty, and a quarter at most were in some earlier epoch. `cheating`: accuracy rose
    while inside energy fell, by `APART` each since some earlier epoch; `forgetting`: the other way round.

    >>> troubles([Reading(0.5, 0.6, 0.0)], Reading(0.7, 0.3, 0.0))["cheating"][0]
    'accuracy rises while evidence leaves the object'
    """
    found: dict[str, tuple[str, str]] = {}
    if now.empty_maps >= DEAD and any(reading.empty_maps <= DEAD_BEFORE for reading in before):
        said = f"{now.empty_maps:.0%} of the heatmaps hold nothing: gradients vanish, or the maps were driven to zero"
        found["dead"] = ("heatmaps are dying", said)
    for kind, sign, title in (
        ("cheating", 1, "accuracy rises while evidence leaves the object"),
        ("forgetting", -1, "accuracy falls while evidence moves onto the object"),
    ):
        since = [
            then
            for then in before
            if sign * (now.accuracy - then.accuracy) >= APART
            and sign * (then.inside_energy - now.inside_energy) >= APART
        ]
        if since:
            found[kind] = (title, _said(since[-1], now))
    return found


def _said(before: Reading, now: Reading) -> str:
    return (
        f"accuracy {before.accuracy:.1%} to {now.accuracy:.1%}, inside energy {before.inside_energy:.2f} to "
        f"{now.inside_energy:.2f}; see {FAILURES}"
    )


def _first(scalars: Mapping[str, float], part: str) -> float:
    found = [value for name, value in scalars.items() if part in name and isfinite(value)]
    return found[0] if found else float("nan")
