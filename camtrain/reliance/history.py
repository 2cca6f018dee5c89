"""What the rounds of a run have said so far."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite, nan
from typing import Any

from camtrain.reliance.records import Verdict


def _nothing() -> dict[str, float]:
    return {"reliance/flagged": nan, "reliance/effect": nan}


@dataclass
class VerdictHistory:
    """The last logged values, the epoch in which each class was first flagged, and how many rounds there were when."""

    values: dict[str, float] = field(default_factory=_nothing)
    flagged_since: dict[str, int] = field(default_factory=dict)
    examined_epoch: int | None = None
    rounds: int = 0
    examined_step: int | None = None
    passes: int = 0  # validations since the one that was examined

    def keep(self, verdicts: Sequence[Verdict], epoch: int) -> bool:
        """Take in a round's verdicts; True where they hold the first flag of the run.

        A class that the round did not judge keeps its last effect.
        """
        effects = {f"reliance/effect/{v.class_name}": v.effect for v in verdicts}
        flags = [v.class_name for v in verdicts if v.verdict == "reliant"]
        known = [effect for effect in effects.values() if isfinite(effect)]
        totals = {"reliance/flagged": float(len(flags)), "reliance/effect": max(known, default=nan)}
        first = bool(flags) and not self.flagged_since
        self.rounds += 1
        self.values = {**self.values, **totals, **effects}
        self.flagged_since = {**dict.fromkeys(flags, epoch), **self.flagged_since}
        return first

    def lose(self) -> None:
        """A round that could not be made: nothing is known."""
        self.values = dict.fromkeys(self.values, nan)

    def examined(self, epoch: int, step: int) -> None:
        """A validation is examined."""
        self.examined_epoch, self.examined_step, self.passes = epoch, step, 0

    def is_due(self, epoch: int, step: int, *, start: int, every: int, last: bool) -> bool:
        """Whether to examine this validation of a fit: each of so many, and the `last`, but none twice.

        >>> history = VerdictHistory(examined_epoch=1, examined_step=10)
        >>> [history.is_due(1, step, start=0, every=1, last=False) for step in (10, 20)]
        [False, True]
        """
        again = epoch == self.examined_epoch and self.examined_step in (None, step)
        if epoch < start or again:
            return False
        return self.examined_epoch is None or self.passes + 1 >= every or last

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return asdict(self)

    @classmethod
    def restored(cls, state: dict[str, Any]) -> "VerdictHistory":
        """From a checkpoint."""
        names = ("values", "flagged_since", "examined_epoch", "rounds")
        values, since, examined, rounds = (state[name] for name in names)
        return cls(dict(values), dict(since), examined, rounds, state.get("examined_step"), state.get("passes", 0))
