"""A line of text and the scale of the colors under a picture."""

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from camtrain.render.overlays import colorize

INK, PAPER = (22, 25, 29), (238, 240, 243)
LINE, BAR, MARGIN = 22, 56, 6


def captioned(
    picture: UInt8[Tensor, "3 H W"], text: str, *, colormap: str = "turbo", least: int = 256
) -> UInt8[Tensor, "3 h w"]:
    """The picture with a line below it: the text, and the colors of a heatmap from none to its own maximum.

    A picture narrower than `least` pixels is enlarged by whole numbers, so that the line can be read; a text that is
    too long loses its end.

    >>> captioned(torch.zeros(3, 20, 100, dtype=torch.uint8), "cat 98 %").shape
    torch.Size([3, 82, 300])
    """
    times = max(1, -(-least // picture.shape[2]))
    pixels = picture.repeat_interleave(times, dim=1).repeat_interleave(times, dim=2)
    strip = Image.new("RGB", (pixels.shape[2], LINE), PAPER)
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(12)
    room = strip.width - BAR - 5 * MARGIN - draw.textlength("0max", font)
    draw.text((MARGIN, 3), _cut(text, room, draw, font), INK, font)
    right = strip.width - MARGIN - draw.textlength("max", font)
    draw.text((right, 3), "max", INK, font)
    left = int(right) - MARGIN - BAR
    colors = colorize(torch.linspace(0, 1, BAR).expand(1, LINE - 10, BAR), colormap)
    strip.paste(Image.fromarray(colors[0].round().to(torch.uint8).permute(1, 2, 0).numpy()), (left, 5))
    draw.text((left - MARGIN - draw.textlength("0", font), 3), "0", INK, font)
    line = torch.from_numpy(np.array(strip)).permute(2, 0, 1).to(pixels.device)
    return torch.cat([pixels, line], dim=1)


def _cut(text: str, room: float, draw: ImageDraw.ImageDraw, font: object) -> str:
    length = len(text)
    while length and draw.textlength(text[:length], font) > room:  # type: ignore[arg-type]
        length -= 1
    return text[:length]
