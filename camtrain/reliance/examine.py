"""One round of detection from a pool of images to verdicts, with the pictures to believe them by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from camtrain.reliance.decide import FITTING, confirms, decide, decide_guessed, rejected
from camtrain.reliance.interventions import FRAME, NEAR_OBJECT, Predict, Progress
from camtrain.reliance.records import STICKER, Criteria, Effects, Estimate, Pool, Test, Verdict
from camtrain.reliance.rounds import Gather, Plan, Round, Shown, guess_margins, margins
from camtrain.reliance.stickers import Stickers, placement
from camtrain.reliance.transplants import with_transplants

__all__ = ["Findings", "Instance", "examine", "illustrate"]

_FEWEST_ARMS = 3  # its own class, the one to win for, and one to compare with
_COLORED = 12  # images of a class on noise in the donor's color: for a remark


@dataclass(frozen=True)
class Findings:
    """The verdicts, and this process's own effects, by cue, that led to them, and how each was swapped.

    ``stickers`` are those that were searched, None where masks are annotated.
    """

    verdicts: tuple[Verdict, ...]
    effects: Mapping[str, Effects]
    shown: Mapping[str, Shown]
    stickers: Stickers | None = None


@dataclass(frozen=True)
class Instance:
    """One image on one lender's background, by their indices, and the class's probability before and after."""

    class_index: int
    test: Test
    image: int
    donor: int
    before: float
    after: float


def examine(
    predict: Predict,
    pool: Pool,
    class_names: Sequence[str],
    classes: Sequence[int],
    *,
    lenders: Pool | None = None,
    criteria: Criteria = Criteria(),  # noqa: B008  frozen
    plan: Plan = Plan(),  # noqa: B008  frozen
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
    run = Round(predict, pool, lenders, tuple(classes), criteria, plan, gather, progress)
    return _examine_guessed(run, class_names) if plan.guessed else _examine_annotated(run, class_names)


def _examine_annotated(run: Round, class_names: Sequence[str]) -> Findings:
    margin, guard = _margins(run.pool, run.plan)
    effects = {cue: run.swap(cue, margin) for cue in ("background", *run.looks)}
    run.shown.update(dict.fromkeys(effects, Shown(margin)))
    estimates = run.judge(effects.values())
    found = rejected(estimates, run.criteria)
    overhangs = run.overhangs(dict.fromkeys(one.class_index for one in found))
    guarded = _seen_again(run, [one for one in found if not overhangs[one.class_index] <= FITTING], Shown(guard))
    by_background = any(one.cue == "background" for one in found)
    colored = (
        run.judge([run.swap("background", margin, arms=3, infill=run.noise(), most=_COLORED)]) if by_background else ()
    )
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


def _examine_guessed(run: Round, class_names: Sequence[str]) -> Findings:
    narrow, wide = guess_margins(run.pool.images)
    few = -(-run.plan.arms // 2)
    far = {cue: run.swap(cue, narrow, lent_margin=wide + 1) for cue in ("background", *run.looks)}
    run.shown.update(dict.fromkeys(far, Shown(narrow, wide + 1)))
    stuck = run.stick()
    estimates = run.judge([*far.values(), stuck])
    found = [one for one in rejected(estimates, run.criteria) if one.cue != STICKER]
    guarded = _seen_again(run, found, Shown(wide, wide + 1))
    close = {
        NEAR_OBJECT: run.swap(NEAR_OBJECT, narrow, arms=few, lent_margin=2 * narrow),
        FRAME: run.swap(FRAME, 0, arms=few),
    }
    run.shown.update({NEAR_OBJECT: Shown(narrow, 2 * narrow), FRAME: Shown(0, 0)})
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


def _seen_again(run: Round, found: Sequence[Estimate], shown: Shown) -> tuple[Estimate, ...]:
    """What the swaps that found something find with grown masks; the dearest only where it is needed.

    Backgrounds are swapped with half the arms, and with all where a class was not seen again by that; looks only for
    classes whose background was not.
    """

    def again(cue: str, arms: int | None = None) -> tuple[Estimate, ...]:
        return run.judge([run.swap(cue, shown.margin, lent_margin=shown.lent_margin, arms=arms)])

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


def illustrate(effects: Effects, class_index: int, *, count: int = 2) -> tuple[Instance, ...]:
    """The images that show it best: most lost on another background, or won by the class's own on other objects.

    Whichever changes more on average is shown, one background per image; empty where nothing was measured.

    >>> effects = Effects("fill", torch.tensor([0]), torch.tensor([[0, 1]]), torch.tensor([[1, 2]]),
    ...     torch.tensor([[0.9, 0.1]]), torch.tensor([[[0.75, 0.25], [0.25, 0.75]]]))
    >>> [(one.test, one.donor, round(one.after, 2)) for one in illustrate(effects, 0)]
    [('necessity', 2, 0.25)]
    """
    lost, won = losses(effects, class_index), wins(effects, class_index)
    shown = max(lost, won, key=lambda group: sum(map(change_of, group)) / max(1, len(group)))
    best: dict[int, Instance] = {}
    for one in sorted(shown, key=change_of, reverse=True):
        best.setdefault(one.image, one)
    return tuple(best.values())[:count]


def change_of(one: Instance) -> float:
    """What the class loses or wins, whichever the test is about."""
    change = one.before - one.after
    return change if one.test == "necessity" else -change


def losses(effects: Effects, class_index: int) -> list[Instance]:
    """Images of the class on other classes' backgrounds."""
    after = effects.after[:, 1:, 0]
    rows, arms = ((effects.labels == class_index).unsqueeze(1) & ~after.isnan()).nonzero().unbind(dim=1)
    return _instances(effects, class_index, "necessity", rows, arms + 1, torch.zeros_like(arms))


def wins(effects: Effects, class_index: int) -> list[Instance]:
    """Other classes' images on backgrounds of the class."""
    met = (effects.classes == class_index) & (effects.donors >= 0)
    rows, arms = met.nonzero().unbind(dim=1)
    rows, arms = rows[arms > 0], arms[arms > 0]
    return _instances(effects, class_index, "sufficiency", rows, arms, arms)


def _instances(
    effects: Effects, class_index: int, test: Test, rows: Tensor, arms: Tensor, columns: Tensor
) -> list[Instance]:
    donors, before = effects.donors[rows, arms].tolist(), effects.before[rows, columns].tolist()
    after = effects.after[rows, arms, columns].tolist()
    found = zip(rows.tolist(), donors, before, after, strict=True)
    return [Instance(class_index, test, *values) for values in found]


def _margins(pool: Pool, plan: Plan) -> tuple[int, int]:
    margin, guard = margins(pool.images)
    return (
        margin if plan.margin is None else plan.margin,
        guard if plan.guard is None else plan.guard,
    )
