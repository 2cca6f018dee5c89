"""Cues that lie on the whole picture: its tint, its brightness, its sharpness, as measured on the background.

An image of one class gets the look of another's background: its own background does, or, where the cue may be read from
the object alone, all of it. A changed object may be harder to recognize for reasons of its own; so of a look on whole
pictures only that counts which it *wins* for the class it comes from.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

__all__ = ["LOOKS", "Look", "look_of"]

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


def _coarse(images: Tensor) -> Tensor:
    """The mean of each pixel's neighborhood, a tenth of the side wide."""
    radius = max(1, round(min(images.shape[-2:]) / 20))
    return F.avg_pool2d(images, 2 * radius + 1, stride=1, padding=radius, count_include_pad=False)
