"""Small things that win a class wherever they lie: searched, tried on other images, and told from the object.

A guessed mask takes a striking sticker for a part of the object, or keeps too much around the object for it to be
exchanged. So the image's most telling window is looked for first. Then it is taken out and the object guessed anew: a
logo worn by the object leaves a hole in it, a sticker that lies elsewhere leaves the object as it was.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
from jaxtyping import Float, Int
from scipy.special import bdtrc
from torch import Tensor

from camtrain.reliance.records import STICKER, Criteria, Effects, Pace, Pool, Predict
from camtrain.reliance.windows import apart, containing, windows
from camtrain.segmenters import guess_masks
from camtrain.swaps.compositing import dilate, fill_with_texture
from camtrain.tasks.answers import log_odds, probabilities

__all__ = ["WORKS", "Placement", "Stickers", "by_donor", "find_stickers", "no_stickers", "pasted", "placement"]

COARSE, SIDE, FINE = 1 / 2, 1 / 4, 1 / 6  # of the frame's side: windows within windows
GAP = 1 / 20  # of the side, between a sticker and the object
FIRST = 12  # images of a class that are searched to see whether more should be
SOME = 1 / 6  # of these must work
MET = 4  # images of other classes that each window is tried on
NO_CLASS = -1  # of a window that is not telling
WORKS = 0.25  # what a window wins on average, in probability, for its image to count
BY_MISTAKE = 0.05  # of the images a guess may leave out what belongs to the object
LEAST = 4  # images whose window lies off the object

Box = tuple[int, int, int, int]  # top, left, height, width in pixels


@dataclass(frozen=True, eq=False)
class Stickers:
    """What was searched, on this process, and what its most telling windows win on other classes' images.

    ``boxes`` (top, left, height, width) are those windows, -1 where an image was not searched, and ``plain`` windows
    of the same size apart from them. A row of ``effects`` is an image ``effects.donors[row, 0]`` whose telling window
    gave way to the donor's telling window (arm 1) or to its plain one (arm 2); ``effects.off`` says of the donor
    whether its telling window lies off the object.
    """

    pool: Pool
    boxes: Int[Tensor, "N 4"]
    plain: Int[Tensor, "N 4"]
    effects: Effects

    def showing(self, class_index: int, count: int) -> Int[Tensor, " n"]:
        """At most so many images of a class on which its window works: those off whose object it lies first."""
        donors, wins, off = by_donor(self.effects, class_index)
        order = (off.nan_to_num(0.0) + wins).argsort(descending=True, stable=True)
        return donors[order[(wins > WORKS)[order]]][:count]

    def changed(self, row: int, donor: int) -> tuple[int, Float[Tensor, "C H W"]]:
        """The image of a row, and what it looks like with the telling window of its donor."""
        met = int(self.effects.donors[row, 0])
        return met, pasted(self.pool.images, met, donor, box_of(self.boxes[donor]), box_of(self.boxes[met]))


@dataclass(frozen=True)
class Placement:
    """Of the ``images`` of a class on which its window works and the object could be guessed anew so many lie ``off``.

    ``p_value`` is of guesses that leave out what belongs to the object in no more than 5 % of the images.
    """

    off: int
    images: int
    p_value: float

    def convinces(self, criteria: Criteria) -> bool:
        """Whether it is more than guesses' mistakes."""
        return self.off >= LEAST and self.p_value <= criteria.alpha


def no_stickers(pool: Pool) -> Stickers:
    """Of a pool in which nothing was searched."""
    nothing = torch.full((len(pool.labels), 4), -1)
    return Stickers(pool, nothing, nothing, _nothing())


def placement(effects: Effects, class_index: int) -> Placement:
    """How often a class's most telling window, where it works, lies off the object.

    >>> placement(_nothing(), 0)
    Placement(off=0, images=0, p_value=1.0)
    """
    _, wins, off = by_donor(effects, class_index)
    off = off[(wins > WORKS) & ~off.isnan()]
    count, images = int(off.sum()), len(off)
    return Placement(count, images, float(bdtrc(count - 1, images, BY_MISTAKE)) if count else 1.0)


def by_donor(effects: Effects, class_index: int) -> tuple[Tensor, Tensor, Tensor]:
    """The donors of the class, what the telling window of each wins on average, and whether it lies off the object."""
    rows = effects.classes[:, 1] == class_index
    lent = effects.donors[rows, 1]
    donors = torch.tensor(sorted(set(lent.tolist())), dtype=torch.int64)
    place = torch.searchsorted(donors, lent)
    won = effects.after[rows, 1, 1] - effects.after[rows, 2, 1]
    wins = torch.zeros(len(donors)).index_add(0, place, won) / place.bincount(minlength=len(donors))
    off = torch.full((len(donors),), torch.nan)
    if effects.off is not None:
        off[place] = effects.off[rows]
    return donors, wins, off


def find_stickers(
    predict: Predict,
    pool: Pool,
    classes: Sequence[int],
    *,
    seed: int = 0,
    segment: Callable[[Tensor], Tensor] = guess_masks,
    pace: Pace = Pace(),  # noqa: B008  frozen
) -> Stickers:
    """The most telling window of images of every class, and what it wins on images of the others.

    A window of an image is pasted onto one of another class, in the same place, and what it adds to the log odds of its
    class counts: first windows of half the frame's side, then of a quarter inside the best, then of a sixth. That one
    is pasted over the telling windows of 4 images of other classes, and a window of the same image apart from it as
    well: what it wins more than that is measured. Where it works on fewer than a sixth of the first 12 images of a
    class, no more of them are searched. ``pool.masks`` are guesses; where the window works they are made anew without
    it, by ``segment``, which takes images on ``device`` and returns masks in [0, 1], all -1 where it cannot tell. Costs
    39 forwards an image that is searched. Of fewer than two classes, and of images of a single row or column, nothing
    is searched.
    """
    search = _Search(predict, pool, torch.Generator().manual_seed(seed), segment, pace)
    own = {c: search.shuffled((pool.labels == c).nonzero().flatten()) for c in classes}
    own = {c: rows for c, rows in own.items() if len(rows)}
    if len(own) < 2 or min(pool.images.shape[-2:]) < 2:
        return no_stickers(pool)
    first = {c: rows[:FIRST] for c, rows in own.items()}
    search.place(first)
    effects, working = search.tried(first, first), []
    for c in own:
        _, wins, _ = by_donor(effects, c)
        if float((wins > WORKS).float().mean()) >= SOME:
            working.append(c)
    rest = {c: own[c][FIRST:] for c in working if len(own[c]) > FIRST}
    if rest:
        search.place(rest)
        effects = _joined(effects, search.tried(rest, first))
    return Stickers(pool, search.boxes, search.plain, replace(effects, off=search.off(effects, working)))


@dataclass
class _Search:
    """Forwards in batches over pasted windows, and the windows found so far."""

    predict: Predict
    pool: Pool
    generator: torch.Generator
    segment: Callable[[Tensor], Tensor]
    pace: Pace

    def __post_init__(self) -> None:
        height, width = self.pool.images.shape[-2:]
        self.coarse, self.middle = windows(height, width, COARSE), windows(height, width, SIDE)
        self.size = max(1, round(FINE * height)), max(1, round(FINE * width))
        self.boxes = torch.full((len(self.pool.labels), 4), -1)
        self.plain = self.boxes.clone()

    def shuffled(self, rows: Tensor) -> Tensor:
        return rows[torch.randperm(len(rows), generator=self.generator)]

    def place(self, chosen: Mapping[int, Tensor]) -> None:
        """Find the telling windows of these images, by class."""
        rows, labels = torch.cat(list(chosen.values())), self.pool.labels
        onto = torch.stack([self._one_of((labels != labels[row]).nonzero().flatten()) for row in rows])
        best = self._narrowed(rows, onto, [self.coarse] * len(rows))
        best = self._narrowed(rows, onto, [self.middle[containing(self.middle, box[None])[:, 0]] for box in best])
        best = self._narrowed(rows, onto, [self._finer(box) for box in best])
        self.boxes[rows] = best
        self.plain[rows] = torch.stack([self._apart_from(box) for box in best])

    def tried(self, chosen: Mapping[int, Tensor], onto: Mapping[int, Tensor]) -> Effects:
        """What the windows of these images win over the telling windows of those, of other classes."""
        donors, met = [], []
        for c, rows in chosen.items():
            others = torch.cat([found for other, found in onto.items() if other != c])
            donors.append(rows.repeat_interleave(MET))
            met.append(others[torch.randint(len(others), (len(rows) * MET,), generator=self.generator)])
        lent, held = torch.cat(donors), torch.cat(met)
        images, labels = self.pool.images, self.pool.labels

        def changed(n: int) -> Tensor:
            row, windows_of = n // 3, (None, self.boxes, self.plain)[n % 3]
            image, donor = int(held[row]), int(lent[row])
            if windows_of is None:
                return images[image]
            return pasted(images, image, donor, box_of(windows_of[donor]), box_of(self.boxes[image]))

        logits = self._logits(3 * len(lent), changed, "trying them")
        classes = torch.stack([labels[held], labels[lent], torch.full_like(held, NO_CLASS)], dim=1)
        found = probabilities(logits).view(len(lent), 3, -1)
        read = found.gather(2, classes.clamp(min=0)[:, None].expand(-1, 3, -1))
        read = torch.where(classes[:, None] == NO_CLASS, 0.0, read)
        return Effects(
            "windows",
            labels[held],
            classes,
            torch.stack([held, lent, lent], dim=1),
            read[:, 0],
            read,
            STICKER,
            found.argmax(dim=2),
        )

    def off(self, effects: Effects, classes: Sequence[int]) -> Tensor:
        """By row whether the donor's window lies off the object: 1 or 0, NaN where that is not known."""
        known = torch.full((len(self.pool.labels),), torch.nan)
        for c in classes:
            donors, wins, _ = by_donor(effects, c)
            rows = donors[wins > WORKS]
            for start in range(0, len(rows), self.pace.batch_size):
                part = rows[start : start + self.pace.batch_size]
                known[part] = self._off(part)
        return known[effects.donors[:, 1]]

    def _off(self, rows: Tensor) -> Tensor:
        images, old = self.pool.images[rows], self.pool.masks[rows]
        held = torch.zeros_like(old)
        for mask, row in zip(held, rows, strict=True):
            top, left, tall, wide = box_of(self.boxes[row])
            mask[top : top + tall, left : left + wide] = 1
        found = self.segment(fill_with_texture(images, dilate(held, 1)).to(self.pace.device)).float().cpu()
        known, old, new = found.amin(dim=(1, 2)) >= 0, (old > 0.5).float(), (found > 0.5).float()
        gap = max(1, round(GAP * min(images.shape[-2:])))
        apart_from = (dilate(held, gap) * new).sum(dim=(1, 2)) == 0
        left_over, again = old * (1 - held), new * (1 - held)
        both, either = (left_over * again).sum(dim=(1, 2)), torch.maximum(left_over, again).sum(dim=(1, 2))
        same = known & (both > either / 2)
        same &= left_over.sum(dim=(1, 2)) > old.sum(dim=(1, 2)) / 2
        return torch.where(same, apart_from.float(), torch.nan)

    def _narrowed(self, rows: Tensor, onto: Tensor, offered: Sequence[Tensor]) -> Tensor:
        """(n, 4): of the windows offered to each image the one that adds most to the log odds of its class."""
        pairs = [(n, box) for n, boxes in enumerate(offered) for box in boxes]

        def changed(place: int) -> Tensor:
            n, box = pairs[place]
            return pasted(self.pool.images, int(onto[n]), int(rows[n]), box_of(box), box_of(box))

        logits = self._logits(len(pairs), changed, "searching")
        scores = log_odds(logits, self.pool.labels[rows[[n for n, _ in pairs]]])
        best, start = [], 0
        for boxes in offered:
            best.append(boxes[scores[start : start + len(boxes)].argmax()])
            start += len(boxes)
        return torch.stack(best)

    def _finer(self, box: Tensor) -> Tensor:
        """Windows of a sixth of the side inside one of a quarter: at its ends and in the middle."""
        top, left, tall, wide = box.tolist()
        down, across = (
            sorted({0, (length - size) // 2, length - size})
            for length, size in zip((tall, wide), self.size, strict=True)
        )
        return torch.tensor([[top + y, left + x, *self.size] for y in down for x in across])

    def _apart_from(self, box: Tensor) -> Tensor:
        """A random window of the same size that has no pixel in common with it."""
        tall, wide = self.size
        height, width = self.pool.images.shape[-2:]
        corners = product(range(0, height - tall + 1, tall), range(0, width - wide + 1, wide))
        offered = torch.tensor([[*corner, tall, wide] for corner in corners])
        return self._one_of(offered[apart(torch.cat([box[None], offered]))[0, 1:]])

    def _one_of(self, rows: Tensor) -> Tensor:
        return rows[torch.randint(len(rows), (1,), generator=self.generator)[0]]

    def _logits(self, count: int, image_of: Callable[[int], Tensor], what: str) -> Tensor:
        found = []
        for start in range(0, count, self.pace.batch_size):
            batch = torch.stack([image_of(n) for n in range(start, min(start + self.pace.batch_size, count))])
            found.append(self.predict(batch.to(self.pace.device)).float().cpu())
            self.pace.progress(f"stickers, {what}", len(batch), count)
        return torch.cat(found)


def _joined(one: Effects, other: Effects) -> Effects:
    """Both, of one pool."""

    def both(name: str) -> Tensor:
        return torch.cat([getattr(one, name), getattr(other, name)])

    return replace(
        one,
        labels=both("labels"),
        classes=both("classes"),
        donors=both("donors"),
        before=both("before"),
        after=both("after"),
        answers=both("answers"),
    )


def _nothing() -> Effects:
    whole = torch.zeros(0, 3, dtype=torch.int64)
    after, off = torch.zeros(0, 3, 3), torch.zeros(0)
    return Effects("windows", whole[:, 0], whole, whole, after[:, 0], after, STICKER, whole, off=off)


def pasted(images: Tensor, image: int, donor: int, taken: Box, put: Box) -> Tensor:
    """A copy of an image with a window of another in place of its own."""
    (top, left, tall, wide), (down, across, _, _) = taken, put
    changed = images[image].clone()
    changed[:, down : down + tall, across : across + wide] = images[donor, :, top : top + tall, left : left + wide]
    return changed


def box_of(window: Tensor) -> Box:
    """A row of boxes as numbers."""
    top, left, tall, wide = window.tolist()
    return top, left, tall, wide
