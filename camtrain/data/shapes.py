"""Shapes that people draw on images, and the pixels that they cover: those whose centers lie inside.

A coordinate is continuous: the pixel in column 3 reaches from 3 to 4 and has its center at 3.5.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from camtrain.errors import MaskError

BEYOND = 0.1  # of a side, that a careless box may reach beyond its image

Array = NDArray[Any]
Covered = NDArray[np.bool_]


@runtime_checkable
class Shape(Protocol):
    """Something that covers pixels of an image of a given height and width."""

    def draw(self, size: tuple[int, int]) -> Covered:
        """The pixels that it covers, `(H, W)`."""
        ...


@dataclass(frozen=True, eq=False)
class Polygon:
    """The inside of a closed line `(N, 2)` of x, y; where it crosses itself, whatever it winds around.

    Attributes:
        points: in pixels, or as shares of the image.
        shares: the points are shares of width and height.
    """

    points: Array
    shares: bool = False

    def draw(self, size: tuple[int, int]) -> Covered:
        """See `Shape`.

        >>> Polygon(np.array([[1, 0], [3, 0], [3, 2], [1, 2]])).draw((2, 4)).astype(int).tolist()
        [[0, 1, 1, 0], [0, 1, 1, 0]]
        """
        height, width = size
        points = self.points * ((width, height) if self.shares else (1, 1))
        require_near(points, size)
        winding = np.zeros((height, width + 1), np.int32)
        for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
            sign, (x0, y0, x1, y1) = (1, (x0, y0, x1, y1)) if y0 <= y1 else (-1, (x1, y1, x0, y0))
            rows = np.arange(max(0, math.ceil(y0 - 0.5)), min(height, math.ceil(y1 - 0.5)))  # centers in [y0, y1)
            if len(rows):
                crossings = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
                columns = np.clip(np.ceil(crossings - 0.5), 0, width).astype(int)
                winding[rows, columns] += sign
        return np.asarray(winding[:, :width].cumsum(axis=1) != 0)


@dataclass(frozen=True)
class Box:
    """A rectangle, right and bottom exclusive; turned clockwise by an angle in degrees around its center.

    Attributes:
        left: x of the left side.
        top: y of the upper side.
        right: x of the right side.
        bottom: y of the lower side.
        angle: in degrees, clockwise.
        shares: the coordinates are shares of width and height.
    """

    left: float
    top: float
    right: float
    bottom: float
    angle: float = 0.0
    shares: bool = False

    def draw(self, size: tuple[int, int]) -> Covered:
        """See `Shape`.

        >>> Box(1.0, 0.0, 3.0, 1.0).draw((2, 4)).astype(int).tolist()
        [[0, 1, 1, 0], [0, 0, 0, 0]]
        """
        height, width = size
        across, down = (width, height) if self.shares else (1, 1)
        left, right, top, bottom = self.left * across, self.right * across, self.top * down, self.bottom * down
        require_near(np.array([[left, top], [right, bottom]]), size)
        if not self.angle and (right > (1 + BEYOND) * width + 1 or bottom > (1 + BEYOND) * height + 1):
            raise MaskError(
                f"A box reaches from ({left:g}, {top:g}) to ({right:g}, {bottom:g}), beyond an image of "
                f"{width}x{height} pixels. Annotate the image at its present size, or cut the box at its border."
            )
        if self.angle:
            corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
            return Polygon(turned(corners, ((left + right) / 2, (top + bottom) / 2), self.angle)).draw(size)
        columns, rows = np.arange(width) + 0.5, np.arange(height) + 0.5
        return np.outer((rows > top) & (rows < bottom), (columns > left) & (columns < right))


@dataclass(frozen=True)
class Ellipse:
    """An ellipse, turned clockwise by an angle in degrees."""

    x: float
    y: float
    radius_x: float
    radius_y: float
    angle: float = 0.0

    def draw(self, size: tuple[int, int]) -> Covered:
        """See `Shape`."""
        if not (self.radius_x > 0 and self.radius_y > 0):
            return np.zeros(size, bool)
        require_near(np.array([[self.x, self.y]]), size)
        rows, columns = np.ogrid[: size[0], : size[1]]
        across, down = columns + 0.5 - self.x, rows + 0.5 - self.y
        cosine, sine = math.cos(math.radians(self.angle)), math.sin(math.radians(self.angle))
        along, beside = across * cosine + down * sine, down * cosine - across * sine
        return np.asarray((along / self.radius_x) ** 2 + (beside / self.radius_y) ** 2 <= 1)


@dataclass(frozen=True, eq=False)
class Disc:
    """The pixels around a point, to a radius of a tenth of the image's shorter side where none is given."""

    x: float
    y: float
    radius: float | None = None

    def draw(self, size: tuple[int, int]) -> Covered:
        """See `Shape`."""
        radius = min(size) / 10 if self.radius is None else self.radius
        return Ellipse(self.x, self.y, max(radius, 0.71), max(radius, 0.71)).draw(size)


@dataclass(frozen=True, eq=False)
class Runs:
    """Run lengths of a box of the image: outside and inside in turn, outside first.

    Attributes:
        counts: the lengths; they fill the box.
        shape: height and width of the box.
        down: the runs go down the columns, as COCO's; else along the rows.
        left: column of the box.
        top: row of the box.
    """

    counts: Array
    shape: tuple[int, int]
    down: bool = True
    left: int = 0
    top: int = 0

    def __post_init__(self) -> None:
        filled = int(self.counts.sum()) if len(self.counts) else 0
        if len(self.counts) and (self.counts.min() < 0 or filled != self.shape[0] * self.shape[1]):
            raise MaskError(
                f"Run lengths fill their image; these sum to {filled}, and {self.shape[0]} x {self.shape[1]} has "
                f"{self.shape[0] * self.shape[1]} pixels. Annotate the image at its present size."
            )

    def draw(self, size: tuple[int, int]) -> Covered:
        """See `Shape`."""
        values = np.repeat(np.arange(len(self.counts)) % 2 == 1, self.counts)
        box = values.reshape(self.shape[::-1]).T if self.down else values.reshape(self.shape)
        return pasted(box, self.left, self.top, size)


@dataclass(frozen=True, eq=False)
class Bitmap:
    """A piece of a mask, at a place in the image; bits packed along the rows."""

    bits: Array
    shape: tuple[int, int]
    left: int = 0
    top: int = 0

    @classmethod
    def of(cls, mask: Array, left: int = 0, top: int = 0) -> "Bitmap":
        """Pack a mask `(H, W)`."""
        return cls(np.packbits(mask.astype(bool)), (mask.shape[0], mask.shape[1]), left, top)

    def draw(self, size: tuple[int, int]) -> Covered:
        """See `Shape`."""
        height, width = self.shape
        mask = np.unpackbits(self.bits, count=height * width).reshape(height, width).astype(bool)
        return pasted(mask, self.left, self.top, size)


def pasted(box: Covered, left: int, top: int, size: tuple[int, int]) -> Covered:
    """A box of pixels at its place in an image; one that does not fit is a `MaskError`."""
    height, width = box.shape
    if not (0 <= left <= size[1] - width and 0 <= top <= size[0] - height):
        raise MaskError(
            f"A mask of {width}x{height} pixels at ({left}, {top}) does not fit into an image of {size[1]}x{size[0]}. "
            "Annotate the image at its present size."
        )
    mask = np.zeros(size, bool)
    mask[top : top + height, left : left + width] = box
    return mask


def drawn(shapes: Sequence[Shape], size: tuple[int, int]) -> tuple[NDArray[np.float32] | None, int]:
    """The union of shapes as a mask, None where they cover no pixel; and how many cover none."""
    mask, without = np.zeros(size, bool), 0
    for shape in shapes:
        covered = shape.draw(size)
        without += not covered.any()
        mask |= covered
    return (mask.astype(np.float32) if mask.any() else None), without


def area_of(shape: Shape, size: tuple[int, int]) -> int:
    """Pixels that a shape covers."""
    return int(np.count_nonzero(shape.draw(size)))


def turned(points: Array, center: tuple[float, float], angle: float) -> Array:
    """Points `(N, 2)` turned clockwise (as y goes down) around a center.

    >>> turned(np.array([[1.0, 0.0]]), (0.0, 0.0), 90.0).round().tolist()
    [[0.0, 1.0]]
    """
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    across, down = (points - center).T
    moved: Array = np.stack([across * cosine - down * sine, across * sine + down * cosine], axis=1) + center
    return moved


def read_points(values: Any, what: str) -> Array:
    """Points `(N, 2)` from a flat list or pairs; what is no list of numbers is a `MaskError`."""
    try:
        points = np.asarray(values, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError) as error:
        raise MaskError(f"The points of {what} are numbers; got {str(values)[:80]}. Correct or remove it.") from error
    if len(points) % 2 or not np.isfinite(points).all():
        raise MaskError(f"{what} has points x, y, all finite; got {str(values)[:80]}. Correct or remove it.")
    return points.reshape(-1, 2)


def require_near(points: Array, size: tuple[int, int]) -> None:
    """Refuse points far outside the image: they belong to another size."""
    if not len(points):
        return
    height, width = size
    low, high = points.min(axis=0), points.max(axis=0)
    if not (low[0] >= -width and low[1] >= -height and high[0] <= 2 * width and high[1] <= 2 * height):
        raise MaskError(
            f"A shape reaches from ({low[0]:g}, {low[1]:g}) to ({high[0]:g}, {high[1]:g}), far outside an image of "
            f"{width}x{height} pixels. Annotate the image at its present size, or correct the shape."
        )
    if not (high - low).any():
        return
    if high.max() <= 1 and low.min() >= 0 and min(size) > 4:
        raise MaskError(
            f"A shape reaches from ({low[0]:g}, {low[1]:g}) to ({high[0]:g}, {high[1]:g}) pixels: shares of the image, "
            f"it seems. Multiply them by its width and height, {width} and {height}."
        )
