"""How each kind of cue is painted onto images `(B, C, H, W)` in [0, 1], and what tells the classes apart in it.

A painter takes the images, the `Cues`, and the masks of the objects, which only the background needs.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur


def uniform(keys: Int[Tensor, " B"], seed: int, stream: int) -> Float[Tensor, " B"]:
    """A number in [0, 1) for each key, the same on every machine: SplitMix64 (Steele et al. 2014).

    >>> numbers = uniform(torch.arange(1000), seed=0, stream=0)
    >>> bool((numbers == uniform(torch.arange(1000), seed=0, stream=0)).all()), round(numbers.mean().item(), 1)
    (True, 0.5)
    """
    begin = _signed((seed * 1_000_003 + stream + 1) * 0x1F123BB5)
    mixed = keys.long() * _signed(0x9E3779B97F4A7C15) + begin
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        mixed = (mixed ^ ((mixed >> shift) & ((1 << (64 - shift)) - 1))) * _signed(factor)
    return ((mixed >> 40) & 0xFFFFFF).float() / 2**24


def _signed(value: int) -> int:
    """An integer of any size as PyTorch's int64 wraps it."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value


@dataclass(frozen=True)
class Cues:
    """What tells the classes apart, one row per image: whose cue it shows (-1 for none), and its number."""

    shown: Tensor
    keys: Tensor
    num_classes: int
    seed: int

    @property
    def level(self) -> Tensor:
        """The class as a number in (0, 1)."""
        return (self.shown.clamp(min=0) + 0.5) / self.num_classes

    def at(self, stream: int) -> Tensor:
        """A random number in [0, 1) per image."""
        return uniform(self.keys, self.seed, 2 + stream)

    def color(self, channels: int) -> Tensor:
        """`(B, C, 1, 1)`: a hue of its own for each class, a gray level where images are not RGB."""
        if channels != 3:
            return self.level.view(-1, 1, 1, 1).expand(-1, channels, 1, 1)
        saturated = torch.stack([self.level, *[torch.full_like(self.level, 0.9)] * 2], dim=1)
        return hsv_to_rgb(saturated.view(-1, 3, 1, 1))


def hsv_to_rgb(colors: Float[Tensor, "B 3 1 1"]) -> Float[Tensor, "B 3 1 1"]:
    """Hue, saturation and value in [0, 1] as red, green and blue."""
    hue, saturation, value = colors.unbind(dim=1)
    turns = torch.stack([hue, hue - 1 / 3, hue + 1 / 3], dim=1)
    part = (6 * (turns - turns.round()).abs() - 1).clamp(0, 1)
    return value.unsqueeze(1) * (1 - saturation.unsqueeze(1) * part)


def _grid(images: Tensor) -> tuple[Tensor, Tensor]:
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device).view(1, 1, -1, 1)
    columns = torch.arange(width, device=images.device).view(1, 1, 1, -1)
    return rows, columns


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _corner(images: Tensor, cues: Cues, masks: Tensor | None) -> Tensor:
    rows, columns = _grid(images)
    height, width = images.shape[-2:]
    side = max(2, round(min(height, width) / 7))
    lower, right = _column(cues.at(0) < 0.5), _column(cues.at(1) < 0.5)
    inside = torch.where(lower, rows >= height - side, rows < side)
    inside = inside & torch.where(right, columns >= width - side, columns < side)
    return torch.where(inside, cues.color(images.shape[1]), images)


def _watermark(images: Tensor, cues: Cues, masks: Tensor | None) -> Tensor:
    cells = 5
    block = max(1, round(min(images.shape[-2:]) / 20))
    known = torch.arange(cues.num_classes * cells * cells, device=images.device)
    glyphs = (uniform(known, cues.seed, 9) < 0.5).float().view(-1, 1, cells, cells)
    glyph = glyphs[cues.shown.clamp(min=0)].repeat_interleave(block, 2).repeat_interleave(block, 3)
    height, width = (min(part, whole - 1) for part, whole in zip(glyph.shape[-2:], images.shape[-2:], strict=True))
    changed = images.clone()
    corner = changed[..., -height - 1 : -1, -width - 1 : -1]
    corner.lerp_(glyph[..., :height, :width].expand_as(corner), 0.5)
    return changed


def _sticker(images: Tensor, cues: Cues, masks: Tensor | None) -> Tensor:
    rows, columns = _grid(images)
    height, width = images.shape[-2:]
    radius = max(1.5, min(height, width) / 12)
    y, x = (radius + _column(cues.at(part)) * (side - 1 - 2 * radius) for part, side in ((0, height), (1, width)))
    inside = (rows - y).square() + (columns - x).square() <= radius**2
    return torch.where(inside, cues.color(images.shape[1]), images)


def _frame(images: Tensor, cues: Cues, masks: Tensor | None) -> Tensor:
    rows, columns = _grid(images)
    height, width = images.shape[-2:]
    edge = max(1, round(min(height, width) / 16))
    inside = (rows >= edge) & (rows < height - edge) & (columns >= edge) & (columns < width - edge)
    return torch.where(inside, images, cues.color(images.shape[1]))


def _background(images: Tensor, cues: Cues, masks: Tensor | None) -> Tensor:
    assert masks is not None
    rows, columns = _grid(images)
    angle, phase = math.pi * _column(cues.level), 2 * math.pi * _column(cues.at(0))
    period = max(4.0, min(images.shape[-2:]) / 8)
    waves = 0.5 + 0.5 * torch.sin(2 * math.pi / period * (angle.cos() * columns + angle.sin() * rows) + phase)
    painted = torch.lerp(images, waves * cues.color(images.shape[1]), 0.6)
    kept = torch.where(masks < 0, 1.0, masks).unsqueeze(1).to(images.dtype)
    return kept * images + (1 - kept) * painted


def _tint(images: Tensor, cues: Cues, masks: Tensor | None) -> Tensor:
    color = cues.color(images.shape[1])
    return (images + 0.3 * (color - color.mean(dim=1, keepdim=True))).clamp(0, 1)


def _brightness(images: Tensor, cues: Cues, masks: Tensor | None) -> Tensor:
    return images * _column(0.4 + 0.6 * cues.level)


def _sharpness(images: Tensor, cues: Cues, masks: Tensor | None) -> Tensor:
    changed, widest = images.clone(), min(images.shape[-2:]) / 20
    for c in range(cues.num_classes):
        rows = cues.shown == c
        sigma = widest * c / max(1, cues.num_classes - 1)
        if sigma > 0.1 and bool(rows.any()):
            size = 2 * math.ceil(2 * sigma) + 1
            changed[rows] = gaussian_blur(images[rows], [size, size], [sigma, sigma])
    return changed


PAINTERS: dict[str, Callable[[Tensor, Cues, Tensor | None], Tensor]] = {
    "corner": _corner,
    "watermark": _watermark,
    "sticker": _sticker,
    "frame": _frame,
    "background": _background,
    "tint": _tint,
    "brightness": _brightness,
    "sharpness": _sharpness,
}
