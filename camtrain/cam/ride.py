"""Riding on a forward pass that somebody else makes: its results stay as they are, and the gradients come with it."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from camtrain.cam.capture import Capture, differentiate
from camtrain.cam.hooks import Hooks
from camtrain.cam.layers import Layer
from camtrain.cam.outputs import find_logits
from camtrain.cam.ownership import usable_in_autograd
from camtrain.cam.recording import GradFlip
from camtrain.cam.targets import Target
from camtrain.errors import CamtrainError

# In evaluation mode these take their fused kernel when gradients are off and the plain one when gradients are on,
# and the two differ in the last bit: a ride would change what the caller gets back.
_TWO_PATHS = (
    nn.MultiheadAttention,
    nn.TransformerEncoderLayer,
    nn.TransformerEncoder,
    nn.TransformerDecoderLayer,
)


class Ride:
    """Hooks around one forward pass of a model, wherever it is called from.

    The *root* is the outermost module that is called on the path from `model` to the layers. It is entered with
    gradients off (the flip at the layers turns them on), the logits are found in its output, and the caller gets that
    output detached, with the values it always had. Of several calls the first counts. `disarm` removes every hook and
    restores the gradient mode, after an exception too.
    """

    def __init__(self, model: nn.Module, layers: Sequence[Layer]) -> None:
        self.layers = tuple(layers)
        self._path = _path(model, self.layers)
        self._hooks, self._flip_hooks = Hooks(), Hooks()
        self._modes = ExitStack()
        self._forget()

    def _forget(self) -> None:
        self.logits: Tensor | None = None
        self._root: nn.Module | None = None
        self._flip = GradFlip(self.layers)
        self._done = False

    def arm(self) -> None:
        """Register the hooks for the next forward pass; what an earlier one left is forgotten."""
        self.disarm()
        self._forget()
        for module in self._path:
            self._hooks.add([module.register_forward_pre_hook(self._enter, prepend=True)])
            self._hooks.add([module.register_forward_hook(self._leave, always_call=True)])

    def disarm(self) -> None:
        """Remove the hooks and restore the gradient mode. Safe to call twice."""
        self._hooks.remove()
        self._flip_hooks.remove()
        self._modes.close()

    def captured(self, target: Target, labels: Tensor | None) -> Capture | None:
        """Activations and gradients of the pass, or None where it could not be ridden on.

        The ride lets go of them and of the graph: a second call returns None.
        """
        if self.logits is None or not self._flip.activations.complete or not self.logits.requires_grad:
            return None
        if getattr(target, "wants_output", False):
            return None  # the rest of the output was given back
        with torch.inference_mode(False), torch.enable_grad():
            labels = usable_in_autograd(labels)
            (captured,) = differentiate(self.logits, (target,), labels, self._flip.activations, self.layers)
        self._forget()
        return captured

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        if self._done or self._root is not None:
            return
        self._root = module
        self._flip_hooks.add(self._flip.handles())
        self._modes.enter_context(torch.inference_mode(False))
        self._modes.enter_context(torch.no_grad())

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        if module is not self._root or self._done:
            return None
        self._done = True
        self._modes.close()
        self._flip_hooks.remove()
        try:
            self.logits = find_logits(output)
        except CamtrainError:
            self.logits = None
        return pytree.tree_map_only(Tensor, Tensor.detach, output)


def can_ride(model: nn.Module) -> bool:
    """Whether the forward pass gives the same bits with gradients on: not so for torch's own attention modules.

    >>> can_ride(nn.Conv2d(3, 4, 1)), can_ride(nn.MultiheadAttention(4, 1))
    (True, False)
    """
    return not any(isinstance(module, _TWO_PATHS) for module in model.modules())


def _path(model: nn.Module, layers: Sequence[Layer]) -> list[nn.Module]:
    """The model and every module on the way to the layers, outermost first, the layers themselves left out."""
    targets = {layer.module for layer in layers}
    above = [m for m in model.modules() if m not in targets and targets & set(m.modules())]
    return above or [model]
