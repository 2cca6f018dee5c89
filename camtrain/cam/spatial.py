"""Heatmaps, masks and images in space: masks pooled down, heatmaps resized up, frames of images disturbed."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils import _pytree as pytree

from camtrain.cam import ownership

UNKNOWN = -0.5  # at or below it a mask is unknown: -1, give or take what interpolation does
_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def annotated(masks: Float[Tensor, "B *S"]) -> Bool[Tensor, " B"]:
    """Which images have an annotation: all but those whose mask is -1 everywhere.

    >>> annotated(torch.tensor([[[-1.0, -1.0]], [[0.0, 1.0]]]))
    tensor([False,  True])
    """
    return masks.flatten(1).amax(dim=1) >= 0


def pool_masks(masks: Float[Tensor, "B *S"], size: Sequence[int]) -> Float[Tensor, "B *s"]:
    """Masks averaged over the area of each cell of a feature grid; an unannotated mask stays -1 everywhere.

    Unknown pixels, which are -1 in a mask of other values, are left out: a cell is the mean of what is known of it, and
    -1 where nothing is. A 2-D mask of a 3-D map (video) holds for every frame.

    >>> pool_masks(torch.tensor([[[1.0, 1.0], [0.0, 1.0]]]), (1, 1))
    tensor([[[0.7500]]])
    >>> pool_masks(torch.tensor([[[1.0, 0.0, -1.0, 1.0, -1.0, -1.0]]]), (1, 3))
    tensor([[[ 0.5000,  1.0000, -1.0000]]])
    """
    if masks.ndim - 1 < len(size):
        masks = masks.unsqueeze(1).expand(-1, size[0], *masks.shape[1:])
    if tuple(masks.shape[1:]) == tuple(size):
        return masks
    pooled = F.interpolate(masks.unsqueeze(1), size=tuple(size), mode="area").squeeze(1)
    partly = partly_unknown(masks)
    if ownership.are_at_hand(partly) and not bool(partly.any()):
        return pooled
    known = masks > UNKNOWN
    parts = torch.stack([masks * known, known.to(masks.dtype)], dim=1)
    inside, share = F.interpolate(parts, size=tuple(size), mode="area").unbind(dim=1)
    means = torch.where(share > 0, inside / share, -1)
    return torch.where(partly.view(-1, *[1] * len(size)), means, pooled)


def partly_unknown(masks: Float[Tensor, "B *S"]) -> Bool[Tensor, " B"]:
    """Which masks are annotations with unknown pixels: -1 beside other values.

    >>> partly_unknown(torch.tensor([[-1.0, -1.0], [-1.0, 0.0], [0.0, 1.0]]))
    tensor([False,  True, False])
    """
    flat = masks.flatten(1)
    return (flat.amin(dim=1) <= UNKNOWN) & (flat.amax(dim=1) > UNKNOWN)


def without_unknown(
    heatmaps: Float[Tensor, "B *S"], masks: Float[Tensor, "B *S"]
) -> tuple[Float[Tensor, "B *S"], Float[Tensor, "B *S"]]:
    """Heatmaps and masks of one size, both 0 where the mask is unknown (-1): neither inside nor outside.

    >>> without_unknown(torch.tensor([[3.0, 2.0]]), torch.tensor([[-1.0, 1.0]]))
    (tensor([[0., 2.]]), tensor([[0., 1.]]))
    """
    unknown = masks <= UNKNOWN
    return torch.where(unknown, 0, heatmaps), torch.where(unknown, 0, masks)


def resize(heatmaps: Float[Tensor, "B *s"], size: Sequence[int]) -> Float[Tensor, "B *S"]:
    """Heatmaps interpolated linearly to another size, pixel centers aligned as in OpenCV (`align_corners=False`).

    >>> resize(torch.ones(1, 2, 2), (3, 4)).shape
    torch.Size([1, 3, 4])
    """
    if tuple(heatmaps.shape[1:]) == tuple(size):
        return heatmaps
    mode = _MODES[len(size)]
    return F.interpolate(heatmaps.unsqueeze(1), size=tuple(size), mode=mode, align_corners=False).squeeze(1)


def normalize(heatmaps: Float[Tensor, "B *S"]) -> Float[Tensor, "B *S"]:
    """Each heatmap rescaled to [0, 1] by its own minimum and maximum, for display only.

    An empty map (zero everywhere, or not finite) gives zeros; a constant positive map gives ones.

    >>> normalize(torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.0, 0.0], [2.0, 2.0, 2.0]]))
    tensor([[0.0000, 1.0000, 0.5000],
            [0.0000, 0.0000, 0.0000],
            [1.0000, 1.0000, 1.0000]])
    """
    if heatmaps.numel() == 0:
        return heatmaps
    flat = heatmaps.flatten(1)
    low, high = flat.min(dim=1, keepdim=True).values, flat.max(dim=1, keepdim=True).values
    spread = high - low
    scaled = torch.where(spread > 0, (flat - low) / spread.clamp_min(torch.finfo(flat.dtype).tiny), (high > 0).to(flat))
    return torch.where(is_empty(heatmaps).unsqueeze(1), 0, scaled).reshape(heatmaps.shape)


def is_empty(heatmaps: Float[Tensor, "B *S"]) -> Bool[Tensor, " B"]:
    """Which heatmaps hold no evidence: zero everywhere, or a value that is not finite.

    >>> is_empty(torch.tensor([[0.0, 0.0], [0.0, 1.0], [float("nan"), 1.0]]))
    tensor([ True, False,  True])
    """
    flat = heatmaps.flatten(1)
    return ~(torch.isfinite(flat).all(dim=1) & (flat > 0).any(dim=1))


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
