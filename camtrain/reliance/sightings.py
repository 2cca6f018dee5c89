"""Images on which a class's cue works, each with and without it, to find the cue in."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from camtrain.reliance.examine import Findings, Instance, change_of, losses, wins
from camtrain.reliance.interventions import FRAME, bordered, intervened
from camtrain.reliance.looks import look_of
from camtrain.reliance.records import Effects, Pool, Verdict
from camtrain.reliance.rounds import Shown

__all__ = ["Sighting", "sightings"]


@dataclass(frozen=True, eq=False)
class Sighting:
    """One object on a background with the class's cue, on two without, and the picture whose background that is.

    The two come of different classes where there are such.
    """

    cued: Float[Tensor, "C H W"]
    bare: Float[Tensor, "C H W"]
    other: Float[Tensor, "C H W"]
    picture: Float[Tensor, "C H W"]


def sightings(findings: Findings, verdict: Verdict, pool: Pool, lenders: Pool, count: int) -> list[Sighting]:
    """At most ``count`` images on which the background moves the class most, no picture twice.

    These are objects of other classes on a background of the class, or its own images on others', whichever changes
    more on average. A tint or a brightness is looked for on the background as a whole.
    """
    cue = "background" if look_of(verdict.cue) is not None else verdict.cue
    if cue not in findings.effects:
        return []
    found = findings.effects[cue]
    if cue == FRAME:
        pool, lenders = bordered(pool), bordered(lenders)
    return [_sighting(found, one, findings.shown[cue], pool, lenders) for one in _chosen(found, verdict, count)]


def _chosen(effects: Effects, verdict: Verdict, count: int) -> list[Instance]:
    """One instance of each picture that shows the cue."""
    won = _best(wins(effects, verdict.class_index), "donor", count)
    lost = _best(losses(effects, verdict.class_index), "image", count)
    return max(won, lost, key=lambda group: sum(map(change_of, group)) / max(1, len(group)))


def _best(found: list[Instance], shows_cue: str, count: int) -> list[Instance]:
    best: dict[int, Instance] = {}
    for one in sorted(found, key=change_of, reverse=True):
        if change_of(one) > 0:
            best.setdefault(getattr(one, shows_cue), one)
    return list(best.values())[:count]


def _sighting(effects: Effects, one: Instance, shown: Shown, pool: Pool, lenders: Pool) -> Sighting:
    def on(donor: int) -> Tensor:
        return intervened(pool, one.image, lenders, donor, margin=shown.margin, lent_margin=shown.lent_margin)

    own, changed = pool.images[one.image], on(one.donor)
    cued, bare = (own, changed) if one.test == "necessity" else (changed, own)
    third = _third(effects, one, lenders)
    picture = own if one.test == "necessity" else lenders.images[one.donor]
    return Sighting(cued, bare, bare if third is None else on(third), picture)


def _third(effects: Effects, one: Instance, lenders: Pool) -> int | None:
    """A donor of neither the class nor the first donor's or image's; else any other that is not of the class."""
    labels = lenders.labels
    first = int(effects.labels[one.image] if one.test == "sufficiency" else labels[one.donor])
    foreign = labels != one.class_index
    for wanted in (foreign & (labels != first), foreign):
        rows = wanted.nonzero().flatten()
        rows = rows[rows != one.donor]
        if len(rows):
            return int(rows[(7 * one.image + one.donor) % len(rows)])
    return None
