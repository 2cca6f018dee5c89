"""Backgrounds that are made: of an image's own colors, of noise, or of its own patches.

Those that are lent come of `fill_with_texture`. Each turns images and masks of their objects into backgrounds, on the
batch and on its device.
"""

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from camtrain.swaps.compositing import fill_objects

__all__ = ["INFILLS", "Infill", "made_background", "noise_background", "shuffled_background"]

Infill = Literal["swap", "inpaint", "noise", "shuffle"]
INFILLS: tuple[str, ...] = get_args(Infill)
Images = Float[Tensor, "B C H W"]
Masks = Float[Tensor, "B H W"]
_PATCHES = 8  # a shuffled background is cut into so many rows and columns


def made_background(images: Images, masks: Masks, infill: str, generator: torch.Generator | None = None) -> Images:
    """Of each image itself: `"inpaint"` is the object's own colors continued outward, `"noise"`, or `"shuffle"`."""
    if infill == "inpaint":
        return fill_objects(images, 1 - masks)
    if infill == "noise":
        return noise_background(images, masks, generator=generator)
    return shuffled_background(fill_objects(images, masks), generator=generator)


def noise_background(images: Images, masks: Masks, *, generator: torch.Generator | None = None) -> Images:
    """Normal noise with the mean and standard deviation that each channel has outside the object.

    Keeps tint and contrast, drops every structure. Without any background it is noise around the image's mean.

    >>> noise_background(torch.full((1, 1, 1, 3), 2.0), torch.tensor([[[1.0, 0.0, 0.0]]])).flatten().tolist()
    [2.0, 2.0, 2.0]
    """
    exact = images.to(torch.promote_types(images.dtype, torch.float32))  # sums of squares outgrow half precision
    weights = 1 - masks.clamp(min=0).unsqueeze(1).to(exact)
    weights = torch.where(weights.amax(dim=(2, 3), keepdim=True) > 0, weights, 1.0)
    total = weights.sum(dim=(2, 3), keepdim=True)
    mean = (weights * exact).sum(dim=(2, 3), keepdim=True) / total
    deviation = ((weights * (exact - mean).square()).sum(dim=(2, 3), keepdim=True) / total).sqrt()
    noise = torch.randn(images.shape, generator=generator, dtype=torch.float32)
    return (mean + deviation * noise.to(exact)).to(images.dtype)


def shuffled_background(images: Images, *, generator: torch.Generator | None = None) -> Images:
    """Each image cut into a grid of patches that change places; what does not fit the grid stays."""
    count, channels, height, width = images.shape
    rows, columns = (max(side // _PATCHES, 1) for side in (height, width))
    down, across = height // rows, width // columns
    order = torch.rand(count, down * across, generator=generator).argsort(dim=1).to(images.device)
    whole = images[..., : down * rows, : across * columns]
    patches = whole.reshape(count, channels, down, rows, across, columns).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    patches = patches[torch.arange(count, device=images.device).unsqueeze(1), order]
    patches = patches.view(count, down, across, channels, rows, columns).permute(0, 3, 1, 4, 2, 5)
    shuffled = images.clone()
    shuffled[..., : down * rows, : across * columns] = patches.reshape_as(whole)
    return shuffled
