"""Pictures side by side."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor


def side_by_side(
    images: Sequence[UInt8[Tensor, "B 3 H W"]], *, gap: int = 2, fill: int = 255
) -> UInt8[Tensor, "B 3 H V"]:
    """Batches of pictures joined left to right, `gap` pixels of `fill` between them.

    >>> image = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    >>> side_by_side([image, image]).shape
    torch.Size([1, 3, 4, 10])
    """
    if not images:
        raise ValueError("Nothing to put side by side: at least one batch of pictures is needed.")
    spaced = [F.pad(batch, (0, gap), value=fill) for batch in images[:-1]]
    return torch.cat([*spaced, images[-1]], dim=-1)


def film_strip(frames: UInt8[Tensor, "T 3 H W"], *, gap: int = 2, fill: int = 255) -> UInt8[Tensor, "3 H V"]:
    """The frames of one picture over time as one picture, oldest left.

    >>> film_strip(torch.zeros(3, 3, 4, 4, dtype=torch.uint8), gap=1).shape
    torch.Size([3, 4, 14])
    """
    return side_by_side([frame.unsqueeze(0) for frame in frames], gap=gap, fill=fill)[0]
