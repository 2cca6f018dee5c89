"""What takes the place of a background: another image's, or noise or blur with another image's color.

An infill turns annotated donor images into object-free backgrounds, ``(images, masks) -> backgrounds``;
`swap_background` puts objects on them. Everything works on the batch and on its device.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from camtrain.compositing import blend, cutout, dilate

__all__ = ["Infill", "kept_around", "noise_background", "place"]

Images = Float[Tensor, "B C H W"]
Masks = Float[Tensor, "B H W"]
Infill = Callable[[Tensor, Tensor], Tensor]


def place(images: Images, masks: Masks, backgrounds: Images, *, margin: int = 1) -> Images:
    """The objects on these backgrounds: kept whole with ``margin`` pixels around them, the last one blended.

    >>> mask = torch.tensor([[[1.0, 1.0, 0.0, 0.0]]])
    >>> place(torch.ones(1, 1, 1, 4), mask, torch.zeros(1, 1, 1, 4), margin=0).flatten().tolist()
    [1.0, 1.0, 0.0, 0.0]
    """
    return blend(images, kept_around(masks, margin), backgrounds)


def kept_around(masks: Masks, margin: int) -> Masks:
    """How much of each pixel `place` keeps: all of the object and of ``margin`` pixels around it, the last one blended.

    >>> kept_around(torch.tensor([[[1.0, 0.0]]]), 0).tolist()
    [[[1.0, 0.0]]]
    """
    return cutout(dilate(masks, margin), feather=min(margin, 1))


def noise_background(images: Images, masks: Masks, *, generator: torch.Generator | None = None) -> Images:
    """Normal noise with the mean and standard deviation that each channel has outside the object.

    Keeps tint and contrast, drops every structure. Without any background it is noise around the image's mean.

    >>> noise_background(torch.full((1, 1, 1, 3), 2.0), torch.tensor([[[1.0, 0.0, 0.0]]])).flatten().tolist()
    [2.0, 2.0, 2.0]
    """
    mean, std = _outside(images, masks)
    noise = torch.randn(images.shape, generator=generator, dtype=torch.float32)
    return mean + std * noise.to(images)


def _outside(images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (B, C, 1, 1) over what lies outside the object."""
    weights = 1 - masks.clamp(min=0).unsqueeze(1).to(images)
    weights = torch.where(weights.amax(dim=(2, 3), keepdim=True) > 0, weights, 1.0)
    total = weights.sum(dim=(2, 3), keepdim=True)
    mean = (weights * images).sum(dim=(2, 3), keepdim=True) / total
    variance = (weights * (images - mean) ** 2).sum(dim=(2, 3), keepdim=True) / total
    return mean, variance.sqrt()
