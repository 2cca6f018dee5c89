"""Where a class's cue lies: windows of its background taken away one at a time, and what they take with them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from camtrain.reliance.examine import Findings
from camtrain.reliance.instances import Instance, change_of, losses, wins
from camtrain.reliance.intervene import FRAME, Swap, bordered, intervened
from camtrain.reliance.records import STICKER, Effects, Pace, Pool, Predict, Verdict
from camtrain.reliance.stickers import Stickers
from camtrain.reliance.windows import apart, containing, window_masks, windows
from camtrain.swaps.looks import look_of
from camtrain.tasks.answers import log_odds

__all__ = [
    "Evidence",
    "gather_evidence",
    "hottest",
    "join_evidence",
    "pointing",
    "sightings",
]

SIDE, COARSE = 1 / 4, 1 / 2  # of the frame's side
POINTS = 1 / 4  # of what the whole background brings, for a window to be a place
STANDS_OUT = 2.0  # times the best window apart from it


@dataclass(frozen=True)
class Evidence:
    """What each window of a class's images holds of what their backgrounds bring to the class.

    ``boxes`` are the windows as (top, left, height, width) in pixels. ``lost[i, w]`` is what taking window w away
    takes from image i's evidence, as a share of what its whole background brings (1: all of it); 0 where a larger
    window around it took too little for it to matter. ``won[i]`` is the most that one coarse window wins alone, NaN
    where the image points anyway. ``images`` show the cue. ``forwards`` is what all this cost.
    """

    class_index: int
    cue: str
    boxes: Int[Tensor, "K 4"]
    lost: Float[Tensor, "n K"]
    won: Float[Tensor, " n"]
    images: Float[Tensor, "n C H W"]
    forwards: int = 0


@dataclass(frozen=True, eq=False)
class Sighting:
    """One object on a background with the class's cue, on two without, and the picture whose background that is.

    The two come of different classes where there are such.
    """

    cued: Float[Tensor, "C H W"]
    bare: Float[Tensor, "C H W"]
    other: Float[Tensor, "C H W"]
    picture: Float[Tensor, "C H W"]


def gather_evidence(
    predict: Predict,
    findings: Findings,
    verdict: Verdict,
    pool: Pool,
    lenders: Pool,
    *,
    images: int = 12,
    pace: Pace = Pace(),  # noqa: B008  frozen
) -> Evidence:
    """Take windows of the background away from images on which a class's cue works, and see what goes with them.

    The images are those whose background moves the class most: objects of other classes on a background of this one, or
    its own images. A window is replaced by the backgrounds of two other classes, and what is lost with *both* counts: a
    place where another class's cue happens to be pasted in is not where this class's cue was. Everything is measured in
    log odds, where a sure answer does not hide what is lost. Windows have a quarter of the frame's side and overlap by
    half; one is tried only where all windows of twice its side around it take a quarter of the effect. Costs 20
    forwards an image and up to 107 more, 30 to 50 in all as a rule. Of a sticker the windows are known, and nothing is
    forwarded. Without images the evidence is empty.
    """
    if verdict.cue == STICKER and findings.stickers is not None:
        return _of_stickers(findings.stickers, verdict, images)
    seen = sightings(findings, verdict, pool, lenders, images)
    search = _Search(predict, verdict, pace)
    height, width = pool.images.shape[-2:]
    fine, coarse = windows(height, width, SIDE), windows(height, width, COARSE)
    cued, bare = search.whole(seen)
    whole = (cued - bare).clamp(min=1e-6)
    everywhere = torch.ones(len(seen), len(coarse), dtype=torch.bool)
    around = search.lost(seen, coarse, everywhere, cued, "half") / whole[:, None]
    tried = torch.stack([(around[:, rows] >= POINTS).all(dim=1) for rows in containing(fine, coarse)], dim=1)
    lost = search.lost(seen, fine, tried, cued, "quarter") / whole[:, None]
    won = search.won(seen, coarse, ~pointing(lost, fine), bare) / whole
    pictures = torch.stack([one.picture for one in seen]) if seen else pool.images[:0]
    return Evidence(verdict.class_index, verdict.cue, fine, lost, won, pictures, search.forwards)


def join_evidence(parts: Sequence[Evidence]) -> Evidence:
    """The evidence of several processes on one class as one."""
    first = parts[0]
    return Evidence(
        first.class_index,
        first.cue,
        first.boxes,
        torch.cat([part.lost for part in parts]),
        torch.cat([part.won for part in parts]),
        torch.cat([part.images for part in parts]),
        sum(part.forwards for part in parts),
    )


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


def hottest(lost: Float[Tensor, "n K"]) -> Int[Tensor, " n"]:
    """The window of each image that takes the most with it."""
    return lost.argmax(dim=1)


def pointing(lost: Float[Tensor, "n K"], boxes: Int[Tensor, "K 4"]) -> Bool[Tensor, " n"]:
    """Which images point to one window: it takes a quarter of the whole effect, twice what any other apart from it.

    >>> boxes = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1]])
    >>> pointing(torch.tensor([[0.8, 0.1], [0.8, 0.7], [0.1, 0.0]]), boxes).tolist()
    [True, False, False]
    """
    top = lost.amax(dim=1)
    elsewhere = torch.where(apart(boxes)[hottest(lost)], lost, 0.0).amax(dim=1)
    return (top >= POINTS) & (top >= STANDS_OUT * elsewhere)


def _of_stickers(stickers: Stickers, verdict: Verdict, count: int) -> Evidence:
    """All in the window that is nearest to the sticker."""
    height, width = stickers.pool.images.shape[-2:]
    boxes = windows(height, width, SIDE)
    donors = stickers.showing(verdict.class_index, count)
    middles, found = (part[:, :2] + part[:, 2:] / 2 for part in (boxes, stickers.boxes[donors]))
    nearest = (found[:, None] - middles).square().sum(dim=2).argmin(dim=1)
    lost = F.one_hot(nearest, len(boxes)).float()
    unknown = torch.full((len(donors),), torch.nan)
    return Evidence(verdict.class_index, verdict.cue, boxes, lost, unknown, stickers.pool.images[donors])


@dataclass
class _Search:
    """Forwards in batches, counted."""

    predict: Predict
    verdict: Verdict
    pace: Pace
    forwards: int = field(default=0)

    def scores(self, count: int, image_of: Callable[[int], Tensor], what: str) -> Tensor:
        """The log odds of the class for so many images, each made when its batch comes."""
        found = []
        for start in range(0, count, self.pace.batch_size):
            rows = range(start, min(start + self.pace.batch_size, count))
            batch = torch.stack([image_of(row) for row in rows]).to(self.pace.device)
            logits = self.predict(batch).float()
            classes = torch.full((len(batch),), self.verdict.class_index, device=logits.device)
            found.append(log_odds(logits, classes).cpu())
            self.forwards += len(batch)
            self.pace.progress(f"where the cue of {self.verdict.class_name} lies, {what}", len(batch), count)
        return torch.cat(found) if found else torch.zeros(0)

    def whole(self, seen: Sequence[Sighting]) -> tuple[Tensor, Tensor]:
        """(n,), (n,): with the cue's background, and without."""
        found = self.scores(2 * len(seen), lambda n: (seen[n // 2].cued, seen[n // 2].bare)[n % 2], "whole")
        cued, bare = found.view(-1, 2).unbind(dim=1)
        return cued, bare

    def lost(self, seen: Sequence[Sighting], boxes: Tensor, tried: Tensor, cued: Tensor, what: str) -> Tensor:
        """(n, K): the least that is lost in each window that is tried, over two replacements; 0 elsewhere."""
        pairs, masks = tried.nonzero().tolist(), _masks(seen, boxes)

        def without(n: int) -> Tensor:
            image, window = pairs[n // 2]
            one = seen[image]
            return _mixed(one.cued, (one.bare, one.other)[n % 2], masks[window])

        left = self.scores(2 * len(pairs), without, what).view(-1, 2).amax(dim=1)
        found = torch.zeros(tried.shape)
        found[tried] = cued[:, None].expand(tried.shape)[tried] - left
        return found

    def won(self, seen: Sequence[Sighting], boxes: Tensor, unsure: Tensor, bare: Tensor) -> Tensor:
        """(n,): the most that one window with the cue's background wins alone; NaN where that was not asked."""
        asked, masks = unsure.nonzero().flatten().tolist(), _masks(seen, boxes)

        def alone(n: int) -> Tensor:
            one = seen[asked[n // len(boxes)]]
            return _mixed(one.bare, one.cued, masks[n % len(boxes)])

        found = torch.full((len(seen),), torch.nan)
        left = self.scores(len(asked) * len(boxes), alone, "alone").view(-1, len(boxes))
        found[unsure] = (left - bare[unsure, None]).amax(dim=1)
        return found


def _masks(seen: Sequence[Sighting], boxes: Tensor) -> Tensor:
    return window_masks(boxes, *seen[0].picture.shape[-2:]) if seen else torch.zeros(len(boxes), 1, 1)


def _mixed(image: Tensor, other: Tensor, window: Tensor) -> Tensor:
    return torch.lerp(image, other, window.to(image.dtype))


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


def _sighting(effects: Effects, one: Instance, shown: Swap, pool: Pool, lenders: Pool) -> Sighting:
    plain = Swap(margin=shown.margin, lent_margin=shown.lent_margin)

    def on(donor: int) -> Tensor:
        return intervened(pool, one.image, lenders, donor, plain)

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
