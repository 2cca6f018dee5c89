"""Cut an object out, put it elsewhere, and close the hole it leaves: what twins and interventions share.

Everything works on the batch and on its device. A mask is 1 on the object; an image without an annotation
(a mask of all -1) passes through every function as it is.
"""

from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from camtrain.cam import ownership
from camtrain.errors import MaskError

__all__ = [
    "blend",
    "composite",
    "cutout",
    "dilate",
    "feathered",
    "fill_objects",
    "fill_with_texture",
    "kept_around",
    "place",
]

Images = Float[Tensor, "B C H W"]
Masks = Float[Tensor, "B H W"]


def composite(images: Images, masks: Masks, backgrounds: Images, *, feather: int = 0) -> Images:
    """Each image's object on its background: ``m * image + (1 - m) * background``.

    ``feather`` is the width in pixels of the ramp between the two. It lies around the object, which is kept in full: a
    ramp within would thin out a bicycle's frame. And it is made of the object's own colors, continued outward by
    `fill_objects`: a rim of the background that the object came from would tell of it. An image without an annotation
    comes back as it is; under an empty mask only the background is left.

    >>> images, masks = torch.ones(1, 1, 1, 4), torch.tensor([[[1.0, 1.0, 0.0, 0.0]]])
    >>> composite(images, masks, torch.zeros(1, 1, 1, 4)).flatten().tolist()
    [1.0, 1.0, 0.0, 0.0]
    """
    kept = cutout(masks)
    if feather == 0:
        return blend(images, kept, backgrounds)
    continued = fill_objects(images, 1 - kept)
    return blend(continued, torch.maximum(kept, cutout(masks, feather=feather)), backgrounds)


def cutout(masks: Masks, *, feather: int = 0) -> Masks:
    """How much of each pixel stays in a composite: the feathered mask, and all of an image without an annotation.

    >>> cutout(torch.tensor([[[1.0, 0.0]], [[-1.0, -1.0]]])).tolist()
    [[[1.0, 0.0]], [[1.0, 1.0]]]
    """
    return torch.where(masks < 0, 1.0, feathered(masks, feather))


def blend(images: Images, kept: Masks, backgrounds: Images) -> Images:
    """``kept * image + (1 - kept) * background``, with a `cutout` that was made before.

    >>> blend(torch.ones(1, 1, 1, 2), torch.tensor([[[0.75, 0.0]]]), torch.zeros(1, 1, 1, 2)).flatten().tolist()
    [0.75, 0.0]
    """
    kept = kept.to(images.dtype).unsqueeze(1)
    return kept * images + (1 - kept) * backgrounds.to(images.dtype)


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


def fill_objects(images: Images, masks: Masks) -> Images:
    """The images with their objects filled in smoothly from what surrounds them (pull-push).

    Known pixels are averaged down a pyramid, and each hole takes the finest level that knows something
    (Gortler et al. 1996, "The lumigraph", section 3.4). Pixels where the mask is 0 keep their value to the
    bit; a soft mask fills softly. An image that is masked whole gets its own mean color.

    >>> image = torch.tensor([1.0, 9.0, 1.0, 1.0]).view(1, 1, 1, 4)
    >>> fill_objects(image, torch.tensor([[[0.0, 1.0, 0.0, 0.0]]])).flatten().tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    known = 1 - masks.clamp(min=0).to(images.dtype).unsqueeze(1)
    lost = known.amax(dim=(1, 2, 3), keepdim=True) == 0
    filled = torch.where(lost, images.mean(dim=(2, 3), keepdim=True), _pull_push(images, known))
    return torch.where(known == 1, images, known * images + (1 - known) * filled)


def fill_with_texture(images: Images, masks: Masks) -> Images:
    """The images with their objects filled in smoothly, and the grain of their own background over that.

    In a grainy picture a smooth fill shows the silhouette of what was taken out, and a network answers to it. Grain is
    what differs from the mean of a neighborhood a tenth of the side wide; a hole gets that of the background half or a
    quarter of the side away, sideways first, since scenes lie in layers. Where there is no background at any of these
    places the fill stays smooth. Pixels where the mask is 0 keep their value to the bit.

    >>> image = torch.tensor([1.0, 9.0, 1.0, 1.0]).view(1, 1, 1, 4)
    >>> fill_with_texture(image, torch.tensor([[[0.0, 1.0, 0.0, 0.0]]])).flatten().tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    known = (masks <= 0).to(images.dtype).unsqueeze(1)
    height, width = images.shape[-2:]
    near = partial(_box_mean, radius=max(1, round(min(height, width) / 20)))
    plain = images.contiguous()  # channels last roll slowly
    grain = known * (plain - near(known * plain) / near(known).clamp(min=1e-6))
    laid, done = torch.zeros_like(grain), known
    for down, right in _AWAY:
        if ownership.are_at_hand(done) and bool((done == 1).all()):
            break
        shifts = (round(down * height), round(right * width))
        lent = (1 - done) * known.roll(shifts, (2, 3))
        laid, done = laid + lent * grain.roll(shifts, (2, 3)), done + lent
    return torch.where(known == 1, images, fill_objects(images, masks) + laid)


def _box_mean(values: Tensor, radius: int) -> Tensor:
    """The mean of a square neighborhood, zeros beyond the edge; by side: 2 sides' steps, not their product."""
    size = 2 * radius + 1
    if ownership.are_at_hand(values):  # a CPU adds whole rows several times faster than it pools, to the same bits
        for axis, padding in ((2, (0, 0, radius, radius)), (3, (radius, radius))):
            padded, length = F.pad(values, padding), values.shape[axis]
            values = padded.narrow(axis, 0, length).clone()
            for step in range(1, size):
                values += padded.narrow(axis, step, length)
            values /= size
        return values
    rows = F.avg_pool2d(values, (size, 1), stride=1, padding=(radius, 0))
    return F.avg_pool2d(rows, (1, size), stride=1, padding=(0, radius))


_AWAY = tuple(  # in sides: to the right and the left, then further down or up
    (down, right) for down in (0.0, 0.5, 0.25, -0.25) for right in (0.5, 0.25, -0.25, 0.0) if down or right
)


def _pull_push(images: Tensor, known: Tensor) -> Tensor:
    """Weighted averages down to one pixel, then up again, each level filling what the finer one lacks."""
    levels = [(images, known)]
    while max(levels[-1][0].shape[-2:]) > 1:
        levels.append(_halve(*levels[-1]))
    filled = levels[-1][0]
    for values, weights in reversed(levels[:-1]):
        coarse = F.interpolate(filled, size=values.shape[-2:], mode="bilinear", align_corners=False)
        filled = weights * values + (1 - weights) * coarse
    return filled


def _halve(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The weighted mean of each 2x2 block, known in full as soon as a quarter of the block is."""
    total = _mean_of_blocks(weights)
    mean = _mean_of_blocks(values * weights) / torch.where(total > 0, total, 1)
    return mean, (4 * total).clamp(max=1)


def _mean_of_blocks(values: Tensor) -> Tensor:
    """The mean of each 2x2 block, of what there is of it at the edge."""
    if not ownership.are_at_hand(values) or values.shape[-2] % 2 or values.shape[-1] % 2:
        return F.avg_pool2d(values, 2, ceil_mode=True)
    above, below = values[..., ::2, :], values[..., 1::2, :]
    return (above[..., ::2] + above[..., 1::2] + below[..., ::2] + below[..., 1::2]) / 4


def dilate(masks: Masks, pixels: int) -> Masks:
    """The masks grown by ``pixels`` on every side (a square neighborhood); 0 leaves them as they are.

    >>> dilate(torch.tensor([[[0.0, 0.0, 0.0, 1.0]]]), 1).flatten().tolist()
    [0.0, 0.0, 1.0, 1.0]
    """
    if pixels == 0:
        return masks
    size = 2 * pixels + 1
    rows = F.max_pool2d(masks.unsqueeze(1), (size, 1), stride=1, padding=(pixels, 0))  # by side: size steps, not size²
    return F.max_pool2d(rows, (1, size), stride=1, padding=(0, pixels)).squeeze(1)


def feathered(masks: Masks, pixels: int) -> Masks:
    """The masks with a linear ramp of ``2 * pixels + 1`` pixels across each edge; 0 leaves them as they are.

    >>> feathered(torch.tensor([[[0.0, 0.0, 0.0, 3.0, 3.0]]]) / 3, 1).flatten().tolist()
    [0.0, 0.0, 0.3333333432674408, 0.6666666865348816, 1.0]
    """
    if pixels == 0:
        return masks
    size = 2 * pixels + 1
    return F.avg_pool2d(masks.unsqueeze(1), size, stride=1, padding=pixels, count_include_pad=False).squeeze(1)


ROUNDING = 1e-3  # what interpolation may add to 1, or take off 0


def read_annotated(masks: Shaped[Tensor, "B *M"], axes: int) -> tuple[Float[Tensor, "N *S"], Int[Tensor, " N"]]:
    """The masks of a batch's annotated images, and the indices of these images, in order.

    Args:
        masks: values in [0, 1], -1 where unknown, all -1 without an annotation; any type of number, with or without a
            channel of one.
        axes: how many axes the maps have that lie beside them, the batch's among them.

    Returns:
        Masks without a channel, in single precision at the least; none where no image is annotated.

    Raises:
        MaskError: for several channels, or values outside {-1} and [0, 1].

    >>> read_annotated(torch.tensor([[[[True, False]]]]), axes=3)
    (tensor([[[1., 0.]]]), tensor([0]))
    """
    masks, known = read_masks(masks, axes)
    index = known.nonzero().flatten()
    return masks[index], index


def read_masks(masks: Shaped[Tensor, "B *M"], axes: int) -> tuple[Float[Tensor, "B *S"], Bool[Tensor, " B"]]:
    """All masks of a batch, read and refused as by `read_annotated`, and which of them are annotations.

    >>> read_masks(torch.tensor([[[1, 0]], [[-1, -1]]]), axes=3)[1]
    tensor([ True, False])
    """
    masks = _without_channel(masks, axes)
    masks = masks.to(torch.promote_types(masks.dtype, torch.float32))
    flat = masks.flatten(1)
    low, high = flat.amin(dim=1), flat.amax(dim=1)
    annotated = (high >= -ROUNDING) & (high <= 1 + ROUNDING)
    valid = (annotated & (low >= -ROUNDING)) | ((low >= -1 - ROUNDING) & (high <= -1 + ROUNDING))
    if not bool(valid.all()):  # perhaps unknown pixels
        kinds = ((flat >= -1 - ROUNDING) & (flat <= -1 + ROUNDING)) | (flat >= -ROUNDING)
        valid = valid | (annotated & kinds.all(dim=1))
    if not bool(valid.all()):
        first = int((~valid).nonzero()[0])
        raise _refusal(first, low[first].item(), high[first].item())
    return masks, annotated


def solid(masks: Float[Tensor, "B *S"]) -> Float[Tensor, "B *S"]:
    """Masks whose unknown pixels are the object's, so that they stay with it; an unannotated mask stays -1 everywhere.

    >>> solid(torch.tensor([[-1.0, 0.0, 1.0], [-1.0, -1.0, -1.0]])).tolist()
    [[1.0, 0.0, 1.0], [-1.0, -1.0, -1.0]]
    """
    annotated = (masks.flatten(1).amax(dim=1) >= 0).view(-1, *[1] * (masks.ndim - 1))
    return torch.where((masks < 0) & annotated, 1, masks)


def _without_channel(masks: Tensor, axes: int) -> Tensor:
    if masks.ndim == axes + 1 and masks.shape[1] == 1:
        return masks.squeeze(1)
    if masks.ndim > axes:
        raise MaskError(
            f"A mask has one channel, and no more axes than what it lies on; got masks of shape {tuple(masks.shape)}, "
            f"where there are {axes - 1} axes beside the batch. Merge the channels, as by masks.amax(1)."
        )
    return masks


def _refusal(image: int, low: float, high: float) -> MaskError:
    advice = "Correct it, or set all of it to -1."
    if low >= 0 and high > 1:
        advice = "Divide 8-bit masks by 255."
    elif low == -1 and high > 1:
        advice = "Of a label map make masks with camtrain.data.label_map_to_masks."
    return MaskError(
        f"A mask holds values in [0, 1], and -1 where unknown (everywhere: no annotation); that of image "
        f"{image} goes from {low:g} to {high:g}. {advice}"
    )
