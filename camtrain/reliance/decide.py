"""From effects to verdicts: reliant or not, or undecided and why; with guessed masks suspect, or no evidence."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from scipy.special import stdtrit

from camtrain.reliance.estimate import indifferent
from camtrain.reliance.records import STICKER, Answer, Criteria, Effects, Estimate, Verdict
from camtrain.reliance.stickers import Placement
from camtrain.tasks.regression import RANGE

__all__ = [
    "confirms",
    "decide",
    "decide_guessed",
    "images_needed",
    "in_spreads",
    "rejected",
    "share_of_round",
    "verdict_of",
]

MOST_OVERHANG = 0.4  # in the median over a class's images; exact masks have up to 0.38, nearly all eroded ones more
FITTING = 0.05  # up to here the rim is known to be background, and masks need not be grown to see what an edge does


def rejected(estimates: Sequence[Estimate], criteria: Criteria) -> tuple[Estimate, ...]:
    """The estimates whose effect exceeds tau after the correction over classes and tests."""
    return tuple(one for one in estimates if one.adjusted <= criteria.share * criteria.alpha)


def share_of_round(index: int) -> float:
    """The part of alpha that the first, second, ... round of a run may spend: they add up to 1, however many there are.

    Source: alpha spending (Lan and DeMets 1983), with `1 / (j (j + 1))`.

    >>> [round(share_of_round(j), 3) for j in (1, 2, 3)], round(sum(map(share_of_round, range(1, 1000))), 2)
    ([0.5, 0.167, 0.083], 1.0)
    """
    return 1 / (index * (index + 1))


def decide(
    effects: Effects,
    estimates: Sequence[Estimate],
    class_names: Sequence[str],
    *,
    guarded: Sequence[Estimate] | None = None,
    other_infill: Sequence[Estimate] = (),
    overhangs: Mapping[int, float] | None = None,
    criteria: Criteria = Criteria(),  # noqa: B008  frozen
) -> tuple[Verdict, ...]:
    """One verdict for each class of the effects, in order.

    ``reliant``: necessity or sufficiency exceeds tau, and still does with the grown masks of ``guarded`` (each at level
    alpha alone, since both must hold; where the background does, its looks need not). An effect that vanishes there may
    be the object's own edge: undecided. A class whose ``overhangs`` say that its masks fit needs no such guard: what
    vanishes lies close to the object, but off it. One whose overhangs say that the rim around its masks belongs to the
    object as well is undecided.
    ``not reliant``: every upper bound lies below ``criteria.limit``, and other backgrounds do not swing the class any
    way either, as they would where donors' classes do not go with their backgrounds (a balanced set). All else is
    undecided, with the number of images that would settle it. ``other_infill`` enters the note only.
    """
    present = sorted(set(effects.labels.tolist()))
    told = tuple(
        verdict_of(
            effects,
            c,
            class_names[c],
            _of(c, estimates),
            None if guarded is None else _of(c, guarded),
            _of(c, other_infill),
            criteria,
            tests=len(estimates),
            overhang=(overhangs or {}).get(c, math.nan),
        )
        for c in present
    )
    return _with_exceptions(told, effects, class_names, criteria)


def unmeasured(names: Sequence[str], reason: str) -> tuple[Verdict, ...]:
    """What is said of classes of which nothing could be measured, and why.

    >>> unmeasured(["boat"], "no labels")[0].verdict
    'undecided'
    """
    nothing = (math.nan,) * 5
    return tuple(
        Verdict(index, name, "undecided", *nothing, 0, "background", f"not measured: {reason}")
        for index, name in enumerate(names)
    )


def of_label(verdicts: Sequence[Verdict]) -> tuple[Verdict, ...]:
    """Of the verdicts on a label's absence and presence the one that accuses it more, presence where they are alike."""
    order = ("reliant", "suspect", "undecided", "no evidence", "not reliant")
    return tuple(sorted(verdicts, key=lambda one: (order.index(one.verdict), -one.class_index))[:1])


def in_spreads(verdict: Verdict) -> Verdict:
    """What was judged as a choice between low and high, said of the value: numbers in spreads of the labels.

    >>> high = Verdict(1, "high", "reliant", 0.25, 0.2, 0.3, 0.0, 0.001, 60, "background", "by what it loses")
    >>> in_spreads(high).effect, in_spreads(high).note
    (1.0, 'by what it loses; in spreads of the labels')
    """
    numbers = {name: RANGE * getattr(verdict, name) for name in ("effect", "low", "high", "placebo")}
    note = f"{verdict.note}; in spreads of the labels"
    return replace(verdict, class_index=0, class_name="value", note=note, **numbers)


def verdict_of(
    effects: Effects,
    class_index: int,
    name: str,
    estimates: Sequence[Estimate],
    guarded: Sequence[Estimate] | None,
    other_infill: Sequence[Estimate],
    criteria: Criteria,
    *,
    tests: int,
    overhang: float = math.nan,
) -> Verdict:
    """The verdict on one class from its own estimates; ``tests`` is how many the round holds in all."""
    answer = partial(_answer, effects, class_index, name)
    if not estimates:
        return answer("undecided", None, _too_few(effects, class_index, criteria))
    found = rejected(estimates, criteria)
    confirmed = found if overhang <= FITTING else _confirmed(found, guarded, criteria)
    if confirmed and overhang > MOST_OVERHANG:
        note = f"masks too small: {100 * overhang:.0f} % of the rim around them belongs to what stands out as well"
        return answer("undecided", _most_telling(confirmed), note)
    if confirmed:
        one = _most_telling(confirmed)
        return answer("reliant", one, _evidence(one, other_infill))
    if found:
        one = max(found, key=lambda e: e.effect)
        return answer(
            "undecided", one, "the effect vanishes when the masks are grown: masks too small, or the object's edge"
        )
    return _not_found(effects, class_index, name, estimates, criteria, tests=tests)


def decide_guessed(
    effects: Effects,
    estimates: Sequence[Estimate],
    close: Sequence[Estimate],
    class_names: Sequence[str],
    *,
    guarded: Sequence[Estimate] | None = None,
    placements: Mapping[int, Placement] | None = None,
    criteria: Criteria = Criteria(),  # noqa: B008  frozen
) -> tuple[Verdict, ...]:
    """One verdict for each class of the effects, in order, where the masks are guesses.

    ``reliant``: something among ``estimates``, on backgrounds taken far off their own objects, exceeds tau, and still
    does with the grown masks of ``guarded`` (at level alpha alone, since both must hold); or a sticker does, and the
    ``placements`` of its class say that it lies off the object (at level alpha as well). Whichever wins more is named.
    ``suspect``: it does not there, or only something among ``close`` does, in the border or next to the donors' masks,
    where an object that was cut off would look the same.
    ``no evidence``, and never "not reliant": every upper bound lies below ``criteria.limit``; the note says over which
    share of the frame. All else is undecided.
    """
    present = sorted(set(effects.labels.tolist()))
    told = tuple(
        _guessed_verdict(
            effects,
            c,
            class_names[c],
            _of(c, estimates),
            _of(c, close),
            None if guarded is None else _of(c, guarded),
            (placements or {}).get(c),
            criteria,
            tests=len(estimates),
        )
        for c in present
    )
    return _with_exceptions(told, effects, class_names, criteria)


def _with_exceptions(
    told: Sequence[Verdict], effects: Effects, class_names: Sequence[str], criteria: Criteria
) -> tuple[Verdict, ...]:
    """The verdicts; of a class that leans on its background the note names those on whose it loses nothing."""
    noted = []
    for one in told:
        alike = indifferent(effects, one.class_index, criteria.tau) if one.verdict == "reliant" else ()
        if alike and one.cue == effects.cue:
            names = ", ".join(class_names[c] for c in alike)
            note = f"{one.note}; nothing lost on backgrounds of {names}: one cue for both, or none but others'"
            one = replace(one, note=note)
        noted.append(one)
    return tuple(noted)


def _guessed_verdict(
    effects: Effects,
    class_index: int,
    name: str,
    estimates: Sequence[Estimate],
    close: Sequence[Estimate],
    guarded: Sequence[Estimate] | None,
    placed: Placement | None,
    criteria: Criteria,
    *,
    tests: int,
) -> Verdict:
    stuck = [one for one in rejected(estimates, criteria) if one.cue == STICKER]
    estimates = [one for one in estimates if one.cue != STICKER]
    if not estimates and not stuck:
        return _answer(effects, class_index, name, "undecided", None, _too_few(effects, class_index, criteria))
    share = _share_exchanged(effects, class_index)
    found = rejected(estimates, criteria)
    confirmed = _confirmed(found, guarded, criteria)
    telling = _most_telling(confirmed) if confirmed else None
    more = [one for one in stuck if telling is None or one.effect > telling.effect]
    if more and placed is not None and placed.convinces(criteria):
        note = f"{_evidence(more[0], ())}; off the object in {placed.off} of {placed.images} images"
        return _answer(effects, class_index, name, "reliant", more[0], note)
    if telling is not None:
        note = f"{_evidence(telling, ())}, off what was taken for the object; {share} of the frame exchanged"
        return _answer(effects, class_index, name, "reliant", telling, note)
    if not estimates:
        return _answer(effects, class_index, name, "undecided", None, _too_few(effects, class_index, criteria))
    doubtful = rejected(close, criteria)
    if found or doubtful:
        one = max([*found, *doubtful], key=lambda e: e.effect)
        where = f"in the {one.cue} only" if one in doubtful else "next to what was taken for the object only"
        note = f"shows {where}, and may be part of the object: look at the pictures"
        return _answer(effects, class_index, name, "suspect", one, note)
    verdict = _not_found(effects, class_index, name, estimates, criteria, tests=tests)
    if verdict.verdict != "not reliant":
        return verdict
    note = f"no evidence found, by these tests, over {share} of the frame"
    return replace(verdict, verdict="no evidence", note=note)


def _answer(effects: Effects, class_index: int, name: str, verdict: Answer, one: Estimate | None, note: str) -> Verdict:
    rows = effects.of(class_index)
    numbers = (one.effect, one.low, one.high) if one else (math.nan, math.nan, math.nan)
    p_value = one.adjusted if one else math.nan
    cue = one.cue if one else "background"
    placebo = float((effects.before[rows, 0].double() - effects.after[rows, 0, 0]).mean())
    return Verdict(class_index, name, verdict, *numbers, placebo, p_value, int(rows.sum()), cue, note)


def _too_few(effects: Effects, class_index: int, criteria: Criteria) -> str:
    if bool(effects.before[effects.labels == class_index, 0].isnan().all()):
        return "the network's answers are not finite: lower the learning rate, or look at the loss"
    images = int(effects.of(class_index).sum())
    return f"{images} usable images; about {max(1, criteria.min_images - images)} more are needed"


def _share_exchanged(effects: Effects, class_index: int) -> str:
    shares = None if effects.exchanged is None else effects.exchanged[effects.of(class_index)]
    return "part" if shares is None or not len(shares) else f"{100 * float(shares.mean()):.0f} %"


def _probability_elsewhere(effects: Effects, class_index: int) -> float:
    """The mean probability of a class on the images of the others, as they are; 0 where none was asked about it."""
    asked = (effects.classes == class_index) & (effects.labels != class_index).unsqueeze(1)
    found = effects.before[asked].double()
    found = found[~found.isnan()]
    return float(found.mean()) if len(found) else 0.0


def _not_found(
    effects: Effects, class_index: int, name: str, estimates: Sequence[Estimate], criteria: Criteria, *, tests: int
) -> Verdict:
    """Where nothing exceeds tau: is that sure, or are there too few images."""
    answer = partial(_answer, effects, class_index, name)
    rows = effects.of(class_index)
    own = effects.before[rows, 0].double()
    widest = max(estimates, key=lambda e: e.high)
    if float(own.mean()) <= 2 * criteria.limit:
        return answer(
            "undecided", widest, f"the class is not recognized yet (mean probability {float(own.mean()):.2f})"
        )
    elsewhere = _probability_elsewhere(effects, class_index)
    if float(own.mean()) - elsewhere <= criteria.limit:
        note = f"the class is not told from others yet (mean probability {float(own.mean()):.2f}, {elsewhere:.2f} on"
        return answer("undecided", widest, f"{note} their images)")
    swings = float((effects.after[rows, :1, 0] - effects.after[rows, 1:, 0]).abs().nanmean())
    if widest.high < criteria.limit and swings > 1.5 * criteria.limit:
        return answer(
            "undecided", widest, f"any other background changes it by {100 * swings:.0f} points, but not by class"
        )
    if widest.high < criteria.limit:
        return answer("not reliant", widest, f"every effect below {criteria.limit:g}")
    more = images_needed(widest, criteria, tests)
    return answer("undecided", widest, f"about {more} more images would decide" if more else "between the limits")


def images_needed(one: Estimate, criteria: Criteria, tests: int) -> int | None:
    """How many more units would decide, should effect and spread stay as they are; None where none would.

    >>> images_needed(Estimate(0, "necessity", 0.0, 0.05, 30, -0.1, 0.102, 0.6), Criteria(), 20)
    2
    """
    if not 0 < one.error < math.inf:
        return None
    spread = one.error * math.sqrt(one.units)
    wanted: list[float] = []
    if one.effect > criteria.tau:
        wanted.append(_quantile(criteria.share * criteria.alpha / tests, one.units) / (one.effect - criteria.tau))
    if one.effect < criteria.limit:
        wanted.append(_quantile(criteria.alpha / 2, one.units) / (criteria.limit - one.effect))
    needed = min(spread * spread * w * w for w in wanted)
    return max(1, math.ceil(needed) - one.units)


def _quantile(tail: float, units: int) -> float:
    return float(stdtrit(units - 1, 1 - tail))


def _of(class_index: int, estimates: Sequence[Estimate]) -> list[Estimate]:
    return [one for one in estimates if one.class_index == class_index]


def _confirmed(found: Sequence[Estimate], guarded: Sequence[Estimate] | None, criteria: Criteria) -> Sequence[Estimate]:
    """What was seen again; all of it where the background was: the looks then only say what it is of the background."""
    if guarded is None:
        return found
    seen = [one for one in found if confirms(one, guarded, criteria)]
    return found if any(one.cue == "background" for one in seen) else seen


def confirms(one: Estimate, guarded: Sequence[Estimate], criteria: Criteria) -> bool:
    """Whether the same test of the same class and cue exceeds tau in a second measurement, at level alpha alone."""
    wanted = (one.class_index, one.test, one.cue)
    alike = (other for other in guarded if (other.class_index, other.test, other.cue) == wanted)
    return any(other.p_value <= criteria.alpha for other in alike)


def _most_telling(confirmed: Sequence[Estimate]) -> Estimate:
    """The largest effect; of a background the look that makes most of it, if it makes more than half."""
    largest = max(confirmed, key=lambda e: e.effect)
    looks = [e for e in confirmed if e.cue != "background" and e.effect > largest.effect / 2]
    return max(looks, key=lambda e: e.effect) if looks else largest


def _evidence(one: Estimate, other_infill: Sequence[Estimate]) -> str:
    said = "by what it loses without it" if one.test == "necessity" else "by what it wins on other objects"
    for other in other_infill:
        if other.test == one.test and one.cue == "background":
            said += f"; {100 * other.effect:.0f} points by its color alone"
    return said
