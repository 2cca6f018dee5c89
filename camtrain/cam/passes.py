"""Forward passes over variants of a batch, in calls no larger than a budget of images."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from camtrain.cam.outputs import find_logits
from camtrain.cam.ownership import call, evaluating, isolated, unwrap, usable_in_autograd
from camtrain.cam.targets import Target, score_of, settled
from camtrain.errors import BatchError

Variants = Callable[[int, int], Tensor]  # (start, stop) -> (stop - start, B, C, *S)


@contextmanager
def undisturbed(model: nn.Module, inputs: Any) -> Iterator[tuple[nn.Module, Any]]:
    """The unwrapped model in evaluation mode and inputs usable in autograd; everything is restored on leaving."""
    model = unwrap(model)
    with isolated(model, inputs), evaluating(model):
        yield model, usable_in_autograd(inputs)


def image_of(inputs: Any) -> Tensor:
    """The images among a model's inputs: the first floating tensor of at least three axes.

    A list holds one image `(C, *S)` each, all of one size, as detectors take them.

    >>> image_of((torch.zeros(2, 3, 8, 8), torch.zeros(2, 5))).shape
    torch.Size([2, 3, 8, 8])
    """
    if isinstance(inputs, list):
        return _stacked(inputs)
    for value in _values(inputs):
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim >= 3:
            return value
    raise BatchError(f"No images among the inputs ({type(inputs).__name__}): a floating tensor (B, C, *S) is needed.")


def with_images(inputs: Any, images: Tensor, rows: Tensor) -> Any:
    """The inputs with other images; tensors beside them are repeated by the row of the batch each image came from."""
    if isinstance(inputs, Tensor):
        return images
    if isinstance(inputs, list):
        return list(images)
    original, count = image_of(inputs), len(image_of(inputs))

    def swap(value: Any) -> Any:
        if value is original:
            return images
        follows = isinstance(value, Tensor) and value.ndim > 0 and len(value) == count
        return value[rows.to(value.device)] if follows else value

    if isinstance(inputs, Mapping):
        return {key: swap(value) for key, value in inputs.items()}
    return type(inputs)(swap(value) for value in inputs)


def score_as_given(model: nn.Module, inputs: Any, target: Target, labels: Tensor | None) -> tuple[Tensor, Target]:
    """The scores `(B,)` of the inputs as they are, and the target settled on them."""
    output = call(model, inputs)
    if getattr(target, "wants_output", False):
        return score_of(target, output, labels), target
    logits = find_logits(output)
    return target(logits, labels), settled(target, logits, labels)


def score_variants(
    model: nn.Module,
    inputs: Any,
    variants: Variants,
    count: int,
    target: Target,
    labels: Tensor | None,
    *,
    max_batch: int,
) -> Tensor:
    """Scores `(count, B)` of `count` variants of each image, with at most `max_batch` images in one call of the model.

    `variants(start, stop)` makes the images `(stop - start, B, C, *S)`. The target sees the batch whole, once for each
    variant.
    """
    if max_batch < 1:
        raise BatchError(f"max_batch is the number of images in one call, at least 1, not {max_batch}.")
    size = len(image_of(inputs))
    step = 1 if getattr(target, "wants_output", False) else max(1, max_batch // max(size, 1))
    scores = [
        _scores(model, inputs, variants(start, min(start + step, count)), target, labels, max_batch)
        for start in range(0, count, step)
    ]
    return torch.cat(scores)


def _scores(
    model: nn.Module, inputs: Any, images: Tensor, target: Target, labels: Tensor | None, max_batch: int
) -> Tensor:
    copies, size = images.shape[:2]
    if getattr(target, "wants_output", False):
        return score_of(target, call(model, with_images(inputs, images[0], torch.arange(size))), labels).unsqueeze(0)
    flat, rows = images.flatten(0, 1), torch.arange(size).repeat(copies)
    step = max(1, min(max_batch, len(flat)))
    logits = torch.cat(
        [
            find_logits(call(model, with_images(inputs, flat[i : i + step], rows[i : i + step])))
            for i in range(0, max(len(flat), 1), step)
        ]
    )
    return torch.stack([target(part, labels) for part in logits.chunk(copies)])


def _stacked(images: list[Any]) -> Tensor:
    sizes = {tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__ for image in images}
    if len(sizes) != 1 or not isinstance(images[0], Tensor):
        raise BatchError(
            f"A list of images needs tensors (C, *S) of one size, not {sorted(map(str, sizes))}: resize them."
        )
    return torch.stack(images)


def _values(inputs: Any) -> list[Any]:
    if isinstance(inputs, Mapping):
        return list(inputs.values())
    return list(inputs) if isinstance(inputs, (tuple, list)) else [inputs]
