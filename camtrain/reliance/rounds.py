"""What the stages of one round share: the design, the effects measured so far, how each cue is swapped."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import torch
from jaxtyping import Float
from torch import Tensor

from camtrain.reliance.donors import choose_donors
from camtrain.reliance.guesses import guess_masks, overhang
from camtrain.reliance.infills import Infill, filled_background, noise_background
from camtrain.reliance.interventions import FRAME, Predict, Progress, bordered, intervene, predict_before, restrict
from camtrain.reliance.looks import LOOKS, look_of
from camtrain.reliance.records import STICKER, Criteria, Design, Effects, Estimate, Pool
from camtrain.reliance.statistics import screen
from camtrain.reliance.sticker_search import find_stickers
from camtrain.reliance.stickers import Stickers

__all__ = ["Gather", "Plan", "Round", "Shown", "guess_margins", "margins"]

_LOOKED_AT, _AT_LEAST, _IN_ALL = 30, 10, 100  # images of a class, for whether their masks are too small

Gather = Callable[[Callable[[], Effects]], Effects]


@dataclass(frozen=True)
class Plan:
    """How a round is run: donor classes per image, mask margins in pixels (None: from the side), memory, seed.

    ``looks`` are the cues of the whole picture that are tried beside the background, with ``look_arms`` donor classes.
    ``guessed`` says that the masks are guesses (`guess_masks`), not annotations: then more margin, and more doubt, and
    a search for ``stickers``, which has objects guessed anew by ``segment``.
    """

    arms: int = 8
    looks: tuple[str, ...] = tuple(LOOKS)
    look_arms: int = 4
    margin: int | None = None
    guard: int | None = None
    batch_size: int = 64
    seed: int = 0
    device: torch.device | str = "cpu"
    guessed: bool = False
    stickers: bool = True
    segment: Callable[[Tensor], Tensor] = guess_masks


@dataclass(frozen=True)
class Shown:
    """By how many pixels masks are grown where a cue is swapped: the image's, and the donor's (None: twice as many)."""

    margin: int
    lent_margin: int | None = None


def margins(images: Float[Tensor, "N C H W"]) -> tuple[int, int]:
    """Pixels that masks grow by for the interventions (1/64 of the side) and for their guard (8 % of it).

    >>> margins(torch.zeros(0, 3, 224, 224))
    (4, 18)
    """
    side = min(images.shape[-2:])
    return max(1, round(side / 64)), max(3, round(0.08 * side))


def guess_margins(images: Float[Tensor, "N C H W"]) -> tuple[int, int]:
    """Pixels that guessed masks grow by: 1/64 of the side for a first look, 12 % for what shall count.

    >>> guess_margins(torch.zeros(0, 3, 64, 64))
    (1, 8)
    """
    side = min(images.shape[-2:])
    return max(1, round(side / 64)), max(3, round(0.12 * side))


@dataclass(frozen=True)
class Round:
    """One round's swaps and tests. ``mine`` are this process's own effects by cue, each of its first swap."""

    predict: Predict
    pool: Pool
    lenders: Pool | None
    classes: tuple[int, ...]
    criteria: Criteria
    plan: Plan
    gather: Gather
    progress: Progress
    mine: dict[str, Effects] = field(default_factory=dict)
    shown: dict[str, Shown] = field(default_factory=dict)
    stuck: list[Stickers] = field(default_factory=list)

    @cached_property
    def design(self) -> Design:
        """Who meets whose background."""
        lent = None if self.lenders is None else self.lenders.labels
        g, arms = self._generator(), self.plan.arms
        return choose_donors(self.pool.labels, self.classes, lenders=lent, arms=arms, generator=g)

    @property
    def looks(self) -> list[str]:
        """The cues of the whole picture that these images can have."""
        gray = self.pool.images.shape[1] == 1
        return [LOOKS[key].name for key in self.plan.looks if not (gray and key == "tint")]

    def swap(
        self,
        cue: str,
        margin: int,
        *,
        arms: int | None = None,
        lent_margin: int | None = None,
        infill: Infill = filled_background,
        most: int | None = None,
    ) -> Effects:
        """The effects of a cue's exchange over all processes, with all arms, or ``look_arms`` for a look.

        Of each class at most so many images are looked at, in each process.
        """
        look = look_of(cue)
        all_arms = self.plan.arms if look is None else self.plan.look_arms
        return self.gather(partial(self._swap, cue, margin, arms or all_arms, lent_margin, infill, most))

    def stick(self) -> Effects:
        """What the most telling windows win over all processes."""
        return self.gather(self._stick)

    def overhangs(self, classes: Iterable[int]) -> dict[int, float]:
        """By class how much of the masks' rim stands out as well: the median over a few images; NaN if unknown."""
        listed = list(classes)
        if not listed:
            return {}
        found = self.gather(partial(self._overhang, listed))
        measured = (
            found.overhang
            if found.overhang is not None
            else torch.full((len(found.labels),), torch.nan, dtype=torch.float32)
        )
        return {c: float(measured[found.labels == c].nanmedian()) for c in listed}

    def judge(self, effects: Iterable[Effects]) -> tuple[Estimate, ...]:
        """Every test of every class, adjusted together."""
        return screen(list(effects), self.classes, self.criteria, generator=self._generator())

    def noise(self) -> Infill:
        """Noise in the donor's color."""
        return partial(noise_background, generator=self._generator())

    def _swap(
        self, cue: str, margin: int, arms: int, lent_margin: int | None, infill: Infill, most: int | None
    ) -> Effects:
        design = restrict(self.design, arms, most)
        pool, lenders = self.pool, self.lenders
        if cue == FRAME:
            pool, lenders = bordered(pool), None if lenders is None else bordered(lenders)
        found = intervene(
            self.predict,
            pool,
            design,
            before=self._before[:, : design.classes.shape[1]],
            lenders=lenders,
            infill=infill,
            look=look_of(cue),
            margin=margin,
            lent_margin=lent_margin,
            cue=cue,
            batch_size=self.plan.batch_size,
            device=self.plan.device,
            progress=self.progress,
        )
        self.mine.setdefault(cue, found)
        return found

    def _stick(self) -> Effects:
        found = find_stickers(
            self.predict,
            self.pool if self.lenders is None else self.lenders,
            self.classes if self.plan.stickers else (),
            seed=self.plan.seed,
            batch_size=self.plan.batch_size,
            device=self.plan.device,
            segment=self.plan.segment,
            progress=self.progress,
        )
        self.stuck.append(found)
        self.mine[STICKER] = found.effects
        return found.effects

    def _overhang(self, classes: list[int]) -> Effects:
        """This process's effects with the overhang of the first images of these classes."""
        found = self.mine["background"]
        most = max(_AT_LEAST, min(_LOOKED_AT, _IN_ALL // len(classes)))
        rows = [row for c in classes for row in (found.labels == c).nonzero().flatten()[:most].tolist()]
        measured = torch.full((len(found.labels),), torch.nan, dtype=torch.float32)
        if rows:
            images, masks = self.pool.images[rows], self.pool.masks[rows]
            measured[rows] = overhang(images, masks, margin=margins(images)[0])
        return replace(found, overhang=measured)

    @cached_property
    def _before(self) -> Tensor:
        plan = self.plan
        return predict_before(self.predict, self.pool, self.design, batch_size=plan.batch_size, device=plan.device)

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.plan.seed)
