"""Cues that lie on the whole picture: its tint, its brightness, its sharpness, as measured on the background.

An image of one class gets the look of another's background: its own background does, or, where the cue may be read from
the object alone, all of it. A changed object may be harder to recognize for reasons of its own; so of a look on whole
pictures only that counts which it *wins* for the class it comes from.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["LOOKS", "Look", "look_of"]

BLURS = (1 / 128, 1 / 64, 1 / 32, 1 / 16)  # of the side: standard deviations of Gaussians

Images = Float[Tensor, "B C H W"]
Masks = Float[Tensor, "B H W"]


@dataclass(frozen=True)
class Look:
    """How a look is measured on images `(B, C, H, W)` off their masks, as `(B, K)`, and how it is given to others.

    `give(images, own, wanted)` changes whole images; unless it is `whole`, their objects are put back. `name` is the
    cue's in a verdict.
    """

    name: str
    measure: Callable[[Tensor, Tensor], Tensor]
    give: Callable[[Tensor, Tensor, Tensor], Tensor]
    whole: bool = False


def tint(images: Images, masks: Masks) -> Float[Tensor, "B C"]:
    """The background's mean color, less its brightness; 0 for gray images.

    >>> tint(torch.tensor([[[[4.0]], [[2.0]], [[0.0]]]]), torch.zeros(1, 1, 1)).tolist()
    [[2.0, 0.0, -2.0]]
    """
    mean = _mean(images, masks)
    return mean - mean.mean(dim=1, keepdim=True)


def brightness(images: Images, masks: Masks) -> Float[Tensor, "B 1"]:
    """The background's mean over pixels and channels.

    >>> brightness(torch.tensor([[[[1.0, 9.0]]]]), torch.tensor([[[0.0, 1.0]]])).tolist()
    [[1.0]]
    """
    return _mean(images, masks).mean(dim=1, keepdim=True)


def sharpness(images: Images, masks: Masks) -> Float[Tensor, "B 5"]:
    """How far the background's pixels are from their neighborhood's mean: the root of the mean square.

    First of the images as they are, then as they would be when blurred by Gaussians of 1/128 to 1/16 of the side.

    >>> sharpness(torch.full((1, 1, 4, 4), 7.0), torch.zeros(1, 4, 4)).round(decimals=3).tolist()
    [[0.0, 0.0, 0.0, 0.0, 0.0]]
    """
    blurred = (images, *(_blurred(images, share) for share in BLURS))
    return torch.cat([_detail(one, masks) for one in blurred], dim=1)


def shift(images: Images, own: Float[Tensor, "B K"], wanted: Float[Tensor, "B K"]) -> Images:
    """Every channel, or all alike, moved by the difference."""
    return images + (wanted - own).unsqueeze(-1).unsqueeze(-1).to(images.dtype)


def sharpen(images: Images, own: Float[Tensor, "B 5"], wanted: Float[Tensor, "B 5"]) -> Images:
    """Blurred until the background is as sharp as is wanted; or what differs from its neighborhood's mean made larger.

    Between two Gaussians of `sharpness` an image is mixed of both. Details are made at most eight times larger.
    """
    level, own = wanted[:, :1], own.cummin(dim=1).values
    step = (own > level).sum(dim=1, keepdim=True)  # how many of them are still too sharp
    above, below = own.gather(1, (step - 1).clamp(min=0)), own.gather(1, step.clamp(max=len(BLURS)))
    part = ((above - level) / (above - below).clamp(min=1e-6)).clamp(0, 1)
    place = torch.where(step == 0, 0.0, (step - 1 + part).clamp(max=len(BLURS)))
    weights = (1 - (place - torch.arange(len(BLURS) + 1, device=own.device)).abs()).clamp(min=0).to(images.dtype)
    changed = weights[:, 0].view(-1, 1, 1, 1) * images
    for weight, share in zip(weights[:, 1:].unbind(dim=1), BLURS, strict=True):
        rows = weight.nonzero().flatten()
        changed[rows] += weight[rows].view(-1, 1, 1, 1) * _blurred(images[rows], share)
    factor = (level / own[:, :1].clamp(min=1e-6)).clamp(1, 8).view(-1, 1, 1, 1).to(images.dtype)
    rows = (factor.flatten() > 1).nonzero().flatten()
    coarse = _coarse(images[rows])
    changed[rows] = coarse + factor[rows] * (images[rows] - coarse)
    return changed


LOOKS = {
    "tint": Look("background tint", tint, shift),
    "brightness": Look("background brightness", brightness, shift),
    "sharpness": Look("sharpness", sharpness, sharpen, whole=True),
}


def look_of(cue: str) -> Look | None:
    """The look that a cue is, or None for the background as a whole.

    >>> look_of("background"), look_of("background tint") is LOOKS["tint"]
    (None, True)
    """
    return next((look for look in LOOKS.values() if look.name == cue), None)


def _mean(images: Tensor, masks: Tensor) -> Tensor:
    """The mean `(B, C)` off the object; over all of it where an image is all object."""
    weights = 1 - masks.clamp(min=0).unsqueeze(1).to(images.dtype)
    weights = torch.where(weights.amax(dim=(2, 3), keepdim=True) > 0, weights, 1.0)
    return (weights * images).sum(dim=(2, 3)) / weights.sum(dim=(2, 3))


def _detail(images: Tensor, masks: Tensor) -> Tensor:
    fine = (images - _coarse(images)).square()
    return _mean(fine, masks).mean(dim=1, keepdim=True).sqrt()


def _blurred(images: Tensor, share: float) -> Tensor:
    """By a Gaussian whose standard deviation is that share of the shorter side, the border mirrored."""
    height, width = images.shape[-2:]
    down, across = (_gaussian(side, share * min(height, width)).to(images) for side in (height, width))
    return down @ images @ across.T


def _gaussian(side: int, sigma: float) -> Tensor:
    """(side, side): how much each pixel of a line gives to each."""
    reach = min(math.ceil(2.5 * sigma), side - 1)
    offsets = torch.arange(-reach, reach + 1)
    kernel = torch.exp(-0.5 * (offsets / sigma).square())
    source = (torch.arange(side)[:, None] + offsets).abs()
    source = torch.where(source > side - 1, 2 * (side - 1) - source, source)
    return torch.zeros(side, side).scatter_add(1, source, (kernel / kernel.sum()).expand(side, -1))


def _coarse(images: Tensor) -> Tensor:
    """The mean of each pixel's neighborhood, a tenth of the side wide, less of it at the border."""
    height, width = images.shape[-2:]
    radius = max(1, round(min(height, width) / 20))
    down, across = (_band(side, radius).to(images) for side in (height, width))
    return down @ images @ across.T


def _band(side: int, radius: int) -> Tensor:
    """(side, side): each pixel's neighbors on a line, in equal shares."""
    places = torch.arange(side)
    near = ((places[:, None] - places).abs() <= radius).float()
    return near / near.sum(dim=1, keepdim=True)
