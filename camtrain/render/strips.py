"""Pictures side by side."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Int, UInt8
from torch import Tensor

from camtrain.render.overlays import draw_contours


def side_by_side(
    images: Sequence[UInt8[Tensor, "B 3 H W"]], *, gap: int = 2, fill: int = 255
) -> UInt8[Tensor, "B 3 H V"]:
    """Batches of pictures joined left to right, `gap` pixels of `fill` between them.

    >>> image = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    >>> side_by_side([image, image]).shape
    torch.Size([1, 3, 4, 10])
    """
    if not images:
        raise ValueError("Nothing to put side by side: at least one batch of pictures is needed.")
    spaced = [F.pad(batch, (0, gap), value=fill) for batch in images[:-1]]
    return torch.cat([*spaced, images[-1]], dim=-1)


def film_strip(frames: UInt8[Tensor, "T 3 H W"], *, gap: int = 2, fill: int = 255) -> UInt8[Tensor, "3 H V"]:
    """The frames of one picture over time as one picture, oldest left.

    >>> film_strip(torch.zeros(3, 3, 4, 4, dtype=torch.uint8), gap=1).shape
    torch.Size([3, 4, 14])
    """
    return side_by_side([frame.unsqueeze(0) for frame in frames], gap=gap, fill=fill)[0]


def region_strip(
    pictures: UInt8[Tensor, "n 3 H W"], boxes: Int[Tensor, "n 4"], *, side: int = 120, gap: int = 4, fill: int = 255
) -> UInt8[Tensor, "3 h v"]:
    """What lies in a window (top, left, height, width) of each picture, above the picture with the window outlined.

    Everything is as wide as ``side``; small pictures are enlarged pixel by pixel. At least one picture is needed.

    >>> region_strip(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.tensor([[0, 0, 2, 2], [4, 4, 2, 2]])).shape
    torch.Size([3, 244, 244])
    """
    height, width = pictures.shape[-2:]
    whole = _resized(pictures, round(side * height / width), side)
    scaled = boxes.double() * torch.tensor([whole.shape[2] / height, side / width] * 2, dtype=torch.float64)
    inside = torch.zeros(len(pictures), *whole.shape[2:], dtype=torch.bool)
    cut = []
    for picture, box, marked, (top, left, tall, wide) in zip(
        pictures, boxes.tolist(), inside, scaled.round().int().tolist(), strict=True
    ):
        marked[top + 2 : top + tall - 2, left + 2 : left + wide - 2] = True  # the outline is drawn around it
        window = picture[:, box[0] : box[0] + box[2], box[1] : box[1] + box[3]]
        cut.append(_resized(window.unsqueeze(0), round(side * box[2] / box[3]), side)[0])
    shown = draw_contours(whole, inside)
    columns = [
        torch.cat([F.pad(window, (0, 0, 0, gap), value=fill), picture], dim=1)
        for window, picture in zip(cut, shown, strict=True)
    ]
    return side_by_side([column.unsqueeze(0) for column in columns], gap=gap, fill=fill)[0]


def _resized(pictures: Tensor, height: int, width: int) -> Tensor:
    if width >= 2 * pictures.shape[-1]:
        return F.interpolate(pictures, size=(height, width), mode="nearest-exact")
    smooth = F.interpolate(pictures.float(), size=(height, width), mode="bilinear", antialias=True, align_corners=False)
    return smooth.round().clamp(0, 255).to(torch.uint8)
