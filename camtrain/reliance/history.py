"""What the rounds of a run have said so far."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite, nan
from typing import Any

from camtrain.reliance.records import Verdict


def _nothing() -> dict[str, float]:
    return {"reliance/flagged": 0.0, "reliance/effect": nan}


@dataclass
class VerdictHistory:
    """The last logged values, the epoch in which each class was first flagged, and how many rounds there were when."""

    values: dict[str, float] = field(default_factory=_nothing)
    flagged_since: dict[str, int] = field(default_factory=dict)
    examined_epoch: int | None = None
    rounds: int = 0

    def keep(self, verdicts: Sequence[Verdict], epoch: int) -> bool:
        """Take in a round's verdicts; True where they hold the first flag of the run.

        A class that the round did not judge keeps its last effect.
        """
        effects = {f"reliance/effect/{v.class_name}": v.effect for v in verdicts}
        flags = [v.class_name for v in verdicts if v.verdict == "reliant"]
        known = [effect for effect in effects.values() if isfinite(effect)]
        totals = {"reliance/flagged": float(len(flags)), "reliance/effect": max(known, default=nan)}
        first = bool(flags) and not self.flagged_since
        self.values = {**self.values, **totals, **effects}
        self.flagged_since = {**dict.fromkeys(flags, epoch), **self.flagged_since}
        return first

    def is_due(self, epoch: int, *, start: int, every: int, last: int | None) -> bool:
        """Whether to examine in this epoch of a fit: `every` so many, and in the `last`, but none twice.

        >>> [epoch for epoch in range(6) if VerdictHistory(examined_epoch=1).is_due(epoch, start=0, every=3, last=5)]
        [4, 5]
        """
        if epoch < start or epoch == self.examined_epoch:
            return False
        return self.examined_epoch is None or epoch - self.examined_epoch >= every or epoch == last

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return asdict(self)

    @classmethod
    def restored(cls, state: dict[str, Any]) -> "VerdictHistory":
        """From a checkpoint."""
        names = ("values", "flagged_since", "examined_epoch", "rounds")
        values, since, examined, rounds = (state[name] for name in names)
        return cls(dict(values), dict(since), examined, rounds)
