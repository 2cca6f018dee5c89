"""How a twin is put together: an object, moved or not, before a background that is lent or made."""

from dataclasses import dataclass
from numbers import Integral, Real

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from camtrain.errors import ConfigurationError
from camtrain.swaps.compositing import composite, dilate, fill_with_texture
from camtrain.swaps.infills import INFILLS, made_background


@dataclass(frozen=True)
class Blend:
    """What becomes of the background, and of the seam; the fields are arguments of `make_twins`.

    Raises ConfigurationError for an infill that is not known, a jitter off [0, 1], a feather or growth below 0.
    """

    infill: str = "swap"
    feather: int = 1
    grow: int = 1
    jitter: float = 0.0
    fill_donors: bool = True

    def __post_init__(self) -> None:
        if self.infill not in INFILLS:
            raise ConfigurationError(f"infill is one of {', '.join(INFILLS)}; got {self.infill!r}.")
        if not (isinstance(self.jitter, Real) and 0 <= self.jitter <= 1):
            raise ConfigurationError(f"jitter is a fraction in [0, 1]; got {self.jitter!r}.")
        for name, pixels in (("feather", self.feather), ("grow", self.grow)):
            if not (isinstance(pixels, Integral) and pixels >= 0):
                raise ConfigurationError(f"{name} counts pixels and is a whole number of at least 0; got {pixels!r}.")

    def changes(self, masks: Tensor, lent: Tensor) -> Tensor:
        """`(B,)`: whether a twin before the background of a donor with such a mask differs from its image anywhere."""
        return self._kept(masks, lent).flatten(1).amin(dim=1) < 1

    def _kept(self, masks: Tensor, lent: Tensor) -> Tensor:
        """What stays of each image: its object; or, without one, what neither image leaves out."""
        if self.fill_donors or self.infill != "swap":
            return masks
        return torch.minimum(masks, torch.where(lent < 0, 1, lent))

    def __call__(
        self, images: Tensor, masks: Tensor, index: Tensor, donors: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """The objects at `index` before the backgrounds of `donors`, or others by `infill`: twins, and their masks."""
        kept = self._kept(masks[index], masks[donors])
        if self.infill == "swap":
            lent = masks[donors] if self.fill_donors else torch.zeros_like(masks[donors])
            backgrounds = fill_with_texture(images[donors], dilate(lent, self.grow))
        else:
            own = masks[index] if self.infill == "inpaint" else dilate(masks[index], self.grow)  # no rim of what goes
            backgrounds = made_background(images[index], own, self.infill, generator)
        objects, shapes = move_objects(images[index], kept, self.jitter, generator=generator)
        return composite(objects, shapes, backgrounds, feather=self.feather), shapes


def move_objects(
    images: Float[Tensor, "B C H W"],
    masks: Float[Tensor, "B H W"],
    jitter: float,
    *,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B H W"]]:
    """Images and masks under one random scaling and shift per image, which keep every object in the frame.

    The scale is log-uniform within a factor of `1 + jitter`, less where the object would not fit; the shift goes
    up to `jitter` of the way to the edge. An image without an annotation moves with an empty mask. A jitter of 0
    returns what was given.

    >>> masks = torch.zeros(1, 8, 8)
    >>> masks[:, 2:4, 2:4] = 1
    >>> _, moved = move_objects(torch.rand(1, 3, 8, 8), masks, 0.5)
    >>> bool(moved.sum() > 0)
    True
    """
    if jitter == 0 or len(images) == 0:
        return images, masks
    dtype = torch.promote_types(images.dtype, torch.float32)  # a grid in half precision misses pixels by whole ones
    with torch.autocast(images.device.type, enabled=False):
        moved, shapes = _moved(images.to(dtype), masks.to(dtype), jitter, generator)
    return moved.to(images.dtype), shapes.to(masks.dtype)


def _moved(images: Tensor, masks: Tensor, jitter: float, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    draws = torch.rand(3, len(images), generator=generator).to(images.device, torch.float32)
    boxes = _boxes(masks.clamp(min=0))  # (B, 4): left, top, right, bottom in [-1, 1]
    corner, far = boxes[:, :2], boxes[:, 2:]
    widest = (2 / (far - corner).amax(dim=1)).clamp(max=1 + jitter)
    scale = (1 + jitter) ** (2 * draws[0] - 1)
    scale = torch.minimum(scale, widest)
    center, half = (corner + far) / 2, (far - corner) / 2 * scale.unsqueeze(1)
    towards = (2 * draws[1:].T - 1) * jitter
    room = torch.where(towards > 0, 1 - half - center, center + 1 - half).clamp(min=0)
    goal = torch.minimum(torch.maximum(center + towards * room, half - 1), 1 - half)
    theta = torch.zeros(len(images), 2, 3, device=images.device)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / scale
    theta[:, :, 2] = center - goal / scale.unsqueeze(1)
    grid = F.affine_grid(theta, [len(images), 1, *images.shape[2:]], align_corners=False).to(images.dtype)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    shapes = F.grid_sample(masks.clamp(min=0).unsqueeze(1), grid, align_corners=False)
    return moved, shapes.squeeze(1).clamp(0, 1)


def _boxes(masks: Tensor) -> Tensor:
    """The bounding box of each mask as left, top, right, bottom in [-1, 1]; the whole frame for an empty one."""
    sides = []
    for dim, length in ((1, masks.shape[2]), (2, masks.shape[1])):
        used = masks.amax(dim=dim) > 0
        cells = torch.arange(length, device=masks.device)
        first = torch.where(used, cells, length).amin(dim=1)
        last = torch.where(used, cells + 1, 0).amax(dim=1)
        empty = last == 0
        sides.append((torch.where(empty, 0, first) * 2 / length - 1, torch.where(empty, length, last) * 2 / length - 1))
    (left, right), (top, bottom) = sides
    return torch.stack([left, top, right, bottom], dim=1)
