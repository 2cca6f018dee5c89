"""The two kinds of place in the generated scenes: land and water, under the same skies."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camtrain.data.scenes.drawing import Color, blend, noise, receding, scaled

Array = NDArray[Any]

_SKIES: tuple[tuple[Color, Color], ...] = (
    ((92, 152, 214), (196, 222, 240)),
    ((130, 176, 222), (226, 234, 238)),
    ((150, 160, 172), (214, 216, 218)),
    ((108, 118, 168), (244, 190, 140)),
    ((72, 104, 166), (250, 216, 186)),
)
_GROUNDS: tuple[tuple[Color, Color], ...] = (
    ((128, 160, 84), (70, 118, 44)),
    ((150, 164, 92), (98, 132, 50)),
    ((198, 180, 112), (150, 132, 66)),
    ((176, 144, 104), (130, 98, 66)),
    ((120, 146, 82), (112, 104, 62)),
)
_WATERS: tuple[tuple[Color, Color], ...] = (
    ((120, 170, 200), (38, 92, 146)),
    ((110, 178, 186), (30, 110, 124)),
    ((142, 164, 180), (62, 92, 116)),
    ((96, 142, 182), (24, 66, 116)),
    ((130, 186, 190), (52, 128, 150)),
)
_ROCKS: tuple[Color, ...] = ((110, 116, 132), (92, 112, 104), (128, 120, 118))
_WOODS: tuple[Color, ...] = ((62, 96, 56), (84, 108, 52), (52, 84, 66), (128, 104, 52))


def draw_land(size: int, horizon: float, rng: np.random.Generator) -> Array:
    """Meadow, field or earth with grass, trees and hills, `(size, size, 3)` float32, 0 to 255."""
    picture, sky = _sky(size, horizon, rng)
    line = round(horizon * size)
    _ridge(picture, line, blend(_pick(_ROCKS, rng), sky, 0.45), rng, height=rng.uniform(0.02, 0.14))
    if rng.random() < 0.7:
        wood = blend(_pick(_WOODS, rng), sky, 0.2)
        _ridge(picture, line, wood, rng, height=rng.uniform(0.02, 0.07), rough=True)
    far, near = _pick(_GROUNDS, rng)
    ground = _gradient(size - line, size, blend(far, sky, 0.15), near)
    ground *= 1 + 0.11 * receding(ground.shape[:2], rng, stretch=1.5)[..., None]
    patches = receding(ground.shape[:2], rng, stretch=2.0, depth=3.0)[..., None] > 0.7
    ground += patches * (np.array(_pick(_GROUNDS, rng)[1], np.float32) - ground) * 0.35
    picture[line:] = ground
    if rng.random() < 0.35:
        _path(picture, line, rng)
    if rng.random() < 0.75:
        for _ in range(rng.integers(1, 4)):
            _tree(picture, line, rng)
    _grass(picture, line, near, rng)
    return picture


def draw_water(size: int, horizon: float, rng: np.random.Generator) -> Array:
    """Sea or lake with waves, glitter and perhaps a far shore, `(size, size, 3)` float32, 0 to 255."""
    picture, sky = _sky(size, horizon, rng)
    line = round(horizon * size)
    if rng.random() < 0.6:
        shore = blend(_pick(_ROCKS if rng.random() < 0.6 else _WOODS, rng), sky, 0.45)
        _ridge(picture, line, shore, rng, height=rng.uniform(0.02, 0.1))
    far, near = _pick(_WATERS, rng)
    water = _gradient(size - line, size, blend(far, sky, 0.5), near)
    waves = receding(water.shape[:2], rng, stretch=3.5, depth=4.0)
    swell = receding(water.shape[:2], rng, stretch=7.0, depth=2.5)
    water *= 1 + (0.10 * waves + 0.05 * swell)[..., None]
    crest = np.clip(waves + 0.4 * swell - rng.uniform(1.0, 1.8), 0, 1)[..., None]
    water += crest * (np.array(blend(sky, (255, 255, 255), 0.6), np.float32) - water) * 0.8
    if rng.random() < 0.4:
        water += _glitter(water.shape[:2], rng)
    picture[line:] = water
    _foam(picture, line, rng)
    return picture


def cast_shadow(picture: Array, place: str, left: float, right: float, base: float) -> None:
    """Darken what lies under an object that spans `left..right` and stands on `base` (shares of the side)."""
    import cv2

    size = len(picture)
    center = (round((left + right) / 2 * size * 16), round((base + 0.005) * size * 16))
    half = (right - left) / 2 * size * 16
    shade: Array = np.zeros((size, size), np.float32)
    if place == "water":
        for k, (width, drop) in enumerate(((1.05, 0.0), (0.9, 0.03), (0.72, 0.06), (0.5, 0.09))):
            at = (center[0], center[1] + round(drop * size * 16))
            axes = (round(half * width), round(0.016 * size * 16))
            cv2.ellipse(shade, at, axes, 0, 0, 360, 0.5 - 0.09 * k, -1, cv2.LINE_AA, 4)
    else:
        axes = (round(half * 1.05), round(0.035 * size * 16))
        cv2.ellipse(shade, center, axes, 0, 0, 360, 0.55, -1, cv2.LINE_AA, 4)
    shade = cv2.GaussianBlur(shade, (0, 0), 0.012 * size)
    picture *= 1 - shade[..., None]


def _sky(size: int, horizon: float, rng: np.random.Generator) -> tuple[Array, Color]:
    top, low = _pick(_SKIES, rng)
    rows = round(horizon * size)
    picture = np.empty((size, size, 3), np.float32)
    sky = _gradient(rows, size, top, low)
    if rng.random() < 0.4:
        _sun(sky, rng)
    if rng.random() < 0.8:
        cover = rng.uniform(0.0, 1.2)
        cloud = np.clip(noise((rows, size), rng, (0.35, 0.5)) - cover, 0, 1)[..., None] * rng.uniform(0.5, 0.95)
        sky += cloud * (np.array(blend(low, (255, 255, 255), 0.75), np.float32) - sky)
    picture[:rows] = sky
    return picture, low


def _sun(sky: Array, rng: np.random.Generator) -> None:
    height, width = sky.shape[:2]
    x, y = rng.uniform(0.1, 0.9) * width, rng.uniform(0.2, 1.0) * height
    away = np.hypot(np.arange(width)[None] - x, np.arange(height)[:, None] - y).astype(np.float32) / width
    glow = np.exp(-((away / 0.16) ** 2)) * 0.5 + (away < 0.05) * 0.5
    sky += glow[..., None] * (np.array((255, 246, 214), np.float32) - sky)


def _gradient(rows: int, columns: int, top: Color, bottom: Color) -> Array:
    share = np.linspace(0, 1, rows, dtype=np.float32)[:, None, None]
    column = np.array(top, np.float32) * (1 - share) + np.array(bottom, np.float32) * share
    return np.repeat(column, columns, axis=1)


def _ridge(
    picture: Array, line: int, color: Color, rng: np.random.Generator, height: float, rough: bool = False
) -> None:
    import cv2

    size = len(picture)
    x = np.linspace(0, size, 33)
    phase = rng.uniform(0, 2 * np.pi, 3)
    wave = sum(np.sin(x / size * 2 * np.pi * f + p) / f for f, p in zip((1, 2, 5), phase, strict=True))
    profile = height * (0.9 + 0.4 * wave)
    if rough:
        profile = profile + height * rng.uniform(0, 0.5, len(x))
    tops = line - np.clip(profile, 0, None) * size
    points = np.concatenate([np.stack([x, tops], 1), [[size, line + 1], [0, line + 1]]])
    cv2.fillPoly(picture, [np.round(points * 16).astype(np.int32)], color, cv2.LINE_AA, 4)


def _path(picture: Array, line: int, rng: np.random.Generator) -> None:
    import cv2

    size = len(picture)
    start, end = rng.uniform(0.2, 0.8), rng.uniform(-0.1, 1.1)
    t = np.linspace(0, 1, 12)
    middle = start + (end - start) * t**1.5 + 0.06 * np.sin(t * rng.uniform(2, 6))
    width = 0.01 + 0.16 * t**1.2
    y = line / size + (1 - line / size) * t
    points = np.concatenate([np.stack([middle - width, y], 1), np.stack([middle + width, y], 1)[::-1]])
    tone = scaled((196, 174, 140), rng.uniform(0.75, 1.05))
    cv2.fillPoly(picture, [np.round(points * size * 16).astype(np.int32)], tone, cv2.LINE_AA, 4)
    picture[line:] *= 1 + 0.04 * receding(picture[line:].shape[:2], rng)[..., None]


def _tree(picture: Array, line: int, rng: np.random.Generator) -> None:
    import cv2

    size = len(picture)
    depth = rng.uniform(0.0, 0.5) ** 2
    foot = line + depth * (size - line)
    height = (0.12 + 0.7 * depth) * size * rng.uniform(0.8, 1.25)
    x = rng.uniform(0.02, 0.98) * size
    width = max(1, round(0.07 * height))
    root, crown = (round(x), round(foot)), (round(x), round(foot - 0.5 * height))
    cv2.line(picture, root, crown, (84, 62, 46), width, cv2.LINE_AA)
    leaf = scaled(_pick(_WOODS, rng), rng.uniform(0.8, 1.15))
    for k in range(6):
        spread = rng.normal(0, 0.13, 2) * height
        at = (round((x + spread[0]) * 16), round((foot - 0.68 * height + spread[1]) * 16))
        radius = round(rng.uniform(0.16, 0.24) * height * 16)
        cv2.circle(picture, at, radius, scaled(leaf, 0.8 + 0.08 * k), -1, cv2.LINE_AA, 4)


def _grass(picture: Array, line: int, color: Color, rng: np.random.Generator) -> None:
    import cv2

    size = len(picture)
    count = rng.integers(40, 120)
    depth = rng.uniform(0.05, 1, count) ** 0.7
    x, y = rng.uniform(0, size, count), line + depth * (size - line)
    length, lean = (0.015 + 0.05 * depth) * size, rng.normal(0, 0.35, count)
    blades = np.stack([np.stack([x, y], 1), np.stack([x + lean * length, y - length], 1)], 1)
    blades = np.round(blades * 16).astype(np.int32)
    for shade, part in ((0.72, blades[::2]), (1.25, blades[1::2])):
        cv2.polylines(picture, list(part), False, scaled(color, shade), 1, cv2.LINE_AA, 4)
    if rng.random() < 0.4:
        bloom = _pick(((250, 250, 244), (244, 214, 80), (226, 120, 130), (166, 130, 204)), rng)
        for px, py, near in zip(x[:24], y[:24], depth, strict=False):
            radius = round((0.004 + 0.009 * near) * size * 16)
            cv2.circle(picture, (round(px * 16), round(py * 16)), radius, bloom, -1, cv2.LINE_AA, 4)


def _glitter(shape: tuple[int, int], rng: np.random.Generator) -> Array:
    height, width = shape
    x = (np.arange(width, dtype=np.float32) / width - rng.uniform(0.1, 0.9))[None]
    column = np.exp(-((x / (0.06 + 0.1 * np.linspace(0, 1, height, dtype=np.float32)[:, None])) ** 2))
    spark = np.clip(receding(shape, rng, stretch=3.0, depth=3.0) - 0.1, 0, 1.2)
    light: Array = (column * spark)[..., None] * np.array((120, 112, 90), np.float32)
    return light


def _foam(picture: Array, line: int, rng: np.random.Generator) -> None:
    import cv2

    size = len(picture)
    count = rng.integers(6, 26)
    depth = rng.uniform(0.02, 1, count)
    x, y = rng.uniform(0, size, count), line + depth * (size - line)
    half = (0.01 + 0.06 * depth) * size * rng.uniform(0.5, 1.3, count)
    bend = 0.25 * half * rng.choice([-1, 1])
    streaks = np.stack([np.stack([x - half, y], 1), np.stack([x, y - bend], 1), np.stack([x + half, y], 1)], 1)
    tone = picture[line:].mean((0, 1))
    bright = tuple((tone + (255 - tone) * rng.uniform(0.25, 0.6)).tolist())
    cv2.polylines(picture, list(np.round(streaks * 16).astype(np.int32)), False, bright, 1, cv2.LINE_AA, 4)


def _pick(options: Sequence[Any], rng: np.random.Generator) -> Any:
    return options[int(rng.integers(len(options)))]


BACKGROUNDS: dict[str, Callable[[int, float, np.random.Generator], Array]] = {
    "land": draw_land,
    "water": draw_water,
}
