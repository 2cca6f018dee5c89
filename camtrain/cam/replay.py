"""Running the part of a model after a layer again, with other activations, without the part before it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from camtrain.cam.hooks import hooked, replace_at, swapped, tensor_at
from camtrain.cam.layers import Layer
from camtrain.cam.outputs import find_logits
from camtrain.cam.ownership import call
from camtrain.cam.passes import image_of, with_images


@dataclass
class ReplayedCalls:
    """What a module returned at each call, and which of these calls can be answered from memory."""

    outputs: list[Any] = field(default_factory=list)
    finished: list[int] = field(default_factory=list)  # the position of the call's end among all calls
    live: list[bool] = field(default_factory=list)  # it changed its input in place: it must be run


class Replay:
    """A recorded forward pass that can be run again with another output of the layer's last use.

    The outermost modules that finish before the layer answer from memory, copied for each variant, so that only what
    follows the layer is computed. Whether this gives the model's own result is checked: `exact`. If not (a model that
    keeps state, or an unusual layout of the batch), the whole forward runs each time.
    """

    def __init__(self, model: nn.Module, inputs: Any, layer: Layer) -> None:
        self.model, self.inputs, self.layer = model, inputs, layer
        self.size = len(image_of(inputs))
        self.calls = {module: ReplayedCalls() for module in [layer.module, *_outermost(model, layer.module)]}
        self._ended = 0
        with hooked(self._recorders()):
            self.output = call(model, inputs)
        self.last = self.calls[layer.module].finished[-1]
        self.activations = _required(tensor_at(self.calls[layer.module].outputs[-1], layer.position))
        self.exact = self._reproduces()

    def run(self, activations: Tensor) -> Any:
        """The model's output for `(n * B, ...)` activations, variant after variant of the batch."""
        rows = torch.arange(self.size).repeat(len(activations) // max(self.size, 1))
        given = with_images(self.inputs, image_of(self.inputs)[rows], rows)
        modules = self.calls if self.exact else [self.layer.module]
        with ExitStack() as stack:
            for module in modules:
                stack.enter_context(swapped(module, "forward", self._answers(module, activations, rows)))
            return call(self.model, given)

    def _reproduces(self) -> bool:
        self.exact = True
        try:
            expected = find_logits(self.output)
            found = find_logits(self.run(torch.cat([self.activations, self.activations])))
        except (RuntimeError, IndexError, ValueError, TypeError):
            return False
        largest = float(expected.abs().max()) if expected.numel() else 0.0
        tolerance = 10 * torch.finfo(expected.dtype).eps ** 0.75 * largest
        return torch.allclose(found, torch.cat([expected, expected]), rtol=0, atol=tolerance)

    def _answers(self, module: nn.Module, activations: Tensor, rows: Tensor) -> Callable[..., Any]:
        calls, original, position = self.calls[module], module.forward, iter(range(10**9))

        def forward(*args: Any, **kwargs: Any) -> Any:
            index = next(position)
            known = index < len(calls.outputs)
            if module is self.layer.module and known and calls.finished[index] == self.last:
                return replace_at(_copied(calls.outputs[index], rows, self.size), activations, self.layer.position)
            if not known or not self.exact or calls.live[index] or calls.finished[index] > self.last:
                return original(*args, **kwargs)
            return _copied(calls.outputs[index], rows, self.size)

        return forward

    def _recorders(self) -> Iterator[Any]:
        versions: list[list[int]] = []

        def enter(module: nn.Module, args: Any) -> None:
            versions.append([tensor._version for tensor in _tensors(args)])

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            calls = self.calls[module]
            calls.outputs.append(pytree.tree_map_only(Tensor, Tensor.clone, output))
            calls.finished.append(self._ended)
            calls.live.append(versions.pop() != [tensor._version for tensor in _tensors(args)])
            self._ended += 1

        for module in self.calls:
            yield module.register_forward_pre_hook(enter)
            yield module.register_forward_hook(leave)


def _outermost(model: nn.Module, layer: nn.Module) -> list[nn.Module]:
    """The largest modules that do not hold the layer."""
    holders = [module for module in model.modules() if module is not layer and layer in set(module.modules())]
    children = {child: None for holder in holders for child in holder.children()}
    plain = (m for m in children if m not in holders and m is not layer)
    return [module for module in plain if not isinstance(module, torch.jit.ScriptModule)]


def _copied(output: Any, rows: Tensor, size: int) -> Any:
    """Every tensor of an output with its rows repeated; those of another length are cloned."""

    def copy(tensor: Tensor) -> Tensor:
        follows = tensor.ndim > 0 and len(tensor) == size
        return tensor[rows.to(tensor.device)] if follows else tensor.clone()

    return pytree.tree_map_only(Tensor, copy, output)


def _tensors(values: Sequence[Any]) -> list[Tensor]:
    return [value for value in pytree.tree_leaves(values) if isinstance(value, Tensor)]


def _required(tensor: Tensor | None) -> Tensor:
    if tensor is None:
        raise TypeError("The layer returned no tensor.")
    return tensor
