"""Drawing for generated scenes: anti-aliased shapes with their coverage, splines, noise."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Color = tuple[int | float, int | float, int | float]
Array = NDArray[Any]

_SUPERSAMPLING = 3
_SUBPIXEL_BITS = 4


class Sketch:
    """A transparent canvas that is drawn on in object coordinates and shrunk once at the end.

    Args:
        size: side of the finished picture in pixels.
        matrix: 2x3 affine map from object coordinates (x to the right, y down) to the unit square.
    """

    def __init__(self, size: int, matrix: Array) -> None:
        side = size * _SUPERSAMPLING
        self.size = size
        self.matrix = matrix * side
        self.unit = float(np.sqrt(abs(np.linalg.det(self.matrix[:, :2]))))
        self.canvas = np.zeros((side, side, 4), np.uint8)

    def polygon(self, points: ArrayLike, color: Color, edge: float = 0.72) -> None:
        """Fill a polygon `(N, 2)` and draw its outline in a darker shade, `edge` times the color."""
        import cv2

        pixels = self._pixels(points)
        cv2.fillPoly(self.canvas, [pixels], (*color, 255), cv2.LINE_8, _SUBPIXEL_BITS)
        if edge < 1:
            width = max(1, round(0.025 * self.unit))
            shade = (*scaled(color, edge), 255)
            cv2.polylines(self.canvas, [pixels], True, shade, width, cv2.LINE_8, _SUBPIXEL_BITS)

    def blob(self, points: ArrayLike, color: Color, edge: float = 0.72) -> None:
        """Fill the smooth closed curve through the points."""
        self.polygon(spline(points), color, edge)

    def disk(self, center: tuple[float, float], radius: float | tuple[float, float], color: Color) -> None:
        """Fill an ellipse with upright axes in object coordinates."""
        angle = np.linspace(0, 2 * np.pi, 20, endpoint=False)
        circle = np.stack([np.cos(angle), np.sin(angle)], 1)
        self.polygon(np.asarray(center) + circle * np.asarray(radius), color)

    def line(self, points: ArrayLike, width: float, color: Color) -> None:
        """Draw an open line of the width given in object units."""
        import cv2

        thickness = max(1, round(width * self.unit))
        pixels = self._pixels(points)
        cv2.polylines(self.canvas, [pixels], False, (*color, 255), thickness, cv2.LINE_8, _SUBPIXEL_BITS)

    def finish(self) -> tuple[Array, Array]:
        """The picture `(H, W, 3)` on black and its coverage `(H, W, 1)`, float32, 0 to 255 and 0 to 1."""
        import cv2

        small = cv2.resize(self.canvas, (self.size, self.size), interpolation=cv2.INTER_AREA)
        small = small.astype(np.float32)
        return small[..., :3], small[..., 3:] / 255

    def _pixels(self, points: ArrayLike) -> Array:
        mapped = np.asarray(points, float) @ self.matrix[:, :2].T + self.matrix[:, 2]
        pixels: Array = np.round(mapped * 2**_SUBPIXEL_BITS).astype(np.int32)
        return pixels


def spline(points: ArrayLike, steps: int = 6) -> Array:
    """The closed Catmull-Rom curve through the points `(N, 2)`, with `steps` points a segment.

    >>> spline([[0, 0], [1, 0], [1, 1], [0, 1]], steps=2)[:2].tolist()
    [[0.0, 0.0], [0.5, -0.125]]
    """
    p = np.asarray(points, float)[:, None]
    before, after, beyond = np.roll(p, 1, 0), np.roll(p, -1, 0), np.roll(p, -2, 0)
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    curve = (
        2 * p
        + (after - before) * t
        + (2 * before - 5 * p + 4 * after - beyond) * t**2
        + (3 * p - before - 3 * after + beyond) * t**3
    )
    points_on_curve: Array = (curve / 2).reshape(-1, 2)
    return points_on_curve


def placement(
    center: tuple[float, float], scale: float, angle: float = 0.0, flip: bool = False, squeeze: float = 1.0
) -> Array:
    """The affine map for `Sketch`: squeeze in x, mirror, rotate by `angle` degrees, scale, move.

    >>> placement((0.5, 0.25), 0.1).round(3).tolist()
    [[0.1, 0.0, 0.5], [0.0, 0.1, 0.25]]
    """
    turn = np.deg2rad(angle)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    linear = scale * rotation @ np.diag([-squeeze if flip else squeeze, 1.0])
    return np.concatenate([linear, np.array(center)[:, None]], axis=1)


def scaled(color: Color, factor: float) -> Color:
    """A lighter or darker color, clipped to 0..255."""
    red, green, blue = (min(255.0, channel * factor) for channel in color)
    return red, green, blue


def blend(a: Color, b: Color, share: float) -> Color:
    """`a` with the given share of `b`."""
    red, green, blue = (x + (y - x) * share for x, y in zip(a, b, strict=True))
    return red, green, blue


@lru_cache(maxsize=4)
def noise_sheets(octaves: Sequence[int] = (4, 8, 16, 32, 64), side: int = 256, count: int = 8) -> Array:
    """Sheets of smooth noise `(count, side, side)`, float32 of mean 0 and deviation 1, the same on each call."""
    import cv2

    rng = np.random.default_rng(len(octaves) * side + count)
    sheets = np.zeros((count, side, side), np.float32)
    for sheet in sheets:
        for cells in octaves:
            grid = rng.standard_normal((cells, cells)).astype(np.float32)
            sheet += cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC) / cells**0.5
        sheet -= sheet.mean()
        sheet /= sheet.std()
    return sheets


def noise(shape: tuple[int, int], rng: np.random.Generator, window: tuple[float, float] = (1.0, 1.0)) -> Array:
    """Smooth noise `(H, W)`, float32 of deviation about 1, cut from a random place of a random sheet.

    Args:
        shape: height and width in pixels.
        rng: source of the choice.
        window: share of a sheet's height and width that is cut: a small share gives large blots.
    """
    import cv2

    sheets = noise_sheets()
    sheet = sheets[rng.integers(len(sheets))]
    height, width = (max(2, round(share * side)) for share, side in zip(window, sheet.shape, strict=True))
    top, left = (rng.integers(side - cut + 1) for side, cut in zip(sheet.shape, (height, width), strict=True))
    cut = sheet[top : top + height, left : left + width][:: 1 - 2 * rng.integers(2), :: 1 - 2 * rng.integers(2)]
    picture: Array = cv2.resize(cut, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
    return picture


def receding(shape: tuple[int, int], rng: np.random.Generator, stretch: float = 1.0, depth: float = 5.0) -> Array:
    """Noise on a plane that recedes to the upper edge, `(H, W)`: small and flat there, `depth` times larger below.

    Args:
        shape: height and width in pixels.
        rng: source of the choice.
        stretch: how much wider than high the blots are.
        depth: scale of the lower edge over that of the upper edge.
    """
    import cv2

    height, width = shape
    sheets = noise_sheets()
    sheet = sheets[rng.integers(len(sheets))]
    near = 120 / stretch
    rows = np.linspace(0, 1, height, dtype=np.float32) ** (1 / 1.6)
    scale = depth - (depth - 1) * np.linspace(0, 1, height, dtype=np.float32)
    columns = np.linspace(-0.5, 0.5, width, dtype=np.float32)
    map_x = columns[None] * (near * scale)[:, None] + np.float32(rng.uniform(0, 256))
    map_y = np.repeat((rows * 200)[:, None], width, 1) + np.float32(rng.uniform(0, 256))
    picture: Array = cv2.remap(sheet, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return picture
