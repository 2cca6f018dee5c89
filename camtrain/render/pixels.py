"""Network inputs back to pictures: uint8 RGB."""

from collections.abc import Sequence

import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor


def to_uint8(
    images: Shaped[Tensor, "B C H W"],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> UInt8[Tensor, "B 3 H W"]:
    """Images as uint8 RGB, on their device.

    uint8 stays as it is. `mean` and `std` (per channel, in [0, 1] units) undo a normalization. Other floats are
    taken as they are where the whole batch lies in [0, 1], and stretched from the batch's minimum and maximum to
    the full range where it does not; values that are not finite become black. One channel is shown as gray,
    any number but 1 and 3 as the gray of their average.

    >>> to_uint8(torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)).shape
    torch.Size([1, 3, 1, 2])
    >>> to_uint8(torch.tensor([-2.0, 2.0]).view(1, 1, 1, 2))[0, 0].tolist()
    [[0, 255]]
    """
    if images.dtype == torch.uint8:
        return _rgb(images)
    floats = images.detach().float()
    if mean is not None and std is not None:
        floats = floats * _per_channel(std, floats) + _per_channel(mean, floats)
    elif not _in_unit_range(floats):
        floats = _stretch(floats)
    return quantize(_rgb(floats) * 255)


def quantize(values: Tensor) -> UInt8[Tensor, "..."]:
    """Floats in [0, 255] rounded to uint8; clamped first, so that nothing wraps around; NaN becomes 0.

    >>> quantize(torch.tensor([-3.0, 254.6, 300.0]))
    tensor([  0, 255, 255], dtype=torch.uint8)
    """
    return values.nan_to_num(0.0).clamp(0, 255).round().to(torch.uint8)


def _rgb(images: Tensor) -> Tensor:
    channels = images.shape[1]
    if channels == 3:
        return images
    gray = images if channels == 1 else images.float().mean(dim=1, keepdim=True).to(images.dtype)
    return gray.expand(-1, 3, -1, -1)


def _per_channel(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.as_tensor(values, dtype=like.dtype, device=like.device).view(1, -1, 1, 1)


def _in_unit_range(images: Tensor, tolerance: float = 1e-3) -> bool:
    finite = images[torch.isfinite(images)]
    return not finite.numel() or bool((finite.min() >= -tolerance) & (finite.max() <= 1 + tolerance))


def _stretch(images: Tensor) -> Tensor:
    finite = images[torch.isfinite(images)]
    return (images - finite.min()) / (finite.max() - finite.min()).clamp_min(torch.finfo(images.dtype).eps)
