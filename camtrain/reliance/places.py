"""Where a class's cue lies, as the windows of all images say, and those that look alike, to show it by."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.special import bdtr, bdtrc
from torch import Tensor

from camtrain.reliance.examine import Findings
from camtrain.reliance.instances import pictured
from camtrain.reliance.locate import Evidence, gather_evidence, hottest, join_evidence, pointing
from camtrain.reliance.records import Pace, Predict, Trial, Verdict
from camtrain.reliance.windows import Fractions, fractions, place_name
from camtrain.swaps.looks import look_of

__all__ = ["CueRegion", "Exemplars", "clusters", "exemplars", "likeness", "locate", "region_of", "with_regions"]

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
