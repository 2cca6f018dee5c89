"""What is kept from round to round: what was said, what was guessed and composed, and what a person judged."""

import hashlib
import json
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isfinite, nan
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from camtrain.errors import ConfigurationError
from camtrain.reliance.decide import share_of_round
from camtrain.reliance.pool import usable
from camtrain.reliance.records import Criteria, Pool, Progress, Verdict
from camtrain.segmenters import Outlines, Segmenter, segmented


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

    def take_in(self, verdicts: Sequence[Verdict], epoch: int) -> bool:
        """Take in a round's verdicts; True where they hold the first flag of the run.

        A class that the round did not judge keeps its last effect. Where no effect could be measured, of too few images
        or by a network that answers NaN, how many classes are flagged is not known: NaN, never 0.
        """
        effects = {f"reliance/effect/{v.class_name}": v.effect for v in verdicts}
        flags = [v.class_name for v in verdicts if v.verdict == "reliant"]
        known = [effect for effect in effects.values() if isfinite(effect)]
        flagged = float(len(flags)) if flags or known else nan  # of no class that was measured, nobody knows
        totals = {"reliance/flagged": flagged, "reliance/effect": max(known, default=nan)}
        first = bool(flags) and not self.flagged_since
        self.rounds += 1
        self.values = {**self.values, **totals, **effects}
        self.flagged_since = {**dict.fromkeys(flags, epoch), **self.flagged_since}
        return first

    def forget_values(self) -> None:
        """A round that could not be made: nothing is known."""
        self.values = dict.fromkeys(self.values, nan)

    def criteria_of_next_round(self, criteria: Criteria, choices: int, sparing: bool) -> Criteria:
        """With what each choice of the next round may spend of alpha; all of it where that is not `sparing`."""
        share = share_of_round(self.rounds + 1) if sparing else 1.0
        return replace(criteria, share=share / choices)

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


FAIR, SPURIOUS = "fair", "spurious"
FLAGS = ("reliant", "suspect")


@dataclass(frozen=True)
class Judgement:
    """A person's word on one class's cue."""

    class_name: str
    cue: str
    judgement: str


def read_judgements(path: str | Path) -> tuple[Judgement, ...]:
    """What a report's "save" wrote: `{"judgements": [{"class_name": ..., "cue": ..., "judgement": "fair"}]}`.

    ConfigurationError for a file that is not there, or is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigurationError(f"There is no file of judgements {path}: mark cues in a report, and save them there.")
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["judgements"]
        judgements = tuple(Judgement(*(str(row[name]) for name in ("class_name", "cue", "judgement"))) for row in rows)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{path} is no file of judgements, as a report saves them ({error!r}).") from error
    for each in judgements:
        if each.judgement not in (FAIR, SPURIOUS):
            raise ConfigurationError(f"{path}: a judgement is {FAIR!r} or {SPURIOUS!r}, got {each.judgement!r}.")
    return judgements


def fair_cues(path: str | Path | None) -> frozenset[tuple[str, str]]:
    """The classes and cues that a file of judgements calls fair; none without a file."""
    judgements = () if path is None else read_judgements(path)
    return frozenset((each.class_name, each.cue) for each in judgements if each.judgement == FAIR)


def accepted(verdicts: Sequence[Verdict], fair: Iterable[tuple[str, str]]) -> tuple[Verdict, ...]:
    """The verdicts; one that flags what a person called fair is "fair", with all that was measured.

    >>> boat = Verdict(0, "boat", "reliant", 0.3, 0.2, 0.4, 0.0, 0.001, 30, "background", "")
    >>> accepted([boat], {("boat", "background")})[0].verdict
    'fair'
    """
    known = set(fair)
    return tuple(
        replace(each, verdict="fair") if each.verdict in FLAGS and (each.class_name, each.cue) in known else each
        for each in verdicts
    )


class Guesser:
    """Masks for pools that have none, by ``segmenter`` or `guess_masks`; an image is not segmented twice.

    What a segmenter is, and what it must return, is told at `Outlines`.

    >>> guesser = Guesser(lambda images: (images[:, 0] > 0.5).float())
    >>> images = torch.zeros(1, 3, 4, 4)
    >>> images[..., 1:3, 1:3] = 1
    >>> guesser(Pool(images, torch.tensor([0]), torch.full((1, 4, 4), -1.0))).masks.sum().item()
    4.0
    """

    def __init__(self, segmenter: Segmenter | str | None = None) -> None:
        if isinstance(segmenter, str) and segmenter != "guess":
            raise ConfigurationError(
                f"Who looks for cues makes masks by a function or by segmenter='guess' (None is the same); got "
                f"{segmenter!r}, which AttentionAlignment takes."
            )
        given = None if isinstance(segmenter, str) else segmenter
        self.is_given = given is not None  # by the user
        self.outlines = Outlines(given)

    def __call__(
        self,
        pool: Pool,
        *,
        batch_size: int = 64,
        device: torch.device | str = "cpu",
        progress: Progress = lambda what, done, total: None,
    ) -> Pool:
        """The pool with masks, without the images of which nothing usable was found."""
        if not len(pool.images):
            return pool
        masks = self.outlines.of(pool.images, batch_size=batch_size, device=device, progress=progress)
        fit = usable(masks)
        return Pool(pool.images[fit], pool.labels[fit], masks[fit])

    def forget(self) -> None:
        """Drop what was not asked for since the last time."""
        self.outlines.forget()

    def segment(self, images: torch.Tensor) -> torch.Tensor:
        """The segmenter's masks, checked."""
        return segmented(self.outlines.segmenter, images)
