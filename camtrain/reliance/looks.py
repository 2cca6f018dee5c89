"""Cues that lie on the whole picture: its tint, its brightness, its sharpness, as measured on the background.

A look is measured off the object and given to whole images, so that an image of one class can wear that of another.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

__all__ = ["LOOKS", "Look"]

Images = Float[Tensor, "B C H W"]
Masks = Float[Tensor, "B H W"]


@dataclass(frozen=True)
class Look:
    """How a look is measured on images `(B, C, H, W)` off their masks, as `(B, K)`, and given to others."""

    name: str
    measure: Callable[[Tensor, Tensor], Tensor]
    give: Callable[[Tensor, Tensor, Tensor], Tensor]  # images, their own, the wanted


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


def sharpness(images: Images, masks: Masks) -> Float[Tensor, "B 1"]:
    """How far the background's pixels are from their neighborhood's mean: the root of the mean square.

    >>> sharpness(torch.full((1, 1, 4, 4), 7.0), torch.zeros(1, 4, 4)).tolist()
    [[0.0]]
    """
    fine = (images - _coarse(images)).square()
    return _mean(fine, masks).mean(dim=1, keepdim=True).sqrt()


def shift(images: Images, own: Float[Tensor, "B K"], wanted: Float[Tensor, "B K"]) -> Images:
    """Every channel, or all alike, moved by the difference."""
    return images + (wanted - own).unsqueeze(-1).unsqueeze(-1).to(images.dtype)


def sharpen(images: Images, own: Float[Tensor, "B 1"], wanted: Float[Tensor, "B 1"]) -> Images:
    """What differs from its neighborhood's mean, made so much larger or smaller; at most eight times."""
    factor = (wanted / own.clamp(min=1e-6)).clamp(max=8).unsqueeze(-1).unsqueeze(-1).to(images.dtype)
    coarse = _coarse(images)
    return coarse + factor * (images - coarse)


LOOKS = {
    "tint": Look("tint", tint, shift),
    "brightness": Look("brightness", brightness, shift),
    "sharpness": Look("sharpness", sharpness, sharpen),
}


def _mean(images: Tensor, masks: Tensor) -> Tensor:
    """The mean `(B, C)` off the object; over all of it where an image is all object."""
    weights = 1 - masks.clamp(min=0).unsqueeze(1).to(images.dtype)
    weights = torch.where(weights.amax(dim=(2, 3), keepdim=True) > 0, weights, 1.0)
    return (weights * images).sum(dim=(2, 3)) / weights.sum(dim=(2, 3))


def _coarse(images: Tensor) -> Tensor:
    """The mean of each pixel's neighborhood, a tenth of the side wide."""
    radius = max(1, round(min(images.shape[-2:]) / 20))
    return F.avg_pool2d(images, 2 * radius + 1, stride=1, padding=radius, count_include_pad=False)
