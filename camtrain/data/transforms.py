"""Joint transforms of an image and its mask: the same crop and flip for both."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

JointTransform = Callable[..., Any]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def train_transform(
    size: int,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    scale: tuple[float, float] = (0.5, 1.0),
) -> v2.Compose:
    """Random resized crop and horizontal flip, then float and normalized.

    Args:
        size: side of the result in pixels.
        mean: subtracted, per channel, from images in [0, 1].
        std: divided by, per channel.
        scale: smallest and largest share of the area that is cropped.

    Returns:
        A transform of `(image, mask)` where the image is a `tv_tensors.Image` and the mask a `tv_tensors.Mask`
        (nearest neighbor, so that its values stay what they are).

    >>> image, mask = transform_pair(train_transform(8), torch.zeros(3, 20, 30, dtype=torch.uint8), torch.ones(20, 30))
    >>> image.shape, mask.shape
    (torch.Size([3, 8, 8]), torch.Size([8, 8]))
    """
    crop = v2.RandomResizedCrop(size, scale=scale, antialias=True)
    return v2.Compose([crop, v2.RandomHorizontalFlip(), *_to_float(mean, std)])


def eval_transform(size: int, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> v2.Compose:
    """Resize to a square of side `size` (the aspect ratio changes, nothing is cut off), then float and normalized.

    >>> image, mask = transform_pair(eval_transform(8), torch.zeros(3, 20, 30, dtype=torch.uint8), torch.ones(20, 30))
    >>> image.shape, mask.shape
    (torch.Size([3, 8, 8]), torch.Size([8, 8]))
    """
    return v2.Compose([v2.Resize((size, size), antialias=True), *_to_float(mean, std)])


def transform_pair(transform: JointTransform | None, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Apply a joint transform to an image and its mask.

    Args:
        transform: takes `(tv_tensors.Image, tv_tensors.Mask)` and returns both; None only converts to float.
        image: `(C, H, W)` uint8.
        mask: `(H, W)` float, all -1 without an annotation; it stays all -1 whatever the transform fills in.

    Returns:
        Plain tensors: the image as the transform leaves it (float in [0, 1] without one) and the mask.
    """
    if transform is None:
        return image.float() / 255, mask
    unannotated = bool((mask == -1).all())
    moved_image, moved_mask = transform(tv_tensors.Image(image), tv_tensors.Mask(mask))
    moved_mask = moved_mask.as_subclass(Tensor)
    moved_mask = torch.full_like(moved_mask, -1) if unannotated else moved_mask
    return moved_image.as_subclass(Tensor), moved_mask


def _to_float(mean: Sequence[float], std: Sequence[float]) -> list[v2.Transform]:
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]
