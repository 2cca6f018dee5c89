"""Which axes of images are space and time: of `(B, C, *S)`, of clips `(B, T, C, H, W)`, of pixels `(B, H, W, C)`."""

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

Size = tuple[int, ...]
_COLORS = (1, 3)


def is_image(value: Any) -> bool:
    """Whether an input can be an image or a batch of them: a tensor of numbers with at least three axes."""
    return isinstance(value, Tensor) and value.ndim >= 3 and not value.is_complex() and value.dtype != torch.bool


def space_axes(shape: Size) -> Size:
    """The axes of space (and time) of a batch of images of this shape.

    The channels are the second axis, unless one or three of something stand where other libraries have their colors.

    >>> space_axes((2, 3, 8, 8)), space_axes((2, 16, 3, 8, 8)), space_axes((2, 8, 8, 3))
    ((2, 3), (1, 3, 4), (1, 2))
    """
    channels = channel_axis(shape)
    return tuple(axis for axis in range(1, len(shape)) if axis != channels)


def channel_axis(shape: Size) -> int:
    """The axis of the colors, or channels, of a batch of images of this shape."""
    other = {4: 3, 5: 2}.get(len(shape), 1)
    return other if shape[other] in _COLORS and shape[1] not in _COLORS else 1


def space_of(images: Tensor) -> Size:
    """The size of a batch of images in space (and time).

    >>> space_of(torch.zeros(2, 16, 3, 8, 9))
    (16, 8, 9)
    """
    return tuple(images.shape[axis] for axis in space_axes(tuple(images.shape)))


def channels_second(images: Tensor) -> Tensor:
    """A batch of images as `(B, C, *S)`.

    >>> channels_second(torch.zeros(2, 16, 3, 8, 9)).shape
    torch.Size([2, 3, 16, 8, 9])
    """
    return images.movedim(channel_axis(tuple(images.shape)), 1)


def across_channels(values: Tensor, images: Tensor) -> Tensor:
    """Values `(..., *S)` with an axis of length 1 where the images have their channels, so that they broadcast.

    >>> across_channels(torch.zeros(2, 16, 8, 9), torch.zeros(2, 16, 3, 8, 9)).shape
    torch.Size([2, 16, 1, 8, 9])
    """
    return values.unsqueeze(channel_axis(tuple(images.shape)) - images.ndim)


def batch_and_frame(images: Any) -> tuple[int | None, Size | None]:
    """The number and the size of the images among a model's inputs, None where there is no tensor of images."""
    image = next((leaf for leaf in pytree.tree_leaves(images) if is_image(leaf)), None)
    if image is None:
        return None, None
    if isinstance(images, list):
        return len(images), tuple(image.shape[-2:])
    return image.shape[0], space_of(image)


def frame_seen(given: Size, seen: Size) -> Size | None:
    """The size of the images as a first convolution shows it; None where it was not given the images as a batch.

    `given` is the shape of the images, `seen` that of the convolution's input. Frames may be folded into the batch.

    >>> frame_seen((1, 3, 8, 8), (1, 3, 16, 16)), frame_seen((1, 3, 8, 8), (4, 3, 4, 4))
    ((16, 16), None)
    >>> frame_seen((2, 3, 3, 8, 8), (6, 3, 8, 8))
    (3, 8, 8)
    """
    if len(seen) not in (4, 5):
        return None
    if seen[0] == given[0]:
        return seen[2:]
    if len(given) == 5 and len(seen) == 4 and seen[0] == given[0] * given[1] and seen[1] == given[2]:
        return given[1], *seen[2:]
    return None


def disturbed(images: Any, place: tuple[tuple[float, float], ...], size: Size | None) -> Any:
    """The inputs with every image changed in one place: for each axis of space where it starts and stops, 0 to 1.

    `size` is the size of the images in space, where it is known better than by their shape.
    """

    def change(leaf: Any) -> Any:
        if not is_image(leaf):
            return leaf
        axes = _axes_of_size(tuple(leaf.shape), size)
        changed = region = leaf.clone()
        for axis, (start, stop) in zip(axes[-len(place) :], place[-len(axes) :], strict=True):
            first, last = (round(leaf.shape[axis] * share) for share in (start, stop))
            region = region.narrow(axis, first, max(last - first, 1))
        wave = torch.arange(region.numel(), device=leaf.device).reshape(region.shape).sin()
        spread = leaf.float().std() + 1
        region.copy_((region.flip(-1) + spread * (wave + 1)).to(leaf.dtype))
        return changed

    if isinstance(images, list):  # one image (C, H, W) each
        return [change(image.unsqueeze(0)).squeeze(0) for image in images]
    return pytree.tree_map(change, images)


def _axes_of_size(shape: Size, size: Size | None) -> Size:
    """The axes in space: those of the size that is known, else those that the shape tells."""
    axes = space_axes(shape)
    if size is None:
        return axes
    candidates = (axes, (2, 3), (1, 2), (2, 3, 4), (1, 3, 4))
    fitting = (other for other in candidates if len(other) == len(axes) and len(shape) == len(axes) + 2)
    return next((other for other in fitting if tuple(shape[axis] for axis in other) == size), axes)
