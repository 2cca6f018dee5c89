"""What a round leaves to look at: examples before and after, strips of windows, and the words of an alert."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

import torch
from torch import Tensor

from camtrain.records import Alert, Example, Record, Strip, Verdicts
from camtrain.reliance.examine import Findings
from camtrain.reliance.instances import Instance, flagged, illustrate, pictured, sentence, transplanted
from camtrain.reliance.intervene import FRAME, bordered, intervened
from camtrain.reliance.places import Exemplars
from camtrain.reliance.records import STICKER, Effects, Pool, Trial, Verdict
from camtrain.render import region_strip, to_uint8

MOST_EXAMPLES = 24
MOST_WINDOWS = 8


@dataclass(frozen=True)
class Outcome:
    """The verdicts of a round on one choice, with examples, and strips that show where cues lie."""

    verdicts: tuple[Verdict, ...]
    examples: tuple[Example, ...] = ()
    strips: tuple[Strip, ...] = ()


def pictures(
    findings: Findings,
    trial: Trial,
    windows: Mapping[int, Exemplars],
    denormalize: Callable[[Tensor], Tensor] | None,
    count: int,
) -> tuple[tuple[Example, ...], tuple[Strip, ...]]:
    """The examples and strips of a round."""
    pairs = examples(findings, trial, denormalize, count)
    return pairs, strips(findings.verdicts, windows, denormalize)


def records_of_round(outcomes: Sequence[Outcome], epoch: int, step: int, *, first: bool) -> list[Record]:
    """The verdicts with pictures, and an alert where they hold the first flag of the run."""
    verdicts = [verdict for outcome in outcomes for verdict in outcome.verdicts]
    shown = chain.from_iterable(outcome.examples for outcome in outcomes)
    placed = chain.from_iterable(outcome.strips for outcome in outcomes)
    records: list[Record] = [Verdicts.of(verdicts, epoch, step, shown, placed)]
    return [*records, alert(verdicts, epoch, step)] if first else records


def examples(
    findings: Findings, trial: Trial, denormalize: Callable[[Tensor], Tensor] | None, count: int
) -> tuple[Example, ...]:
    """Of each flagged or suspect class, `count` images that the intervention changes most, and as many transplants."""
    shown = [
        _example(findings, instance, verdict.cue, trial, denormalize)
        for verdict in pictured(findings.verdicts)
        for instance in _instances(findings.effects[verdict.cue], verdict.class_index, count)
    ]
    return tuple(shown[:MOST_EXAMPLES])


def _instances(effects: Effects, class_index: int, count: int) -> list[Instance]:
    """Both kinds in turn, none twice."""
    kinds = illustrate(effects, class_index, count=count), transplanted(effects, class_index, 2 * count)
    return list(dict.fromkeys(one for one in chain(*zip_longest(*kinds)) if one is not None))[: 2 * count]


def _example(
    findings: Findings,
    instance: Instance,
    cue: str,
    trial: Trial,
    denormalize: Callable[[Tensor], Tensor] | None,
) -> Example:
    names = trial.names
    pair, label = _pair(findings, instance, cue, trial.pool, trial.lenders)
    original, swapped = to_uint8(pair if denormalize is None else denormalize(pair))
    held, lent = names[label], names[int(trial.lenders.labels[instance.donor])]
    given = f"{held} on a background of {lent}" if cue == "background" else f"{held} with the {cue} of {lent}"
    return Example(
        names[instance.class_index],
        original,
        swapped,
        instance.before,
        instance.after,
        given + _answer(findings.effects[cue], instance, names),
    )


def _pair(findings: Findings, instance: Instance, cue: str, pool: Pool, lenders: Pool) -> tuple[Tensor, int]:
    """(2, C, H, W): the image before and after, and its label."""
    if cue == STICKER and findings.stickers is not None:
        image, changed = findings.stickers.changed(instance.image, instance.donor)
        return torch.stack([lenders.images[image], changed]), int(lenders.labels[image])
    of, by = (bordered(pool), bordered(lenders)) if cue == FRAME else (pool, lenders)
    changed = intervened(of, instance.image, by, instance.donor, findings.shown[cue])
    return torch.stack([pool.images[instance.image], changed]), int(pool.labels[instance.image])


def _answer(effects: Effects, instance: Instance, names: Sequence[str]) -> str:
    """What the changed image is taken for, where that is known and has a name."""
    if effects.answers is None:
        return ""
    said = effects.answers[instance.image][effects.donors[instance.image] == instance.donor]
    known = [names[index] for index in said.tolist() if index < len(names)]
    return f", taken for {known[0]}" if known else ""


def strips(
    verdicts: Sequence[Verdict], shown: Mapping[int, Exemplars], denormalize: Callable[[Tensor], Tensor] | None
) -> tuple[Strip, ...]:
    """A strip for each class whose cue has a place, the most affected class first."""
    by_class = {verdict.class_index: verdict for verdict in verdicts}
    return tuple(_strip(by_class[index], windows, denormalize) for index, windows in shown.items())


def describe(verdict: Verdict) -> str:
    """One sentence for a person.

    >>> describe(Verdict(0, "boat", "reliant", 0.31, 0.24, 0.38, 0.01, 0.001, 30, "background", ""))
    'boat: 31 points [24, 38] depend on the background; another of its own class costs 1 (30 images)'
    """
    effect, low, high, placebo = (
        round(100 * value) for value in (verdict.effect, verdict.low, verdict.high, verdict.placebo)
    )
    said = (
        f"{verdict.class_name}: {effect} points [{low}, {high}] depend on the {verdict.cue}; another of its own"
        f" class {'wins' if placebo < 0 else 'costs'} {abs(placebo)} ({verdict.images} images)"
    )
    return "; ".join(filter(None, [said, sentence(verdict), verdict.where]))


def alert(verdicts: Sequence[Verdict], epoch: int, step: int) -> Alert:
    """The first flag of a run."""
    found = flagged(verdicts)
    others = f" and {len(found) - 1} more" if len(found) > 1 else ""
    cues = dict.fromkeys(v.cue for v in found)
    verb = "lean" if others else "leans"
    title = f"{found[0].class_name}{others} {verb} on the {' or the '.join(cues)}"
    return Alert(title, "\n".join(map(describe, found)), epoch, step)


def _strip(verdict: Verdict, shown: Exemplars, denormalize: Callable[[Tensor], Tensor] | None) -> Strip:
    pictures = shown.pictures[:MOST_WINDOWS]
    pixels = to_uint8(pictures if denormalize is None else denormalize(pictures))
    picture = region_strip(pixels, shown.boxes[:MOST_WINDOWS])
    return Strip(verdict.class_name, picture, verdict.where, len(shown.pictures), shown.images)
