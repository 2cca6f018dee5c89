"""What a round leaves to look at: where a class's cue lies, examples before and after, and the words of an alert."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, zip_longest

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.special import bdtr, bdtrc
from torch import Tensor

from camtrain.records import Alert, Example, Record, Strip, Verdicts
from camtrain.reliance.examine import Findings
from camtrain.reliance.instances import Instance, flagged, illustrate, pictured, sentence, transplanted
from camtrain.reliance.intervene import FRAME, bordered, intervened
from camtrain.reliance.locate import Evidence, gather_evidence, hottest, join_evidence, pointing
from camtrain.reliance.records import STICKER, Effects, Pace, Pool, Predict, Trial, Verdict
from camtrain.reliance.windows import Fractions, fractions, place_name
from camtrain.render import region_strip, to_uint8
from camtrain.swaps.looks import look_of

MOST_EXAMPLES = 24
MOST_WINDOWS = 8
MOST_CLASSES = 12  # in which to look for a place, the most affected ones
SOME, MOST = 1 / 3, 1 / 2  # of the images
SAME_PLACE = 0.8  # of the images that point
ALONE = 0.8  # of what the whole background brings
ALPHA = 0.05
LEAST = 4  # images
ALIKE = 0.6  # the mean over the pairs of a cluster
CELLS, DIRECTIONS, LEVELS = 4, 8, 5
Gather = Callable[[Callable[[], Evidence]], Sequence[Evidence]]


@dataclass(frozen=True)
class CueRegion:
    """Where a class's cue lies.

    ``answer``: "stays" in ``box``, "moves" from image to image, is "spread" over the background, or "unclear".
    ``box`` is (left, top, width, height) in fractions of the frame. Of the ``images`` so many are
    ``pointing`` to one window.
    """

    class_index: int
    answer: str
    pointing: int
    images: int
    where: str = ""
    box: Fractions | None = None


@dataclass(frozen=True, eq=False)
class Exemplars:
    """Pictures that show a class's cue and the window (top, left, height, width) of each, the most typical first.

    They are the largest cluster of windows that look alike among the ``images`` that point to a window.
    """

    class_index: int
    pictures: Float[Tensor, "k C H W"]
    boxes: Int[Tensor, "k 4"]
    images: int


def locate(
    predict: Predict,
    findings: Findings,
    trial: Trial,
    *,
    images: int,
    pace: Pace,
    gather: Gather,
) -> tuple[tuple[Verdict, ...], dict[int, Exemplars]]:
    """The verdicts with where the cues of reliant or suspect classes lie, and by class the windows that show it.

    ``gather`` joins the evidence of several processes, each of which looks at so many ``images`` of a class,
    or not at all.
    """
    regions, shown = [], {}
    for verdict in pictured(findings.verdicts)[: MOST_CLASSES if images else 0]:
        of = verdict, trial.pool, trial.lenders
        search = partial(gather_evidence, predict, findings, *of, images=images, pace=pace)
        evidence = join_evidence(gather(search))
        regions.append(region_of(evidence))
        windows = exemplars(evidence, regions[-1])
        if windows is not None:
            shown[verdict.class_index] = windows
    return with_regions(findings.verdicts, regions), shown


def region_of(evidence: Evidence) -> CueRegion:
    """Where the cue lies, if the images say so.

    Surely more than a third of the images must point to one window (one-sided exact binomial test at 5 %). If four
    fifths of those point within half a window of the window that takes the most with it on average, the cue "stays"
    there, else it "moves". It is "spread" if surely fewer than half of the images point to any window, and none of
    half the frame's side wins four fifths of the effect alone either (as it does where it covers another class's cue,
    and a class is told by the lack of one). All else, and fewer than 4 images, is "unclear".
    """
    points = pointing(evidence.lost, evidence.boxes)
    images, count = len(points), int(points.sum())
    answer = CueRegion(evidence.class_index, "unclear", count, images)
    if images < LEAST:
        return answer
    if bdtrc(count - 1, images, SOME) <= ALPHA:
        return _placed(evidence, points, answer)
    alone = int((evidence.won >= ALONE).sum())
    if bdtr(count + alone, images, MOST) <= ALPHA:
        cue = "background" if look_of(evidence.cue) is not None else evidence.cue
        return CueRegion(evidence.class_index, "spread", count, images, f"all over the {cue}")
    return answer


def with_regions(verdicts: Sequence[Verdict], regions: Sequence[CueRegion]) -> tuple[Verdict, ...]:
    """The verdicts with where their cues lie."""
    known = {one.class_index: one for one in regions}
    return tuple(
        replace(one, where=known[one.class_index].where, box=known[one.class_index].box)
        if one.class_index in known
        else one
        for one in verdicts
    )


def exemplars(evidence: Evidence, region: CueRegion) -> Exemplars | None:
    """The windows that look alike, of a cue that stays or moves; None for one without a place.

    A cue that stays is shown in the same window of every image.
    """
    if region.answer not in ("stays", "moves"):
        return None
    points = pointing(evidence.lost, evidence.boxes)
    pictures, found = evidence.images[points], evidence.boxes[hottest(evidence.lost[points])]
    if region.answer == "stays":
        found = mean_window(evidence).expand_as(found)
    alike = likeness(pictures, found)
    groups = clusters(alike)
    rows = (groups == groups.bincount().argmax()).nonzero().flatten()
    rows = rows[alike[rows][:, rows].sum(dim=1).argsort(descending=True, stable=True)]
    return Exemplars(evidence.class_index, pictures[rows], found[rows], len(pictures))


def likeness(pictures: Float[Tensor, "n C H W"], boxes: Int[Tensor, "n 4"]) -> Float[Tensor, "n n"]:
    """How alike the windows of two pictures look, 1 for equal ones: in outlines or in colors, whichever is more.

    Outlines are directions of gradients in a grid of cells; colors are what a window has more of than its own picture.
    Both are compared by cosine, and outlines are blind to a picture's contrast and tint.
    """
    if not len(pictures):
        return torch.zeros(0, 0)
    pictures = _stretched(pictures)
    cut = [_cut(picture, box) for picture, box in zip(pictures, boxes, strict=True)]
    outlines = torch.stack([_outlines(window) for window in cut])
    colors = torch.stack([_colors(window, picture) for window, picture in zip(cut, pictures, strict=True)])
    return torch.maximum(outlines @ outlines.T, colors @ colors.T)


def clusters(alike: Float[Tensor, "n n"]) -> Int[Tensor, " n"]:
    """Which windows belong together, by average linkage of their likeness.

    >>> clusters(torch.tensor([[1.0, 0.1, 0.9], [0.1, 1.0, 0.2], [0.9, 0.2, 1.0]])).tolist()
    [0, 1, 0]
    """
    if len(alike) < 2:
        return torch.zeros(len(alike), dtype=torch.int64)
    first, second = torch.triu_indices(len(alike), len(alike), 1)
    far = (1 - alike[first, second]).clamp(min=0).double().numpy()
    found = fcluster(linkage(far, "average"), 1 - ALIKE, "distance")
    return torch.from_numpy(np.asarray(found, np.int64) - 1)


def _stretched(pictures: Tensor) -> Tensor:
    """All in [0, 1], by one range for all of them."""
    low, high = pictures.min(), pictures.max()
    return (pictures.float() - low) / (high - low).clamp(min=1e-6)


def _cut(picture: Tensor, box: Tensor) -> Tensor:
    top, left, tall, wide = box.tolist()
    return picture[:, top : top + tall, left : left + wide]


def _outlines(window: Tensor) -> Tensor:
    """Strength of gradients by cell and direction, a unit vector."""
    gray = F.interpolate(window.mean(dim=0)[None, None], size=(18, 18), mode="bilinear", align_corners=False)[0, 0]
    down, right = (gray[2:, 1:-1] - gray[:-2, 1:-1]), (gray[1:-1, 2:] - gray[1:-1, :-2])
    turn = (torch.atan2(down, right) / (2 * torch.pi) * DIRECTIONS).round().long() % DIRECTIONS
    strength = F.one_hot(turn, DIRECTIONS).permute(2, 0, 1) * torch.hypot(down, right)
    return F.normalize(F.adaptive_avg_pool2d(strength, CELLS).flatten(), dim=0)


def _colors(window: Tensor, picture: Tensor) -> Tensor:
    """By how much each color is commoner in the window than in the picture, the most so above all: a unit vector."""
    return F.normalize((_histogram(window) - _histogram(picture)).clamp(min=0).square(), dim=0)


def _histogram(pixels: Tensor) -> Tensor:
    """The share of pixels in each cell of a coarse grid of colors."""
    level = (LEVELS * pixels[:3].flatten(1)).floor().clamp(0, LEVELS - 1).long()
    place = (level * (LEVELS ** torch.arange(len(level))).view(-1, 1)).sum(dim=0)
    return place.bincount(minlength=LEVELS ** len(level)) / place.numel()


def _placed(evidence: Evidence, points: Tensor, answer: CueRegion) -> CueRegion:
    middle, found = mean_window(evidence), evidence.boxes[hottest(evidence.lost[points])]
    near = ((found[:, :2] - middle[:2]).abs() <= (middle[2:] + 1) // 2).all(dim=1)
    counted = f"{answer.pointing} of {answer.images} images"
    if float(near.float().mean()) < SAME_PLACE:
        return CueRegion(
            answer.class_index, "moves", answer.pointing, answer.images, f"moves from image to image ({counted})"
        )
    box = fractions(middle, *evidence.images.shape[-2:])
    return CueRegion(answer.class_index, "stays", answer.pointing, answer.images, f"{place_name(box)} ({counted})", box)


def mean_window(evidence: Evidence) -> Int[Tensor, " 4"]:
    """The window that takes the most with it on average over the images that point to one."""
    points = pointing(evidence.lost, evidence.boxes)
    return evidence.boxes[evidence.lost[points].mean(dim=0).argmax()]


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
