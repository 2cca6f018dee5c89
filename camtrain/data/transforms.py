"""Joint transforms of an image and its mask: the same crop and flip for both."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from camtrain.data.batches import check_masks, read_batch
from camtrain.errors import BatchError, ConfigurationError
from camtrain.swaps import Blend, Infill
from camtrain.swaps.twins import deal_backgrounds, make_masked_twins

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


class TwinBackgrounds(v2.Transform):
    """Exchanges the backgrounds of annotated images in a batch, as a batch transform beside `v2.CutMix`.

    Called as `transform(images, labels, masks)` on images `(B, C, H, W)`, labels `(B,)` or `(B, C)` and masks
    `(B, H, W)` or `(B, 1, H, W)` it returns the three, where annotated images are replaced by their counterfactual
    twins: their object in front of another background (see `camtrain.losses.make_twins`). Labels stay, and an image
    without an annotation is left alone. Draws from the global random generator.

    Args:
        p: how likely an annotated image is replaced, in [0, 1]; None deals the backgrounds of a batch anew, as likely
            as leaves nothing to be learnt from them (see `camtrain.losses.deal_backgrounds`).
        infill: `"swap"`, `"inpaint"`, `"noise"` or `"shuffle"`.
        jitter: objects are scaled and moved by up to this fraction.

    >>> images, masks = torch.rand(4, 3, 16, 16), torch.zeros(4, 16, 16)
    >>> masks[:, 4:12, 4:12] = 1
    >>> changed, labels, moved = TwinBackgrounds(p=1.0)(images, torch.arange(4), masks)
    >>> changed.shape, bool((changed != images)[..., 0, 0].any()), bool((changed == images)[..., 8, 8].all())
    (torch.Size([4, 3, 16, 16]), True, True)
    """

    def __init__(self, p: float | None = 0.5, infill: Infill = "swap", jitter: float = 0.0) -> None:
        super().__init__()
        if p is not None and not 0 <= p <= 1:
            raise ConfigurationError(f"p is a probability in [0, 1], or None; got {p}.")
        self.p, self.infill, self.jitter = p, infill, jitter
        self._blend = Blend(infill, jitter=jitter)

    def forward(self, images: Tensor, labels: Tensor, masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images, labels and masks of the same shapes; masks of any type of number come back in floating point.

        Raises:
            BatchError: for images that are not in floating point.
            MaskError: for masks of another size, or values outside {-1} and [0, 1].
        """
        images, known = self._exchanged(images, labels, _read_masks(images, masks))
        return images, labels, known.reshape(masks.shape)

    def _exchanged(self, images: Tensor, labels: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        if self.p is None:
            return deal_backgrounds(images, masks, labels, infill=self.infill, jitter=self.jitter)[:2]
        classes = labels if labels.ndim == 1 else None  # several a image: any other image lends its background
        twins, moved, index = make_masked_twins(images, masks, classes, self._blend)
        chosen = (torch.rand(len(index)) < self.p).to(images.device)
        images, masks = images.clone(), masks.clone()
        images[index[chosen]], masks[index[chosen]] = twins[chosen], moved[chosen]
        return images, masks


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
        return image.contiguous().float() / 255, mask
    unannotated = not mask.numel() or float(mask.max()) == -1
    moved_image, moved_mask = transform(tv_tensors.Image(image), tv_tensors.Mask(mask))
    moved_mask = moved_mask.as_subclass(Tensor)
    moved_mask = torch.full_like(moved_mask, -1) if unannotated else moved_mask
    return moved_image.as_subclass(Tensor).contiguous(), moved_mask


def _read_masks(images: Tensor, masks: Tensor) -> Float[Tensor, "B H W"]:
    """The masks of a batch without a channel, in single precision at the least."""
    if not images.is_floating_point():
        raise BatchError(
            f"Twins are blended from images in floating point; got {images.dtype}. "
            "Put v2.ToDtype(torch.float32, scale=True) before this transform."
        )
    batch = read_batch({"images": images, "masks": masks})
    check_masks(batch)
    if batch.masks is None:
        raise BatchError("TwinBackgrounds is called with images, labels and masks; got no masks. Give some, or all -1.")
    return batch.masks.to(torch.promote_types(batch.masks.dtype, torch.float32))


def _to_float(mean: Sequence[float], std: Sequence[float]) -> list[v2.Transform]:
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]
