"""Small things that win a class wherever they lie: what was found of them, and whether they belong to the object."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from scipy.special import bdtrc
from torch import Tensor

from camtrain.reliance.records import STICKER, Criteria, Effects, Pool

__all__ = ["WORKS", "Placement", "Stickers", "by_donor", "no_stickers", "pasted", "placement"]

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
