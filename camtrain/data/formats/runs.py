"""Run lengths given by starts, as in tables: whether they run down columns or along rows is no part of the file.

Airbus, SIIM, Severstal and TGS count down the columns, Carvana, Sartorius and UW-Madison along the rows. The wrong one
tears the shapes of an image apart that is not square; those of a square image it mirrors, and nobody can tell.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from camtrain.data.files import Sample, announce, image_size
from camtrain.data.shapes import Array, Covered, Shape
from camtrain.errors import ConfigurationError, DataError, MaskError

ORDERS = ("columns", "rows")
RELATIVE = "the end of the run before"
LOOKED_AT = 50  # images with runs
OBLONG = 8  # pixels between height and width, below which the wrong order merely shears a shape
TORN = 2.0  # times the length of the outlines


@dataclass(frozen=True, eq=False)
class Starts:
    """Runs of the object, each a start and a length.

    Attributes:
        numbers: start and length in turn.
        counting: what starts are counted from: "1", "0" or `RELATIVE`.
        order: "columns" or "rows"; None while it is not known.
    """

    numbers: tuple[int, ...]
    counting: str = "1"
    order: str | None = None

    def draw(self, size: tuple[int, int]) -> Covered:
        """See `camtrain.data.shapes.Shape`."""
        if self.order is None:
            raise MaskError(f"Run lengths go down the columns or along the rows. Set {_CHOICES}.")
        starts, lengths = np.array(self.numbers[::2]), np.array(self.numbers[1::2])
        if self.counting == RELATIVE:
            starts = starts.cumsum() + lengths.cumsum() - lengths
        else:
            starts = starts - int(self.counting)
        pixels = size[0] * size[1]
        if len(starts) and (starts.min() < 0 or lengths.min() < 0 or int((starts + lengths).max()) > pixels):
            raise MaskError(
                f"A run ends at {int((starts + lengths).max())}; an image of {size[1]}x{size[0]} has {pixels}. "
                "Read images at the size that was annotated."
            )
        steps = np.zeros(pixels + 1, np.int32)
        np.add.at(steps, starts, 1)
        np.add.at(steps, starts + lengths, -1)
        inside = steps[:-1].cumsum() > 0
        return np.asarray(inside.reshape(size[::-1]).T if self.order == "columns" else inside.reshape(size))


_CHOICES = "run_order: columns (Airbus, SIIM, Severstal, TGS) or run_order: rows (Carvana, Sartorius, UW-Madison)"


def counted(entries: Sequence[Sequence[int]], path: Path) -> str:
    """What the starts of a file are counted from; one that can be read in two ways is a `DataError`.

    >>> counted([(27, 4, 35, 4)], Path("a.csv")), counted([(0, 4, 8, 4)], Path("a.csv"))
    ('1', '0')
    >>> counted([(26, 4, 4, 4, 4, 4)], Path("a.csv"))
    'the end of the run before'
    """
    runs = [np.reshape(numbers, (-1, 2)) for numbers in entries]
    if any(_overlap(np.array(sorted(of.tolist()))) for of in runs):
        return RELATIVE
    if any(_overlap(of) for of in runs):
        raise DataError(
            f"{path} has runs that are not in the order of their starts, which may count from the first pixel or from "
            "the end of the run before. Sort the runs of each row by their starts."
        )
    return "0" if any(of[0, 0] == 0 for of in runs) else "1"


def in_order(samples: Sequence[Sample], order: str | None, upright: bool = True) -> list[Sample]:
    """Samples whose run lengths have the order that was given, or the one that leaves shapes whole.

    Raises:
        MaskError: where neither is given nor can be seen, or where the one that was given tears shapes apart.
        ConfigurationError: for an order that is none, or without run lengths of a table.
    """
    if order not in (None, *ORDERS):
        raise ConfigurationError(f"run_order is columns or rows; got {order!r}.")
    coded = [sample for sample in samples if any(isinstance(shape, Starts) for shape in sample.regions or ())]
    if not coded:
        if order is not None:
            raise ConfigurationError("run_order is for run lengths of a CSV file; there are none. Leave it out.")
        return list(samples)
    down, along, count = _outlines(coded, upright)
    seen = next(
        (name for name, mine, other in (("columns", down, along), ("rows", along, down)) if _torn(mine, other)), None
    )
    lengths = (
        f"on {count} images that are not square the outlines are {down} long down the columns, {along} along the rows"
    )
    if order is None and seen is None:
        why = f": {lengths}" if count else ": the images are square"
        raise MaskError(
            f"Nothing tells whether the run lengths (the first of {coded[0].image}) go down the columns or along the "
            f"rows{why}. Set {_CHOICES}."
        )
    if order is not None and seen not in (None, order):
        raise MaskError(f"run_order: {order} tears the shapes apart: {lengths}. Set run_order: {seen}.")
    if order is None:
        announce(f"run lengths go {'down the columns' if seen == 'columns' else 'along the rows'}: {lengths}")
    return [replace(sample, regions=_ordered(sample, order or str(seen))) for sample in samples]


def _ordered(sample: Sample, order: str) -> tuple[Shape, ...] | None:
    if sample.regions is None:
        return None
    return tuple(replace(shape, order=order) if isinstance(shape, Starts) else shape for shape in sample.regions)


def _overlap(runs: Array) -> bool:
    """Does a run `(start, length)` begin before the end of the one ahead of it."""
    return bool((runs[1:, 0] < runs[:-1].sum(axis=1)).any())


def _torn(mine: int, other: int) -> bool:
    return mine > 0 and TORN * mine <= other


def _outlines(samples: Sequence[Sample], upright: bool) -> tuple[int, int, int]:
    """Length of all outlines in either order, and the number of images that can tell."""
    lengths, count = [0, 0], 0
    for sample in samples[:LOOKED_AT]:
        size = sample.size or image_size(sample.image, upright)
        if abs(size[0] - size[1]) >= OBLONG:
            count += 1
            for index, order in enumerate(ORDERS):
                masks = [shape.draw(size) for shape in _ordered(sample, order) or () if isinstance(shape, Starts)]
                lengths[index] += sum(_outline(mask) for mask in masks)
    return lengths[0], lengths[1], count


def _outline(mask: Covered) -> int:
    """How many sides of pixels lie between inside and outside."""
    return int(np.count_nonzero(mask[1:] != mask[:-1]) + np.count_nonzero(mask[:, 1:] != mask[:, :-1]))
