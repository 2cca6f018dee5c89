"""The four objects of the generated scenes: boat, duck, car, hen.

Each is drawn in profile, facing right, in object coordinates from about -1 to 1, standing on y = 0.6. They come in
pairs that share build and differ in parts: boat and car are hulls with a cabin and windows, duck and hen are
birds. Colors come from one palette, so the shape alone tells the class.
"""

from collections.abc import Callable

import numpy as np

from camtrain.data.scenes.drawing import Color, Sketch, blend, scaled

BASELINE = 0.6

PALETTE: tuple[Color, ...] = (
    (206, 62, 52),
    (228, 128, 44),
    (238, 200, 76),
    (240, 234, 218),
    (112, 158, 70),
    (52, 140, 134),
    (66, 112, 188),
    (128, 84, 160),
    (216, 122, 150),
    (134, 90, 58),
    (86, 88, 96),
    (170, 172, 168),
)
_DARK: Color = (38, 38, 44)
_GLASS: Color = (176, 206, 220)
_WHITE: Color = (246, 246, 244)


def draw_boat(sketch: Sketch, rng: np.random.Generator, body: Color, accent: Color) -> None:
    """A small ship with a cabin and a funnel, or with sails."""
    bow, rise = rng.uniform(0.92, 1.05), rng.uniform(0.0, 0.14)
    if rng.random() < 0.5:
        _sails(sketch, rng, accent)
    else:
        _cabin(sketch, rng, accent)
    keel = BASELINE
    sketch.polygon([(-0.95, 0.14), (-0.3, 0.2), (0.4, 0.17), (bow, 0.06 - rise), (0.7, keel), (-0.72, keel)], body)
    stripe = accent if rng.random() < 0.6 else _WHITE
    sketch.polygon([(-0.93, 0.2), (0.93, 0.19 - rise / 2), (0.87, 0.28), (-0.9, 0.28)], stripe, edge=0.85)
    if rng.random() < 0.5:
        for x in np.linspace(-0.5, 0.4, 4):
            sketch.disk((x, 0.4), 0.055, _DARK)


def _sails(sketch: Sketch, rng: np.random.Generator, accent: Color) -> None:
    mast, top = rng.uniform(-0.15, 0.1), rng.uniform(-1.15, -0.95)
    cloth = _WHITE if rng.random() < 0.5 else accent
    sketch.line([(mast, 0.2), (mast, top)], 0.06, scaled(_DARK, 1.6))
    sketch.polygon([(mast - 0.05, top + 0.06), (mast - 0.05, 0.06), (mast - 0.75, 0.06)], cloth)
    sketch.polygon([(mast + 0.06, top + 0.2), (mast + 0.06, 0.04), (mast + 0.62, 0.04)], scaled(cloth, 0.88))


def _cabin(sketch: Sketch, rng: np.random.Generator, accent: Color) -> None:
    left, width, top = rng.uniform(-0.62, -0.4), rng.uniform(0.75, 1.0), rng.uniform(-0.4, -0.25)
    right = left + width
    if rng.random() < 0.7:
        x = rng.uniform(left + 0.12, right - 0.3)
        sketch.polygon([(x, top - 0.42), (x + 0.2, top - 0.42), (x + 0.2, top), (x, top)], scaled(accent, 0.75))
        sketch.polygon([(x, top - 0.42), (x + 0.2, top - 0.42), (x + 0.2, top - 0.32), (x, top - 0.32)], _DARK)
    sketch.polygon([(left, top), (right - 0.12, top), (right, 0.2), (left, 0.2)], accent)
    for x in np.linspace(left + 0.16, right - 0.28, 3):
        sketch.polygon([(x - 0.08, top + 0.12), (x + 0.1, top + 0.12), (x + 0.1, -0.0), (x - 0.08, 0.0)], _GLASS)


def draw_car(sketch: Sketch, rng: np.random.Generator, body: Color, accent: Color) -> None:
    """A saloon, a hatchback or a van on two wheels."""
    roof_left, roof_right, top = _ROOFS[rng.integers(len(_ROOFS))]
    top += rng.uniform(-0.05, 0.05)
    deck = rng.uniform(-0.06, 0.02)
    back, front = roof_left - 0.2, roof_right + 0.3
    roof = accent if rng.random() < 0.3 else body
    sketch.polygon([(roof_left, top), (roof_right, top), (front, deck + 0.02), (back, deck + 0.02)], roof)
    middle = (roof_left + roof_right) / 2
    rim = top + 0.08
    for a, b, c, d in (
        (roof_left + 0.02, middle - 0.04, middle - 0.04, back + 0.12),
        (middle + 0.04, roof_right - 0.02, front - 0.1, middle + 0.04),
    ):
        sketch.polygon([(a, rim), (b, rim), (c, deck - 0.02), (d, deck - 0.02)], _GLASS)
    sketch.blob(
        [
            (-1, deck + 0.08),
            (-0.9, deck),
            (0.6, deck),
            (0.97, deck + 0.12),
            (1, 0.4),
            (0.9, 0.44),
            (-0.92, 0.44),
            (-1, 0.36),
        ],
        body,
    )
    if rng.random() < 0.5:
        sketch.polygon([(-0.96, 0.2), (0.97, 0.2), (0.98, 0.28), (-0.97, 0.28)], accent, edge=0.85)
    sketch.disk((0.93, deck + 0.19), (0.06, 0.07), _WHITE)
    radius = rng.uniform(0.21, 0.25)
    for x in (-0.55, 0.55):
        sketch.disk((x, BASELINE - radius), radius, _DARK)
        sketch.disk((x, BASELINE - radius), radius * 0.5, (190, 192, 196))


_ROOFS = ((-0.5, 0.18, -0.46), (-0.78, 0.15, -0.5), (-0.8, 0.45, -0.6), (-0.35, 0.1, -0.42))


def draw_duck(sketch: Sketch, rng: np.random.Generator, body: Color, accent: Color) -> None:
    """A swimming duck: flat bill, low tail, no legs."""
    head_x, head_y = rng.uniform(0.42, 0.6), rng.uniform(-0.62, -0.42)
    tail = rng.uniform(-0.2, 0.05)
    head = accent if rng.random() < 0.5 else scaled(body, rng.uniform(0.8, 1.1))
    base = BASELINE
    sketch.blob(
        [
            (-1, tail),
            (-0.6, 0.06),
            (-0.1, -0.04),
            (0.35, 0.0),
            (0.7, 0.16),
            (0.68, 0.44),
            (0.3, base),
            (-0.45, base),
            (-0.85, 0.3),
        ],
        body,
    )
    sketch.blob([(head_x - 0.2, head_y), (head_x + 0.16, head_y + 0.1), (0.68, 0.16), (0.5, 0.34), (0.22, 0.1)], head)
    bill = head_y + 0.04
    sketch.blob(
        [
            (head_x + 0.16, bill - 0.08),
            (head_x + 0.34, bill),
            (head_x + 0.56, bill + 0.02),
            (head_x + 0.54, bill + 0.12),
            (head_x + 0.16, bill + 0.14),
        ],
        blend(accent, (240, 170, 60), 0.4),
    )
    sketch.disk((head_x, head_y), (0.25, 0.22), head)
    _wing(sketch, scaled(blend(body, accent, 0.35), 0.86), lift=rng.uniform(-0.05, 0.08))
    _eye(sketch, head_x + 0.08, head_y - 0.05)


def draw_hen(sketch: Sketch, rng: np.random.Generator, body: Color, accent: Color) -> None:
    """A hen: pointed beak, comb, raised tail, legs."""
    head_x, head_y = rng.uniform(0.42, 0.58), rng.uniform(-0.86, -0.68)
    base = rng.uniform(0.16, 0.24)
    leg = blend(accent, (226, 160, 60), 0.4)
    for x, lean in ((-0.12, rng.uniform(-0.12, 0.1)), (0.16, rng.uniform(-0.1, 0.12))):
        foot = (x + lean, BASELINE - 0.03)
        sketch.line([(x, base - 0.06), foot], 0.07, leg)
        sketch.line([(foot[0] - 0.08, BASELINE - 0.02), foot, (foot[0] + 0.18, BASELINE - 0.02)], 0.06, leg)
    for k, angle in enumerate(np.linspace(-2.75, -2.05, 4) + rng.uniform(-0.1, 0.1)):
        reach = 0.72 + 0.06 * k
        tip = (-0.45 + reach * np.cos(angle), -0.1 + reach * np.sin(angle))
        side = np.array([-np.sin(angle), np.cos(angle)]) * 0.13
        root = np.array([-0.45, -0.04])
        sketch.blob([root - side, tip - side * 0.6, tip, tip + side * 0.6, root + side], scaled(accent, 0.8 + 0.06 * k))
    head = scaled(body, rng.uniform(0.85, 1.1))
    comb = blend(accent, (210, 60, 60), 0.4)
    for dx, height in ((-0.12, 0.2), (0.0, 0.27), (0.12, 0.2)):
        sketch.disk((head_x + dx, head_y - height + 0.05), (0.075, 0.11), comb)
    sketch.blob(
        [
            (-0.7, -0.3),
            (-0.3, -0.18),
            (0.1, -0.3),
            (head_x - 0.16, head_y),
            (head_x + 0.15, head_y + 0.06),
            (0.66, -0.1),
            (0.48, 0.14),
            (0.05, base + 0.06),
            (-0.45, 0.1),
        ],
        body,
    )
    sketch.polygon(
        [(head_x + 0.14, head_y - 0.07), (head_x + 0.36, head_y + 0.04), (head_x + 0.14, head_y + 0.1)],
        blend(accent, (240, 170, 60), 0.4),
    )
    sketch.disk((head_x + 0.12, head_y + 0.2), (0.06, 0.1), comb)
    sketch.disk((head_x, head_y), (0.19, 0.18), head)
    _wing(sketch, scaled(blend(body, accent, 0.35), 0.86), lift=rng.uniform(-0.3, -0.2))
    _eye(sketch, head_x + 0.06, head_y - 0.04)


def _wing(sketch: Sketch, color: Color, lift: float) -> None:
    points = np.array([(-0.62, 0.2), (-0.2, 0.08), (0.3, 0.14), (0.36, 0.3), (0.0, 0.42), (-0.4, 0.36)])
    sketch.blob(points + np.array([0.0, lift]), color)


def _eye(sketch: Sketch, x: float, y: float) -> None:
    sketch.disk((x, y), 0.055, _WHITE)
    sketch.disk((x + 0.015, y), 0.03, _DARK)


OBJECTS: dict[str, Callable[[Sketch, np.random.Generator, Color, Color], None]] = {
    "boat": draw_boat,
    "duck": draw_duck,
    "car": draw_car,
    "hen": draw_hen,
}
