"""Masks as a loss is given them: read, or refused where they cannot be meant."""

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from camtrain.errors import MaskError

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
