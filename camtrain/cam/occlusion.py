"""Occlusion maps: cover a window, see how far the score falls."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from camtrain.cam.passes import (
    batch_size,
    image_of,
    laid_out,
    quickened_for,
    score_as_given,
    score_variants,
    undisturbed,
)
from camtrain.cam.spatial import across_channels, space_of
from camtrain.cam.targets import Target, predicted_class
from camtrain.errors import MethodError

Sides = int | Sequence[int]


def occlusion_map(
    model: nn.Module,
    images: Any,
    *,
    target: Target = predicted_class,
    labels: Tensor | None = None,
    window: Sides | None = None,
    stride: Sides | None = None,
    baseline: float | Tensor = 0.0,
    max_batch: int = 64,
) -> Float[Tensor, "B *S"]:
    """How far the score falls where the image is covered, at image size `(B, *S)`; 0 where it rises.

    Each pixel gets the mean fall over the windows that cover it. `window` and `stride` are one number or one for each
    axis in space (an eighth of the image, and half a window, by default); the border cuts off the last window of a row.
    `baseline` is what covers: a number, or a tensor that broadcasts to the images. Forward passes only, at most
    `max_batch` images in each. Source: Zeiler and Fergus 2014.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    >>> occlusion_map(net, torch.rand(3, 1, 4, 4), window=2).shape
    torch.Size([3, 4, 4])
    """
    windows = occlusion_windows(space_of(image_of(images)), window, stride)
    with undisturbed(model, images) as (net, inputs), torch.no_grad():
        pictures = image_of(inputs)
        windows = windows.to(pictures.device)
        cover = torch.as_tensor(baseline, dtype=pictures.dtype, device=pictures.device)
        _, fixed = score_as_given(net, inputs, target, labels)
        with_none = torch.cat([torch.zeros_like(windows[:1]), windows])

        def covered(start: int, stop: int) -> Tensor:
            covers = across_channels(with_none[start:stop, None], pictures)
            return torch.where(covers, cover, pictures.unsqueeze(0))  # (n, B, C, *S)

        count, most = len(with_none), batch_size(pictures, max_batch)
        with quickened_for(net, inputs, count) as layout:
            scores = score_variants(net, inputs, laid_out(covered, layout), count, fixed, labels, max_batch=most)
    falls = (scores[:1] - scores[1:]).to(torch.promote_types(scores.dtype, torch.float32))  # (N, B)
    flat = windows.flatten(1).to(falls)
    mean = torch.where(flat.sum(dim=0) > 0, falls.T @ flat / flat.sum(dim=0).clamp_min(1), 0)
    return mean.relu().reshape(len(pictures), *windows.shape[1:])


def occlusion_windows(
    size: Sequence[int], window: Sides | None = None, stride: Sides | None = None
) -> Bool[Tensor, "N *S"]:
    """Every position of a window on a grid over a space of this size, `(N, *S)`, True where it covers.

    >>> occlusion_windows((3,), 2, 1).int().tolist()
    [[1, 1, 0], [0, 1, 1]]
    """
    sides = _per_axis(window, [max(1, side // 8) for side in size])
    steps = _per_axis(stride, [max(1, side // 2) for side in sides])
    if any(side > room for side, room in zip(sides, size, strict=True)):
        raise MethodError(
            f"An occlusion window of {sides} does not fit into an image of {list(size)}: make it smaller."
        )
    starts = [_starts(*axis) for axis in zip(size, sides, steps, strict=True)]
    windows = torch.zeros(len(list(itertools.product(*starts))), *size, dtype=torch.bool)
    for covered, corner in zip(windows, itertools.product(*starts), strict=True):
        covered[tuple(slice(first, first + side) for first, side in zip(corner, sides, strict=True))] = True
    return windows


def _starts(room: int, side: int, step: int) -> list[int]:
    """Where windows of one axis begin: every `step`, and a last one that is cut off by the border if pixels remain."""
    return list(range(0, room - side + step, step))


def _per_axis(value: Sides | None, default: list[int]) -> list[int]:
    given = default if value is None else [value] * len(default) if isinstance(value, int) else list(value)
    if len(given) != len(default) or any(side < 1 for side in given):
        raise MethodError(
            f"A window or stride is one number >= 1 or one for each of {len(default)} axes, not {value!r}."
        )
    return given
