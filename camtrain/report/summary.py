"""What a run's history comes to: which classes lean on what, and what alignment changed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import inf, isnan
from typing import Any, Literal

from camtrain.records import CELLS, RIGHT_UNGROUNDED, FourCells, Verdict
from camtrain.records.formats import NAN, Epoch, History

FLAGGED = "reliance/flagged"
CHANCE, CEILING = "cam/inside_energy_chance", "cam/inside_energy_ceiling/"
_LANGUAGE = {  # by cue, what is judged where answers are sentences, and what a reliant one is
    "question": ("question", "answered without the picture"),
    "other words": ("word", "said without the picture"),
}
OFF_THE_OBJECT = "right, heat off the object"  # no verdict: what a class leans on is told by interventions
KEYS = {OFF_THE_OBJECT.capitalize(): "right_for_the_wrong_reason"}  # of the summary, as it has always been named
ALIGNMENT_ACTIVE, ALIGNMENT_WEIGHT = "alignment/active", "alignment/weight"
RELIANT = "reliant"
SUSPECT = "suspect"
UNDECIDED = "undecided"
NO_EVIDENCE, FAIR = "no evidence", "fair"
NAMES_SPELLED_OUT = 4

Unit = Literal["share", "ratio", "count"]  # shown as percent, with two digits, as a whole number


@dataclass(frozen=True)
class EpochSpan:
    """The two epochs that a run is told by; `before` is None where there is only one to speak of.

    With alignment, `before` is the last epoch without it; otherwise the first epoch.
    """

    before: Epoch | None
    after: Epoch | None
    aligned: bool


@dataclass(frozen=True)
class Measure:
    """One number before and after; NaN where it was not measured. `rises` says that more is better.

    `note` says what the number is to be held against.
    """

    label: str
    before: float
    after: float
    unit: Unit
    rises: bool
    note: str = ""

    @property
    def change(self) -> float:
        """After minus before; NaN where either is missing."""
        return self.after - self.before

    @property
    def better(self) -> bool | None:
        """Did it change for the better; None where it shows no change or is not known."""
        if isnan(self.change) or shown(self.before, self.unit) == shown(self.after, self.unit):
            return None
        return (self.change > 0) == self.rises


def alignment_start(history: History) -> Epoch | None:
    """The first epoch at which alignment was on; None where it never was.

    >>> alignment_start(History(scalars={"alignment/active": {0: 0.0, 1: 0.0, 2: 1.0}}))
    2
    """
    active = history.scalars.get(ALIGNMENT_ACTIVE) or history.scalars.get(ALIGNMENT_WEIGHT, {})
    return min((epoch for epoch, value in active.items() if value > 0), default=None)


def span(history: History) -> EpochSpan:
    """The epochs before and after, as `Span` says.

    >>> span(History(scalars={"alignment/weight": {0: 0.0, 1: 0.0, 2: 1.0, 3: 1.0}}))
    EpochSpan(before=1, after=3, aligned=True)
    """
    epochs, start = history.epochs, alignment_start(history)
    if not epochs:
        return EpochSpan(None, None, False)
    if start is not None:
        return EpochSpan(max((epoch for epoch in epochs if epoch < start), default=None), epochs[-1], True)
    return EpochSpan(epochs[0] if len(epochs) > 1 else None, epochs[-1], False)


def value_at(by_epoch: dict[Epoch, float], epoch: Epoch | None, *, after: Epoch | float = -inf) -> float:
    """The latest number up to `epoch` and later than `after`, be it NaN; NaN where there is none.

    >>> value_at({0: 0.5, 2: 0.7}, 3), value_at({0: 0.5, 2: 0.7, 3: float("nan")}, 3)
    (0.7, nan)
    """
    logged = [] if epoch is None else [value for at, value in by_epoch.items() if after < at <= epoch]
    return logged[-1] if logged else NAN


def find_scalar(names: Iterable[str], *parts: str, without: Sequence[str] = ()) -> str | None:
    """The name with all `parts` and none of `without`, of validation rather than another stage; None without one.

    >>> find_scalar(["train/accuracy", "val/accuracy", "val/worst_group_accuracy"], "acc", without=["worst"])
    'val/accuracy'
    """
    fit = [name for name in names if all(p in name for p in parts) and not any(p in name for p in without)]
    held_out = [name for name in fit if not name.startswith(("train", "test"))]
    return min(held_out or fit, key=lambda name: (not name.startswith("val"), len(name)), default=None)


def accuracy_names(history: History) -> tuple[str | None, str | None]:
    """The names under which accuracy and worst-group accuracy were logged, None for one that was not."""
    names = [name for name in history.scalars if not name.startswith(("cam/", "alignment/", "reliance/"))]
    return find_scalar(names, "acc", without=["worst"]), find_scalar(names, "worst")


def training_accuracy_name(history: History) -> str | None:
    """The name under which accuracy on the training data was logged; None where it was not.

    >>> training_accuracy_name(History(scalars={"train/accuracy": {0: 0.5}, "val/accuracy": {0: 0.5}}))
    'train/accuracy'
    """
    return find_scalar(
        [name for name in history.scalars if name.startswith("train")], "acc", without=["worst", "_step"]
    )


def inside_energy_names(history: History) -> dict[str, str]:
    """By method, the name of its inside energy."""
    prefix = "cam/inside_energy/"
    return {name.removeprefix(prefix): name for name in history.scalars if name.startswith(prefix)}


def examined(history: History) -> History:
    """Without the counts of flagged classes from before the first round: a 0 there says that nobody looked.

    >>> found = examined(History(scalars={"reliance/flagged": {0: 0.0, 1: 2.0}, "reliance/effect": {0: NAN, 1: 0.4}}))
    >>> found.scalars["reliance/flagged"]
    {1: 2.0}
    """
    effects = history.scalars.get("reliance/effect", {})
    flags = {e: v for e, v in history.scalars.get(FLAGGED, {}).items() if not isnan(effects.get(e, 0.0)) or v}
    return replace(history, scalars={**history.scalars, FLAGGED: flags})


def measures(history: History) -> list[Measure]:
    """The numbers that tell the run, before and after; those that were never measured are left out."""
    accuracy, worst = accuracy_names(history)
    rows = [
        _measure(history, "Training accuracy", training_accuracy_name(history), "share"),
        _measure(history, "Accuracy", accuracy, "share"),
        _measure(history, "Worst-group accuracy", worst, "share"),
        *(_energy_measure(history, method, name) for method, name in inside_energy_names(history).items()),
        _share_measure(history),
        _measure(examined(history), "Classes flagged", FLAGGED, "count", rises=False),
    ]
    return [row for row in rows if row is not None and not (isnan(row.before) and isnan(row.after))]


def price(history: History) -> str:
    """What alignment cost or gained in validation accuracy, in a sentence; empty without alignment or accuracy.

    >>> accuracy = {0: 0.9, 1: 0.88}
    >>> price(History(scalars={"val/accuracy": accuracy, "alignment/weight": {0: 0.0, 1: 1.0}}))
    'Validation accuracy since alignment: 90.0 % to 88.0 %, 2.0 points paid.'
    """
    name = accuracy_names(history)[0]
    measure = _measure(history, "Accuracy", name, "share") if span(history).aligned else None
    if measure is None or isnan(measure.change) or name is None or name.startswith("train"):
        return ""
    points = f"{abs(100 * measure.change):.1f} points"
    came = "no change" if measure.better is None else f"{points} gained" if measure.better else f"{points} paid"
    ends = f"{shown(measure.before, 'share')} to {shown(measure.after, 'share')}"
    return f"Validation accuracy since alignment: {ends}, {came}."


def images_held(history: History, epoch: Epoch | None) -> dict[str, int]:
    """By class, how many images the validation data hold, as the last table of classes up to an epoch counts them.

    Where a class is there or not, those in which it was only answered do not count.

    >>> images_held(History(classes={0: {"rows": [{"class_name": "cat", "images": 24, "invented": 4}]}}), 0)
    {'cat': 20}
    """
    epochs = [known for known in history.classes if epoch is None or known <= epoch]
    rows = history.classes[max(epochs)]["rows"] if epochs else []
    return {row["class_name"]: row["images"] - (row.get("invented") or 0) for row in rows}


def latest_verdicts(history: History, epoch: Epoch | None) -> list[Verdict]:
    """The verdicts of the last detection up to an epoch; empty where there is none."""
    passes = [at for at in history.verdicts if epoch is not None and at <= epoch]
    return history.verdicts[passes[-1]] if passes else []


def headline(history: History) -> str:
    """The run in a sentence or two: which classes lean on what, and what became of it.

    >>> rows = [Verdict(0, "boat", "reliant", 0.4, 0.3, 0.5, 0.0, 0.01, 9)]
    >>> headline(History(verdicts={0: rows}))
    '1 of 1 classes leans on its background: boat.'
    """
    run = span(history)
    now = latest_verdicts(history, run.after)
    if not now:
        looked = history.panels or any(name.startswith("cam/") for name in history.scalars)
        return "What the network looks at." if looked else "No heatmap was made, and no class was tested."
    fair = [row for row in now if row.verdict == FAIR]
    accepted = f" Judged fair evidence: {_cue(fair)} of {_named(fair)}." if fair else ""
    return _story(history, run, now) + accepted


def _story(history: History, run: EpochSpan, now: Sequence[Verdict]) -> str:
    before = latest_verdicts(history, run.before) if run.aligned else now
    earlier = [] if before is now else flagged(before)
    if not earlier:
        return _present(now)
    return f"Before alignment, {_lean(earlier, len(now), 'leaned', 'leaned')}. {_outcome(now)}"


def effects_by_class(history: History, most: int = 6) -> dict[str, dict[Epoch, Verdict]]:
    """By class and epoch what was measured, of the classes whose effect was the strongest in any round.

    >>> rounds = {e: [Verdict(0, "boat", "reliant", e / 9, 0.0, 0.5, 0.0, 0.01, 9)] for e in (1, 2)}
    >>> list(effects_by_class(History(verdicts=rounds))["boat"])
    [1, 2]
    """
    found: dict[str, dict[Epoch, Verdict]] = {}
    for epoch, rows in history.verdicts.items():
        for row in rows:
            if not isnan(row.effect):
                found.setdefault(row.class_name, {})[epoch] = row
    strongest = sorted(found, key=lambda name: -max(row.effect for row in found[name].values()))
    return {name: found[name] for name in strongest[:most]}


def flagged(rows: Iterable[Verdict]) -> list[Verdict]:
    """The rows of classes that are reliant, strongest effect first."""
    return sorted((row for row in rows if row.verdict == RELIANT), key=lambda row: -abs(row.effect))


def _present(rows: Sequence[Verdict]) -> str:
    suspects = sum(row.verdict == SUSPECT for row in rows)
    if flagged(rows):
        return f"{_lean(flagged(rows), len(rows), 'leans', 'lean')}." + (
            f" {suspects} more suspect." if suspects else ""
        )
    doubts = _doubts(rows, f" of {len(rows)}")
    unit, verb = _LANGUAGE.get(_cue(rows), ("", ""))
    if unit:
        return f"No {unit} is found to be {verb}; {doubts}." if doubts else f"No {unit} is {verb}."
    if doubts:
        return f"No class is found to lean on its background; {doubts}."
    if any(row.verdict == NO_EVIDENCE for row in rows):
        return "No evidence that a class leans on its background."
    return "No class leans on its background."


def _outcome(rows: Sequence[Verdict]) -> str:
    leaning, doubts = flagged(rows), _doubts(rows)
    if _cue(rows) in _LANGUAGE:
        still = f"{len(leaning)} still: {_named(leaning)}" if leaning else "none"
        return f"Now {still}." if leaning or not doubts else f"Now {still} that was found, {doubts}."
    if leaning:
        return f"Now {len(leaning)} {'does' if len(leaning) == 1 else 'do'}: {_named(leaning)}."
    if not doubts and any(row.verdict == NO_EVIDENCE for row in rows):
        return "Now there is no evidence of it."
    return f"Now none is found to, {doubts}." if doubts else "Now none does."


def _doubts(rows: Sequence[Verdict], total: str = "") -> str:
    """How many are suspect and undecided, `total` after the first number; empty for none.

    >>> _doubts([Verdict(0, "boat", "suspect", 0.4, 0.3, 0.5, 0.0, 0.01, 9)], " of 1")
    '1 of 1 suspect'
    """
    counts = {kind: sum(row.verdict == kind for row in rows) for kind in (SUSPECT, UNDECIDED)}
    said = [f"{count} {kind}" for kind, count in counts.items() if count]
    return ", ".join(said).replace(" ", f"{total} ", 1) if said else ""


def _lean(rows: Sequence[Verdict], classes: int, singular: str, plural: str) -> str:
    verb, whose = (singular, "its") if len(rows) == 1 else (plural, "their")
    unit, said = _LANGUAGE.get(_cue(rows), ("", ""))
    if unit:
        tense = ("is", "are") if singular == "leans" else ("was", "were")
        return f"{len(rows)} of {classes} {unit}s {tense[len(rows) > 1]} {said}: {_named(rows)}"
    return f"{len(rows)} of {classes} classes {verb} on {whose} {_cue(rows)}: {_named(rows)}"


def _named(rows: Sequence[Verdict]) -> str:
    names = [row.class_name for row in rows[:NAMES_SPELLED_OUT]]
    listed = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    return listed if len(rows) <= NAMES_SPELLED_OUT else f"most of all {listed}"


def _cue(rows: Sequence[Verdict]) -> str:
    return " or ".join(dict.fromkeys(row.cue for row in rows)) or "background"


def shown(value: float | None, unit: Unit) -> str:
    """A number as people read it; a dash where there is none.

    >>> shown(0.858, "share"), shown(0.858, "ratio"), shown(4.0, "count"), shown(None, "count")
    ('85.8 %', '0.86', '4', '–')
    """
    if value is None or isnan(value):
        return "–"
    return {"share": f"{100 * value:.1f} %", "ratio": f"{value:.2f}", "count": f"{value:.0f}"}[unit]


def _measure(history: History, label: str, name: str | None, unit: Unit, *, rises: bool = True) -> Measure | None:
    if name is None or name not in history.scalars:
        return None
    return _spanned(history, label, history.scalars[name], unit, rises)


def _energy_measure(history: History, method: str, name: str) -> Measure | None:
    measure = _measure(history, f"Inside energy, {method}", name, "ratio")
    return None if measure is None else replace(measure, note=energy_note(history, method))


def energy_note(history: History, method: str) -> str:
    """What inside energy is to be held against: an even heatmap's, and that of the object itself on this grid.

    >>> energy_note(History(scalars={"cam/inside_energy_chance": {0: 0.25}}), "grad_cam")
    'by chance 0.25'
    """
    last = max(history.epochs, default=None)
    chance = value_at(history.scalars.get(CHANCE, {}), last)
    ceiling = value_at(history.scalars.get(f"{CEILING}{method}", {}), last)
    known = {"by chance": chance, "the object itself on this grid": ceiling}
    return ", ".join(f"{label} {shown(value, 'ratio')}" for label, value in known.items() if not isnan(value))


def _share_measure(history: History) -> Measure | None:
    if not history.cells:
        return None
    by_epoch = {epoch: shares(counts)[RIGHT_UNGROUNDED] for epoch, counts in history.cells.items()}
    measure = _spanned(history, OFF_THE_OBJECT.capitalize(), by_epoch, "share", rises=False)
    return replace(measure, note=cells_note(history))


def cells_note(history: History) -> str:
    """Which images of the last pass are in none of the four cells, as they have no heatmap or no answer.

    >>> cells_note(History(scalars={"cam/empty_maps/grad_cam": {0: 0.25}}))
    'without 25.0 % of the images, whose heatmaps are empty'
    """
    last = max(history.epochs, default=None)
    first = next((name for name in history.scalars if name.startswith("cam/empty_maps/")), "")
    reasons = {first: "whose heatmaps are empty", "cam/not_finite": "whose answers are NaN"}
    parts = {why: value_at(history.scalars.get(name, {}), last) for name, why in reasons.items()}
    left = [f"{shown(share, 'share')} of the images, {why}" for why, share in parts.items() if share > 0]
    return "without " + ", and ".join(left) if left else ""


def _spanned(history: History, label: str, by_epoch: dict[Epoch, float], unit: Unit, rises: bool) -> Measure:
    run = span(history)
    since = -inf if run.before is None else run.before
    return Measure(label, value_at(by_epoch, run.before), value_at(by_epoch, run.after, after=since), unit, rises)


def summary_of(history: History) -> dict[str, Any]:
    """A run in a few numbers: its headline, and each measure before and after.

    >>> summary_of(History(scalars={"val/accuracy": {0: 0.5, 1: 0.75}}))["camtrain/accuracy/after"]
    0.75
    """
    found: dict[str, Any] = {"camtrain/headline": headline(history)}
    for one in measures(history):
        name = KEYS.get(one.label) or one.label.lower().replace(", ", "/").replace(" ", "_")
        known = {"before": one.before, "after": one.after}
        found |= {f"camtrain/{name}/{when}": value for when, value in known.items() if not isnan(value)}
    return found


def shares(counts: dict[str, int]) -> dict[str, float]:
    """The share of each cell of `CELLS`, NaN where nothing was counted.

    >>> shares({"right/grounded": 1, "wrong/ungrounded": 3})["wrong/ungrounded"]
    0.75
    """
    return {cell: FourCells(counts, 0, 0).share(cell) for cell in CELLS}
