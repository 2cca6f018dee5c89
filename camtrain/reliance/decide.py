"""From effects to verdicts: reliant or not, or undecided and why; with guessed masks suspect, or no evidence."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

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
    cases = _cases(effects, class_names, criteria, tests=len(estimates))
    verdicts = tuple(
        _by_masks(
            case,
            case.of(estimates),
            None if guarded is None else case.of(guarded),
            case.of(other_infill),
            overhang=(overhangs or {}).get(case.class_index, math.nan),
        )
        for case in cases
    )
    return _with_exceptions(verdicts, effects, class_names, criteria)


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


@dataclass(frozen=True)
class ClassCase:
    """One class of a round: what was measured of it, and by what rules it is decided.

    ``tests`` is how many the round holds in all.
    """

    effects: Effects
    class_index: int
    class_name: str
    criteria: Criteria
    tests: int

    def of(self, estimates: Sequence[Estimate]) -> list[Estimate]:
        """Those of this class."""
        return [estimate for estimate in estimates if estimate.class_index == self.class_index]

    def answer(self, verdict: Answer, estimate: Estimate | None, note: str) -> Verdict:
        """The verdict, with the numbers of the estimate that led to it."""
        effects, rows = self.effects, self.effects.of(self.class_index)
        numbers = (estimate.effect, estimate.low, estimate.high) if estimate else (math.nan, math.nan, math.nan)
        p_value, cue = (estimate.adjusted, estimate.cue) if estimate else (math.nan, "background")
        placebo = float((effects.before[rows, 0].double() - effects.after[rows, 0, 0]).mean())
        images = int(rows.sum())
        return Verdict(self.class_index, self.class_name, verdict, *numbers, placebo, p_value, images, cue, note)

    def too_few(self) -> Verdict:
        """Undecided, where nothing was estimated."""
        effects, usable = self.effects, int(self.effects.of(self.class_index).sum())
        if bool(effects.before[effects.labels == self.class_index, 0].isnan().all()):
            note = "the network's answers are not finite: lower the learning rate, or look at the loss"
        else:
            note = f"{usable} usable images; about {max(1, self.criteria.min_images - usable)} more are needed"
        return self.answer("undecided", None, note)

    def share_exchanged(self) -> str:
        """How much of the frame another image's background took, in the mean."""
        exchanged = self.effects.exchanged
        shares = None if exchanged is None else exchanged[self.effects.of(self.class_index)]
        return "part" if shares is None or not len(shares) else f"{100 * float(shares.mean()):.0f} %"

    def probability_elsewhere(self) -> float:
        """The mean probability of the class on the images of the others, as they are; 0 where none was asked."""
        effects = self.effects
        asked = (effects.classes == self.class_index) & (effects.labels != self.class_index).unsqueeze(1)
        values = effects.before[asked].double()
        values = values[~values.isnan()]
        return float(values.mean()) if len(values) else 0.0


def _cases(effects: Effects, class_names: Sequence[str], criteria: Criteria, *, tests: int) -> list[ClassCase]:
    return [ClassCase(effects, c, class_names[c], criteria, tests) for c in sorted(set(effects.labels.tolist()))]


def _by_masks(
    case: ClassCase,
    estimates: Sequence[Estimate],
    guarded: Sequence[Estimate] | None,
    other_infill: Sequence[Estimate],
    *,
    overhang: float,
) -> Verdict:
    """The verdict on one class whose masks are annotated."""
    if not estimates:
        return case.too_few()
    above = rejected(estimates, case.criteria)
    confirmed = above if overhang <= FITTING else _confirmed(above, guarded, case.criteria)
    if confirmed and overhang > MOST_OVERHANG:
        note = f"masks too small: {100 * overhang:.0f} % of the rim around them belongs to what stands out as well"
        return case.answer("undecided", _most_telling(confirmed), note)
    if confirmed:
        telling = _most_telling(confirmed)
        return case.answer("reliant", telling, _evidence(telling, other_infill))
    if above:
        largest = max(above, key=lambda estimate: estimate.effect)
        note = "the effect vanishes when the masks are grown: masks too small, or the object's edge"
        return case.answer("undecided", largest, note)
    return _not_found(case, estimates)


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
    cases = _cases(effects, class_names, criteria, tests=len(estimates))
    verdicts = tuple(
        _by_guesses(
            case,
            case.of(estimates),
            case.of(close),
            None if guarded is None else case.of(guarded),
            (placements or {}).get(case.class_index),
        )
        for case in cases
    )
    return _with_exceptions(verdicts, effects, class_names, criteria)


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


def _by_guesses(
    case: ClassCase,
    estimates: Sequence[Estimate],
    close: Sequence[Estimate],
    guarded: Sequence[Estimate] | None,
    placed: Placement | None,
) -> Verdict:
    """The verdict on one class whose masks are guesses."""
    criteria = case.criteria
    stuck = [estimate for estimate in rejected(estimates, criteria) if estimate.cue == STICKER]
    estimates = [estimate for estimate in estimates if estimate.cue != STICKER]
    if not estimates and not stuck:
        return case.too_few()
    above = rejected(estimates, criteria)
    confirmed = _confirmed(above, guarded, criteria)
    telling = _most_telling(confirmed) if confirmed else None
    stronger = [estimate for estimate in stuck if telling is None or estimate.effect > telling.effect]
    if stronger and placed is not None and placed.convinces(criteria):
        note = f"{_evidence(stronger[0], ())}; off the object in {placed.off} of {placed.images} images"
        return case.answer("reliant", stronger[0], note)
    share = case.share_exchanged()
    if telling is not None:
        note = f"{_evidence(telling, ())}, off what was taken for the object; {share} of the frame exchanged"
        return case.answer("reliant", telling, note)
    if not estimates:
        return case.too_few()
    doubtful = rejected(close, criteria)
    if above or doubtful:
        largest = max([*above, *doubtful], key=lambda estimate: estimate.effect)
        where = f"in the {largest.cue} only" if largest in doubtful else "next to what was taken for the object only"
        return case.answer("suspect", largest, f"shows {where}, and may be part of the object: look at the pictures")
    verdict = _not_found(case, estimates)
    if verdict.verdict != "not reliant":
        return verdict
    note = f"no evidence found, by these tests, over {share} of the frame"
    return replace(verdict, verdict="no evidence", note=note)


def _not_found(case: ClassCase, estimates: Sequence[Estimate]) -> Verdict:
    """Where nothing exceeds tau: is that sure, or are there too few images."""
    effects, limit = case.effects, case.criteria.limit
    rows = effects.of(case.class_index)
    own = float(effects.before[rows, 0].double().mean())
    widest = max(estimates, key=lambda estimate: estimate.high)
    if own <= 2 * limit:
        return case.answer("undecided", widest, f"the class is not recognized yet (mean probability {own:.2f})")
    elsewhere = case.probability_elsewhere()
    if own - elsewhere <= limit:
        note = f"the class is not told from others yet (mean probability {own:.2f}, {elsewhere:.2f} on their images)"
        return case.answer("undecided", widest, note)
    swings = float((effects.after[rows, :1, 0] - effects.after[rows, 1:, 0]).abs().nanmean())
    if widest.high < limit and swings > 1.5 * limit:
        note = f"any other background changes it by {100 * swings:.0f} points, but not by class"
        return case.answer("undecided", widest, note)
    if widest.high < limit:
        return case.answer("not reliant", widest, f"every effect below {limit:g}")
    more = images_needed(widest, case.criteria, case.tests)
    note = f"about {more} more images would decide" if more else "between the limits"
    return case.answer("undecided", widest, note)


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
