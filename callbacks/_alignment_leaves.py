"""Where all that feeds a layer is frozen, the graph starts at its output: in a checkpoint's second forward as well."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from camtrain.cam import Layer
from camtrain.cam.hooks import first_tensor, replace_first


class Leaves:
    """Outputs of frozen layers, made leaves once the recording is over, as it made them before.

    Activation checkpointing computes them again in the backward pass, and would save another number of tensors.

    >>> layer = Layer("0", nn.Conv2d(1, 1, 1).requires_grad_(False))
    >>> leaves = Leaves()
    >>> leaves.start([layer], [torch.ones(1, 1, 2, 2, requires_grad=True)])
    >>> leaves.stop()
    """

    def __init__(self) -> None:
        self._hooks: list[RemovableHandle] = []

    def __deepcopy__(self, memo: Any) -> "Leaves":
        return Leaves()

    def __reduce__(self) -> Any:
        return Leaves, ()

    def start(self, layers: Sequence[Layer], activations: Sequence[Tensor]) -> None:
        """Watch the layers whose recorded activations are leaves."""
        self.stop()
        frozen = [layer for layer, activation in zip(layers, activations, strict=True) if activation.is_leaf]
        self._hooks = [layer.module.register_forward_hook(self._make_leaf) for layer in frozen]

    def stop(self) -> None:
        """Leave the layers as they were."""
        while self._hooks:
            self._hooks.pop().remove()

    def _make_leaf(self, module: nn.Module, args: Any, output: Any) -> Any:
        tensor = first_tensor(output)
        if tensor is None or tensor.requires_grad or not (torch.is_grad_enabled() and tensor.is_floating_point()):
            return None
        return replace_first(output, tensor.detach().requires_grad_().clone())
