"""Many forward passes of one model, faster: batch normalization folded into convolutions, and channels last.

Both change a logit by rounding alone. They are tried on one image, and left out where the logits differ.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from camtrain.cam.hooks import hooked, swapped
from camtrain.cam.outputs import find_logits
from camtrain.cam.ownership import call
from camtrain.cam.passes import Variants, image_of, with_images
from camtrain.errors import CamtrainError

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
