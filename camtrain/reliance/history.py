"""What the rounds of a run have said so far, and what they composed."""

import hashlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite, nan
from typing import Any

import torch
from torch import Tensor

from camtrain.reliance.records import Pool, Verdict


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


_FEW = 4096  # numbers that are no pictures, and kept as they are


class Album:
    """What was made of some pools, in half precision on the CPU, up to so many bytes; what does not fit is made anew.

    >>> album = Album()
    >>> [album.get("one", lambda: torch.ones(1)).item() for _ in range(2)], album.bytes
    ([1.0, 1.0], 4)
    """

    def __init__(self, budget: int = 2**29) -> None:
        self.budget, self.bytes = budget, 0
        self._kept: dict[Hashable, Tensor] = {}
        self._of = b""

    def __getstate__(self) -> dict[str, object]:
        """Another process, or a copy, makes its own."""
        return {"budget": self.budget, "bytes": 0, "_kept": {}, "_of": b""}

    def open(self, *pools: Pool | None) -> None:
        """Forget what was made of other pools."""
        if not self.budget:
            return
        digest = hashlib.blake2b(digest_size=16)
        for pool in pools:
            for part in () if pool is None else (pool.images, pool.labels, pool.masks):
                digest.update(part.contiguous().numpy().tobytes())
            digest.update(b"|")
        if digest.digest() != self._of:
            self.forget()
            self._of = digest.digest()

    def forget(self) -> None:
        """Hold nothing."""
        self._of, self._kept, self.bytes = b"", {}, 0

    def get(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """What was made under this key, in single precision on the CPU; else it is made, and kept if there is room."""
        if key in self._kept:
            return self._kept[key].float()
        made = make()
        dtype = torch.float16 if made.numel() > _FEW else torch.float32
        size = dtype.itemsize * made.numel()
        if self.bytes + size <= self.budget:
            self._kept[key] = made.detach().to("cpu", dtype)
            self.bytes += size
        return made
