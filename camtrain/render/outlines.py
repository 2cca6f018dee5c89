"""A sheet of pictures with the outlines of their masks: are these the objects?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from camtrain.render.overlays import to_uint8
from camtrain.render.sheets import INK, MARGIN, MUTED, PAPER

LINE, HALO, FOG = (255, 214, 10), (20, 20, 20), (64, 160, 255)
COLUMNS, GAP, TEXT = 6, 12, 32


@dataclass(frozen=True, eq=False)
class Outlined:
    """A picture, its mask (None for none), and two lines: which it is, and what to look at."""

    image: UInt8[Tensor, "3 H W"]
    mask: Float[Tensor, "H W"] | None
    name: str
    remark: str = ""


def outline_sheet(title: str, pictures: Sequence[Outlined], *, side: int = 176) -> Image.Image:
    """Pictures in rows of six: the object's outline in yellow, unknown pixels in blue, all else as it is.

    >>> import torch
    >>> picture = Outlined(torch.zeros(3, 8, 8, dtype=torch.uint8), torch.eye(8), "a.jpg", "empty")
    >>> outline_sheet("masks", [picture], side=32).size[0] > 32
    True
    """
    rows = -(-len(pictures) // COLUMNS)
    width = 2 * MARGIN + COLUMNS * (side + GAP) - GAP
    page = Image.new("RGB", (width, 2 * MARGIN + 24 + rows * (side + TEXT + GAP)), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN - 4), title, INK, ImageFont.load_default(14))
    for number, picture in enumerate(pictures):
        left = MARGIN + number % COLUMNS * (side + GAP)
        top = MARGIN + 24 + number // COLUMNS * (side + TEXT + GAP)
        tile = outlined(picture, side)
        page.paste(tile, (left + (side - tile.width) // 2, top + (side - tile.height) // 2))
        for row, (text, color) in enumerate(((picture.name, INK), (picture.remark, MUTED))):
            font = ImageFont.load_default(11)
            draw.text((left, top + side + 2 + 14 * row), _cut(draw, text, font, side), color, font)
    return page


def outlined(picture: Outlined, side: int) -> Image.Image:
    """A picture fitted into a square, with the outline of its mask."""
    image = Image.fromarray(np.ascontiguousarray(picture.image.permute(1, 2, 0).numpy()))
    scale = side / max(image.size)
    size = (max(1, round(scale * image.width)), max(1, round(scale * image.height)))
    image = image.resize(size, Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS)
    if picture.mask is None:
        return image
    pixels = np.array(image)
    kinds = np.where(picture.mask.numpy() < 0, 1, np.where(picture.mask.numpy() >= 0.5, 2, 0)).astype(np.uint8)
    kinds = np.array(Image.fromarray(kinds).resize(size, Image.Resampling.NEAREST))
    pixels[kinds == 1] = (0.4 * pixels[kinds == 1] + 0.6 * np.array(FOG)).astype(np.uint8)
    inside = kinds == 2
    line = inside & ~_eroded(_eroded(inside))
    if inside.all():  # the frame itself
        line = ~np.pad(np.ones((max(size[1] - 4, 0), max(size[0] - 4, 0)), bool), 2)[: size[1], : size[0]]
    halo = _dilated(inside) & ~inside
    pixels[halo], pixels[line] = HALO, LINE
    return Image.fromarray(pixels)


def _eroded(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Without its rim; the frame of the picture is no rim."""
    padded = np.pad(mask, 1, mode="edge")
    return np.asarray(padded[1:-1, :-2] & padded[1:-1, 2:] & padded[:-2, 1:-1] & padded[2:, 1:-1] & mask)


def _dilated(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(~_eroded(~mask))


def _cut(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The end of a text that is too long: of a path, the file."""
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(f"…{text}", font) > width:
        text = text[1:]
    return f"…{text}"


def sheet_of(
    images: Float[Tensor, "N C H W"],
    masks: Float[Tensor, "N H W"],
    names: Sequence[str],
    *,
    title: str = "masks that were made",
    denormalize: Callable[[Tensor], Any] | None = None,
) -> Image.Image:
    """`outline_sheet` of a batch as the model takes it, each with its mask's share of the frame below it.

    >>> import torch
    >>> sheet_of(torch.rand(2, 3, 8, 8), torch.eye(8).expand(2, 8, 8), ["boat", "car"]).size[0] > 32
    True
    """
    pixels = to_uint8(images if denormalize is None else denormalize(images))
    shares = masks.clamp(min=0).flatten(1).mean(dim=1).tolist()
    return outline_sheet(
        title,
        [
            Outlined(image, mask, name, f"{share:.0%} of the frame" if bool((mask >= 0).any()) else "left out")
            for image, mask, name, share in zip(pixels, masks, names, shares, strict=True)
        ],
    )
