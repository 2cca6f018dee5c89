"""One round of detection, from a pool of images to verdicts: swap, judge, doubt what was found, decide."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import torch
from jaxtyping import Float
from torch import Tensor

from camtrain.errors import ConfigurationError
from camtrain.reliance.decide import FITTING, confirms, decide, decide_guessed, rejected
from camtrain.reliance.estimate import screen
from camtrain.reliance.history import Album
from camtrain.reliance.instances import with_transplants
from camtrain.reliance.intervene import (
    FRAME,
    NEAR_OBJECT,
    Infill,
    Swap,
    bordered,
    choose_donors,
    intervene,
    predict_before,
    restrict,
)
from camtrain.reliance.records import (
    STICKER,
    Criteria,
    Design,
    Effects,
    Estimate,
    Pace,
    Pool,
    Predict,
    Progress,
    Verdict,
)
from camtrain.reliance.stickers import Stickers, find_stickers, placement
from camtrain.segmenters import guess_masks, overhang
from camtrain.swaps.infills import noise_background
from camtrain.swaps.looks import LOOKS

__all__ = ["ExaminationPlan", "Findings", "Gather", "examine", "guess_margins", "margins"]

_FEWEST_ARMS = 3  # its own class, the one to win for, and one to compare with
_COLORED = 12  # images of a class on noise in the donor's color: for a remark
_LOOKED_AT, _AT_LEAST, _IN_ALL = 30, 10, 100  # images of a class, for whether their masks are too small

Gather = Callable[[Callable[[], Effects]], Effects]


@dataclass(frozen=True)
class ExaminationPlan:
    """How a round is run: donor classes per image, mask margins in pixels (None: from the side), memory, seed.

    ``looks`` are the cues of the whole picture that are tried beside the background, with ``look_arms`` donor classes.
    ``guessed`` says that the masks are guesses (`guess_masks`), not annotations: then more margin, and more doubt, and
    a search for ``stickers``, which has objects guessed anew by ``segment``. An ``album`` with a budget keeps what is
    composed for further rounds.
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
    album: Album = field(default_factory=lambda: Album(budget=0), compare=False)

    def __post_init__(self) -> None:
        unknown = [look for look in self.looks if look not in LOOKS]
        if unknown:
            raise ConfigurationError(f"looks are some of {', '.join(LOOKS)}; got {unknown[0]!r}.")


@dataclass(frozen=True)
class Findings:
    """The verdicts, and this process's own effects, by cue, that led to them, and how each was swapped.

    ``stickers`` are those that were searched, None where masks are annotated.
    """

    verdicts: tuple[Verdict, ...]
    effects: Mapping[str, Effects]
    shown: Mapping[str, Swap]
    stickers: Stickers | None = None


def examine(
    predict: Predict,
    pool: Pool,
    class_names: Sequence[str],
    classes: Sequence[int],
    *,
    lenders: Pool | None = None,
    criteria: Criteria = Criteria(),  # noqa: B008  frozen
    plan: ExaminationPlan = ExaminationPlan(),
    gather: Gather = lambda compute: compute(),
    progress: Progress = lambda what, done, total: None,
) -> Findings:
    """Does ``predict`` lean on the background, class by class: swap, decide, and doubt what was found.

    The backgrounds come from ``lenders``, in which classes should go with backgrounds as they did in training; from the
    pool itself by default. Beside whole backgrounds their tint, brightness and sharpness are swapped alone. Whatever a
    first round rejects is tried again with grown masks, unless the masks of its class are known to fit; a background
    with noise in the donor's color as well. ``gather`` joins the effects of several processes. Costs 1 + arms +
    3 look_arms forwards an image; where a background is found 3 more for 12 images of each class; where masks may not
    fit arms / 2 more, and where it is not seen again at once, arms, and look_arms for each look.

    Where the plan says that the masks are `guessed`, donors are taken off masks grown by the wider of `guess_margins`
    before they lend: what a guess missed of the *donor's* object would tell its class. What it missed of an image's own
    object is lost on every background alike; so that is kept with the narrow margin, and only what is found is tried
    again with the wider. The border alone, and what lies close to the donors' masks, are swapped with half the arms.
    What is found only there, or not again, is suspect. A sticker that a guess may take for a part of the object is
    searched for in another way, see `find_stickers`. Costs 1 + 2 arms + 3 look_arms forwards an image, and where
    something is found as much more as above, but for the noise; the search 39 for each of 12 images of a class, and
    of all where small windows win it.
    """
    plan.album.open(pool, lenders)
    run = Round(predict, pool, lenders, tuple(classes), criteria, plan, gather, progress)
    return _examine_guessed(run, class_names) if plan.guessed else _examine_annotated(run, class_names)


def _examine_annotated(run: "Round", class_names: Sequence[str]) -> Findings:
    margin, guard = _margins(run.pool, run.plan)
    effects = {cue: run.shown_swap(Swap(cue, margin)) for cue in ("background", *run.looks)}
    estimates = run.judge(effects.values())
    found = rejected(estimates, run.criteria)
    overhangs = run.overhangs(dict.fromkeys(one.class_index for one in found))
    guarded = _seen_again(run, [one for one in found if not overhangs[one.class_index] <= FITTING], guard)
    noisy = Swap("background", margin, infill=run.noise())
    by_background = any(one.cue == "background" for one in found)
    colored = run.judge([run.swap(noisy, arms=3, most=_COLORED)]) if by_background else ()
    told = decide(
        effects["background"],
        estimates,
        class_names,
        guarded=guarded,
        other_infill=colored,
        overhangs=overhangs,
        criteria=run.criteria,
    )
    return Findings(with_transplants(told, effects), run.mine, run.shown)


def _examine_guessed(run: "Round", class_names: Sequence[str]) -> Findings:
    narrow, wide = guess_margins(run.pool.images)
    few = -(-run.plan.arms // 2)
    far = {cue: run.shown_swap(Swap(cue, narrow, wide + 1)) for cue in ("background", *run.looks)}
    stuck = run.stick()
    estimates = run.judge([*far.values(), stuck])
    found = [one for one in rejected(estimates, run.criteria) if one.cue != STICKER]
    guarded = _seen_again(run, found, wide, wide + 1)
    near, frame = Swap(NEAR_OBJECT, narrow, 2 * narrow), Swap(FRAME, 0)
    close = {swap.cue: run.shown_swap(swap, arms=few) for swap in (near, frame)}
    told = decide_guessed(
        far["background"],
        estimates,
        run.judge(close.values()),
        class_names,
        guarded=guarded,
        placements={c: placement(stuck, c) for c in run.classes},
        criteria=run.criteria,
    )
    measured = far | close | {STICKER: stuck}
    return Findings(with_transplants(told, measured), run.mine, run.shown, run.stuck[0])


def _seen_again(
    run: "Round", found: Sequence[Estimate], margin: int, lent_margin: int | None = None
) -> tuple[Estimate, ...]:
    """What the swaps that found something find with grown masks; the dearest only where it is needed.

    Backgrounds are swapped with half the arms, and with all where a class was not seen again by that; looks only for
    classes whose background was not.
    """

    def again(cue: str, arms: int | None = None) -> tuple[Estimate, ...]:
        return run.judge([run.swap(Swap(cue, margin, lent_margin), arms=arms)])

    backgrounds = [one for one in found if one.cue == "background"]
    all_arms = run.design.classes.shape[1]
    few = max(_FEWEST_ARMS, -(-all_arms // 2))
    guarded = again("background", few) if backgrounds else ()
    if few < all_arms and not all(confirms(one, guarded, run.criteria) for one in backgrounds):
        guarded += again("background")
    seen = {one.class_index for one in backgrounds if confirms(one, guarded, run.criteria)}
    for cue in dict.fromkeys(one.cue for one in found if one.cue != "background" and one.class_index not in seen):
        guarded += again(cue)
    return guarded


@dataclass(frozen=True)
class Round:
    """One round's swaps and tests. ``mine`` are this process's own effects by cue, each of its first swap."""

    predict: Predict
    pool: Pool
    lenders: Pool | None
    classes: tuple[int, ...]
    criteria: Criteria
    plan: ExaminationPlan
    gather: Gather
    progress: Progress
    mine: dict[str, Effects] = field(default_factory=dict)
    shown: dict[str, Swap] = field(default_factory=dict)
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

    @property
    def pace(self) -> Pace:
        """How forwards are made."""
        return Pace(self.plan.batch_size, self.plan.device, self.progress)

    def swap(self, swap: Swap, *, arms: int | None = None, most: int | None = None) -> Effects:
        """The effects of a cue's exchange over all processes, with all arms, or ``look_arms`` for a look.

        Of each class at most so many images are looked at, in each process.
        """
        all_arms = self.plan.arms if swap.look is None else self.plan.look_arms
        return self.gather(partial(self._swap, swap, arms or all_arms, most))

    def shown_swap(self, swap: Swap, *, arms: int | None = None) -> Effects:
        """The same, of an exchange that can be shown to a person."""
        effects = self.swap(swap, arms=arms)
        self.shown[swap.cue] = swap
        return effects

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

    def _swap(self, swap: Swap, arms: int, most: int | None) -> Effects:
        design = restrict(self.design, arms, most)
        pool, lenders = self.pool, self.lenders
        if swap.cue == FRAME:
            pool, lenders = bordered(pool), None if lenders is None else bordered(lenders)
        found = intervene(
            self.predict,
            pool,
            design,
            swap,
            before=self._before[:, : design.classes.shape[1]],
            lenders=lenders,
            pace=self.pace,
            album=self.plan.album,
        )
        self.mine.setdefault(swap.cue, found)
        return found

    def _stick(self) -> Effects:
        found = find_stickers(
            self.predict,
            self.pool if self.lenders is None else self.lenders,
            self.classes if self.plan.stickers else (),
            seed=self.plan.seed,
            segment=self.plan.segment,
            pace=self.pace,
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
            margin = margins(images)[0]
            measured[rows] = self.plan.album.get(("overhang", *rows), lambda: overhang(images, masks, margin=margin))
        return replace(found, overhang=measured)

    @cached_property
    def _before(self) -> Tensor:
        return predict_before(self.predict, self.pool, self.design, pace=self.pace)

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.plan.seed)


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


def _margins(pool: Pool, plan: ExaminationPlan) -> tuple[int, int]:
    margin, guard = margins(pool.images)
    return (
        margin if plan.margin is None else plan.margin,
        guard if plan.guard is None else plan.guard,
    )
