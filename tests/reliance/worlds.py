"""A drawn world of known truth: a colored square object on a colored background, and models that read either."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from camtrain.reliance import Pool
from camtrain.swaps.compositing import dilate, fill_with_texture, place

SIDE = 16


@dataclass(frozen=True)
class World:
    """`classes` classes of `images` each; a background agrees with its class at rate `correlation`."""

    classes: int
    images: int
    seed: int
    correlation: float = 1.0
    noise: float = 0.3

    @property
    def colors(self) -> Tensor:
        return torch.eye(self.classes)

    def pool(self) -> Pool:
        g = torch.Generator().manual_seed(self.seed)
        labels = torch.arange(self.classes).repeat_interleave(self.images)
        other = torch.randint(self.classes, labels.shape, generator=g)
        kept = torch.rand(labels.shape, generator=g) < self.correlation
        backgrounds = torch.where(kept, labels, other)
        masks = torch.zeros(len(labels), SIDE, SIDE)
        masks[:, 5:11, 5:11] = 1
        objects, around = self.colors[labels], self.colors[backgrounds]
        jitter = self.noise * torch.randn(2, len(labels), self.classes, generator=g)
        m = masks[:, None]
        images = m * (objects + jitter[0])[..., None, None] + (1 - m) * (around + jitter[1])[..., None, None]
        return Pool(images, labels, masks)


def read_object(images: Tensor) -> Tensor:
    return 6 * images[:, :, 6:10, 6:10].mean(dim=(2, 3))


def read_background(images: Tensor) -> Tensor:
    return 6 * images[:, :, :2].mean(dim=(2, 3))


def mixture(weight: float) -> Callable[[Tensor], Tensor]:
    return lambda images: (1 - weight) * read_object(images) + weight * read_background(images)


def read_background_for(class_index: int, weight: float = 0.6) -> Callable[[Tensor], Tensor]:
    def predict(images: Tensor) -> Tensor:
        logits = read_object(images)
        logits[:, class_index] += weight * (read_background(images)[:, class_index] - 2)
        return logits

    return predict


def on_background(pool: Pool, image: int, lenders: Pool, donor: int, *, margin: int) -> Tensor:
    """(1, C, H, W): one object on one background without its own, the donor's taken out with twice the margin."""
    lent = fill_with_texture(lenders.images[[donor]], dilate(lenders.masks[[donor]], 2 * margin))
    return place(pool.images[[image]], pool.masks[[image]], lent, margin=margin)
