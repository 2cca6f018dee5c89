"""Many forward passes: over variants of a batch, in calls no larger than a budget of images, and each of them cheap."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from camtrain.cam.hooks import hooked, swapped
from camtrain.cam.outputs import find_logits
from camtrain.cam.ownership import call, evaluating, isolated, unwrap, usable_in_autograd
from camtrain.cam.targets import Target, score_of, settled
from camtrain.errors import BatchError, CamtrainError

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


Layout = Callable[[Tensor], Tensor]
Pair = tuple[nn.Module, nn.Module]
TOLERANCE = 1e-4  # of the largest logit
QUICKEN_FROM = 64  # forwards; below, finding out how costs more than it saves
CPU_PIXELS = 2**19  # in one forward pass on a CPU: what stays in its cache is done sooner (ten images of 224 x 224)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@contextmanager
def quickened(model: nn.Module, inputs: Any) -> Iterator[Layout]:
    """Forward passes of a model in evaluation mode cost less within; gives the layout that images should have.

    The modules' parameters and buffers are not touched, and nothing is left on leaving.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2)).eval()
    >>> images = torch.rand(2, 3, 4, 4)
    >>> with torch.no_grad(), quickened(net, images) as layout:
    ...     inside = net(layout(images))
    >>> torch.allclose(inside, net(images), atol=1e-5), "forward" in vars(net[1])
    (True, False)
    """
    pictures = image_of(inputs)
    if len(pictures) == 0:
        yield _as_given
        return
    one = with_images(inputs, pictures[:1], torch.zeros(1, dtype=torch.long))
    expected, pairs = _observed(model, one)
    layouts = [_channels_last, _as_given] if pictures.ndim == 4 and pictures.device.type == "cpu" else [_as_given]
    ways = [(found, layout) for found in ([pairs, []] if pairs else [[]]) for layout in layouts]
    for found, layout in ways:
        with _folded(found):
            if (not found and layout is _as_given) or _agrees(model, one, layout, expected):
                yield layout
                return


@contextmanager
def quickened_for(model: nn.Module, inputs: Any, variants: int) -> Iterator[Layout]:
    """`quickened` where so many variants of each image are worth it; the model and the layout as they are otherwise."""
    if variants * len(image_of(inputs)) < QUICKEN_FROM:
        yield _as_given
        return
    with quickened(model, inputs) as layout:
        yield layout


def laid_out(variants: Variants, layout: Layout) -> Variants:
    """The variants `(n, B, C, *S)` in the layout that the model takes them in."""

    def arranged(start: int, stop: int) -> Tensor:
        made = variants(start, stop)
        return layout(made.flatten(0, 1)).view(made.shape)

    return arranged


def batch_size(images: Tensor, most: int) -> int:
    """How many of these images to run in one pass, at most `most`: on a CPU as many as stay in its cache.

    >>> batch_size(torch.zeros(1, 3, 224, 224), 64), batch_size(torch.zeros(1, 3, 8, 8), 64)
    (10, 64)
    """
    pixels = max(1, images[0, 0].numel()) if images.numel() else 1
    return most if images.device.type != "cpu" else min(most, max(1, CPU_PIXELS // pixels))


def _as_given(images: Tensor) -> Tensor:
    return images


def _channels_last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)


def _agrees(model: nn.Module, one: Any, layout: Layout, expected: Tensor | None) -> bool:
    """Whether one image gives the same logits; a model may refuse another layout, as one that calls `view`.

    Of logits that are not finite nothing can be told.
    """
    if expected is None or not bool(expected.isfinite().all()):
        return False
    try:
        found = _logits(model, with_images(one, layout(image_of(one)), torch.zeros(1, dtype=torch.long)))
    except RuntimeError:
        return False
    return found is not None and bool(
        torch.allclose(found, expected, rtol=0, atol=TOLERANCE * float(expected.abs().max()))
    )


def _logits(model: nn.Module, one: Any) -> Tensor | None:
    output = call(model, one)
    try:
        return find_logits(output)
    except CamtrainError:
        return None


def _observed(model: nn.Module, one: Any) -> tuple[Tensor | None, list[Pair]]:
    """The logits of one image, and each convolution whose output went into a batch normalization, once and at rest."""
    made: dict[int, tuple[nn.Module, Tensor]] = {}
    pairs: list[Pair] = []
    calls: list[nn.Module] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
        made[id(output)] = (module, output)  # the output is held, so that its id is not given away
        calls.append(module)

    def match(module: nn.Module, inputs: Any) -> None:
        calls.append(module)
        if id(inputs[0]) in made:
            pairs.append((made[id(inputs[0])][0], module))

    plain = [module for module in model.modules() if _is_plain(module)]
    outputs = (m.register_forward_hook(keep) for m in plain if type(m) in _CONVOLUTIONS)
    inputs = (m.register_forward_pre_hook(match) for m in plain if type(m) in _NORMS)
    with hooked(chain(outputs, inputs)):
        expected = _logits(model, one)
    return expected, [pair for pair in pairs if all(calls.count(module) == 1 for module in pair)]


def _is_plain(module: nn.Module) -> bool:
    """Nobody watches it or has changed its call."""
    watched = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    return not watched and not module.training


@contextmanager
def _folded(pairs: Sequence[Pair]) -> Iterator[None]:
    with ExitStack() as stack:
        for convolution, norm in pairs:
            if getattr(norm, "running_mean", None) is not None:
                stack.enter_context(swapped(convolution, "forward", _with_norm(convolution, norm)))
                stack.enter_context(swapped(norm, "forward", _as_given))
        yield


def _with_norm(convolution: Any, norm: Any) -> Layout:
    weight, bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
    return lambda images: convolution._conv_forward(images, weight, bias)
