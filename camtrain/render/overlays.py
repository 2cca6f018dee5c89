"""Heatmaps and masks drawn over images, in one batch on their device."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped, UInt8
from torch import Tensor

from camtrain.cam import is_empty, normalize, resize
from camtrain.render.colormaps import colorize
from camtrain.render.pixels import quantize, to_uint8


def overlay(
    images: Shaped[Tensor, "B C H W"],
    heatmaps: Float[Tensor, "B h w"],
    *,
    alpha: float = 0.4,
    colormap: str = "turbo",
) -> UInt8[Tensor, "B 3 H W"]:
    """Heatmaps blended over images: `alpha` of the heat's color, the rest of the image.

    Raw heatmaps of any size are resized to the image and rescaled to [0, 1], each by its own range. The images
    may be uint8 or floats (see `to_uint8`). An empty heatmap leaves its image plain within a hatched gray frame.

    >>> overlay(torch.zeros(1, 3, 8, 8), torch.eye(2).unsqueeze(0)).shape
    torch.Size([1, 3, 8, 8])
    """
    pixels = to_uint8(images)
    heat = normalize(resize(heatmaps.float(), pixels.shape[-2:]))
    blended = quantize((1 - alpha) * pixels + alpha * colorize(heat, colormap))
    return torch.where(is_empty(heatmaps).view(-1, 1, 1, 1), hatched_frame(pixels), blended)


def draw_contours(
    images: UInt8[Tensor, "B 3 H W"],
    masks: Shaped[Tensor, "B H W"],
    *,
    color: tuple[int, int, int] = (255, 255, 255),
    width: int = 1,
) -> UInt8[Tensor, "B 3 H W"]:
    """The outline of each mask (where it is at least one half): `width` pixels of color, as many of black around.

    The outline lies outside the object, which stays in sight. An empty mask, or one of an image without an
    annotation (-1), draws nothing.

    >>> mask = torch.zeros(1, 5, 5)
    >>> mask[0, 2, 2] = 1
    >>> draw_contours(torch.zeros(1, 3, 5, 5, dtype=torch.uint8), mask)[0, 0, 1].tolist()
    [0, 255, 255, 255, 0]
    """
    inside = masks >= 0.5 if masks.is_floating_point() else masks > 0
    line = _grow(inside, width)
    halo = _grow(line, width)
    shade = (halo & ~line).unsqueeze(1)
    paint = torch.tensor(color, dtype=torch.uint8, device=images.device).view(1, 3, 1, 1)
    return torch.where((line & ~inside).unsqueeze(1), paint, torch.where(shade, images // 3, images))


def hatched_frame(images: UInt8[Tensor, "B 3 H W"]) -> UInt8[Tensor, "B 3 H W"]:
    """The images within a frame of gray diagonal stripes, the sign of an empty heatmap.

    >>> hatched_frame(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))[0, 0, 16, 16].item()
    0
    """
    height, width = images.shape[-2:]
    thickness = max(1, min(height, width) // 16)
    rows = torch.arange(height, device=images.device).view(-1, 1)
    columns = torch.arange(width, device=images.device).view(1, -1)
    edge = torch.minimum(torch.minimum(rows, height - 1 - rows), torch.minimum(columns, width - 1 - columns))
    stripes = torch.where((rows + columns) // thickness % 2 == 0, 96, 176).to(torch.uint8)
    return torch.where(edge < thickness, stripes, images)


def _grow(masks: Bool[Tensor, "B H W"], pixels: int) -> Bool[Tensor, "B H W"]:
    return F.max_pool2d(masks.float(), 2 * pixels + 1, stride=1, padding=pixels) > 0
