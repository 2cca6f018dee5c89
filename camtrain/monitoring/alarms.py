"""When a run should call somebody: heatmaps die, or accuracy and grounding part ways."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from camtrain.records import FAILURES, Alert

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
