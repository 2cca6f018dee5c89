"""Contact sheets: rows of labeled pictures on one page."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

INK, MUTED, PAPER = (22, 25, 29), (92, 102, 114), (238, 240, 243)
LEFT, MARGIN, GAP, LINE = 120, 20, 16, 18


@dataclass(frozen=True, eq=False)
class Pair:
    """A picture before and after, uint8 RGB of any size, and a line about it."""

    before: UInt8[Tensor, "3 H W"]
    after: UInt8[Tensor, "3 H W"]
    caption: str = ""


def contact_sheet(title: str, rows: Sequence[tuple[str, Sequence[Pair]]], *, side: int = 112) -> Image.Image:
    """A page with a name and its pairs in each row; pictures fit into a square of `side` pixels, small ones enlarged.

    >>> import torch
    >>> pair = Pair(torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(3, 8, 8, dtype=torch.uint8), "no cue")
    >>> contact_sheet("corner", [("boat", [pair, pair])], side=32).size
    (308, 112)
    """
    most = max((len(pairs) for _, pairs in rows), default=0)
    width = LEFT + 2 * MARGIN + most * (2 * side + 2 + GAP) - GAP * bool(most)
    height = 2 * MARGIN + 22 + len(rows) * (side + LINE + GAP // 2) - (GAP // 2) * bool(rows)
    page = Image.new("RGB", (max(width, LEFT + 2 * MARGIN), height), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN - 4), title, INK, ImageFont.load_default(14))
    for number, (name, pairs) in enumerate(rows):
        top = MARGIN + 22 + number * (side + LINE + GAP // 2)
        draw.text((MARGIN, top + side // 2 - 8), _cut(draw, name), INK, ImageFont.load_default(13))
        for place, pair in enumerate(pairs):
            left = MARGIN + LEFT + place * (2 * side + 2 + GAP)
            for offset, picture in ((0, pair.before), (side + 2, pair.after)):
                fitted = _fitted(picture, side)
                page.paste(fitted, (left + offset + (side - fitted.width) // 2, top + (side - fitted.height) // 2))
            draw.text((left, top + side + 1), pair.caption, MUTED, ImageFont.load_default(11))
    return page


def _fitted(picture: Tensor, side: int) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(picture.permute(1, 2, 0).cpu().numpy()))
    scale = side / max(image.size)
    size = tuple(max(1, round(scale * length)) for length in image.size)
    return image.resize((size[0], size[1]), Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS)


def _cut(draw: ImageDraw.ImageDraw, name: str) -> str:
    """The name, shortened to the width that it has."""
    font = ImageFont.load_default(13)
    if draw.textlength(name, font) <= LEFT - GAP:
        return name
    while name and draw.textlength(name + "...", font) > LEFT - GAP:
        name = name[:-1]
    return name + "..."
