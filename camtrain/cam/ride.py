"""Riding on a forward pass that somebody else makes: its results stay as they are, and the gradients come with it."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from camtrain.cam.capture import Capture, GradFlip, Targets, differentiate
from camtrain.cam.hooks import Hooks, is_same, is_step
from camtrain.cam.layers import Layer
from camtrain.cam.outputs import answers, find_logits
from camtrain.cam.ownership import Belongings, usable_in_autograd
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
    output detached, with the values it always had. Of several calls that on the batch's own images counts, else the
    first. `disarm` removes every hook and restores the gradient mode, after an exception too.

    That the values are the same is tried once: the first pass is made a second time as the caller makes it. Where they
    differ by a bit (kernels of fused attention depend on gradients), the caller gets those of the plain pass, and from
    then on nothing is ridden on.

    Attributes:
        reason: why nothing is ridden on any more; empty as long as it is.
        root: the module that was called, None where none was.
        given: what it was called with, positional and by name.
        output: what it returned, with its graph; None where there is none.
        logits: those in it; None where there are none.
    """

    def __init__(self, model: nn.Module, layers: Sequence[Layer]) -> None:
        self.layers = tuple(layers)
        self._path = _path(model, self.layers)
        self._audible = self.audible(model)
        self._hooks, self._flip_hooks = Hooks(), Hooks()
        self._modes = ExitStack()
        self._images: Tensor | None = None
        self._listens = self._tried = False
        self.reason = ""
        self.forget()

    @staticmethod
    def audible(model: nn.Module) -> set[nn.Module]:
        """The parts that hooks may listen to without changing a bit: torch's own attention has a path for hooks.

        >>> [type(part).__name__ for part in Ride.audible(nn.Sequential(nn.TransformerEncoderLayer(4, 1)))]
        ['Sequential']
        """
        silent = {part for module in model.modules() if isinstance(module, _TWO_PATHS) for part in module.modules()}
        return {module for module in model.modules() if module not in silent}

    def forget(self) -> None:
        """Let go of what was seen."""
        self.root: nn.Module | None = None
        self.given: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
        self.output: Any = None
        self.logits: Tensor | None = None
        self._flip = GradFlip(self.layers)
        self._done = self._took_own = False

    def arm(self, images: Tensor | None = None, *, listen: bool = False) -> None:
        """Register the hooks for the next forward pass; what an earlier one left is forgotten.

        Args:
            images: the batch's own.
            listen: only note which module is called with what, and leave the pass alone.
        """
        self.disarm()
        self.forget()
        self._images, self._listens = images, listen or bool(self.reason)
        for module in self._path:
            if self._listens and module not in self._audible:
                continue
            self._hooks.add([module.register_forward_pre_hook(self._enter, prepend=True, with_kwargs=True)])
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
        captures = self.captured_each((target,), labels)
        return None if captures is None else captures[0]

    def captured_each(self, targets: Targets, labels: Tensor | None = None) -> tuple[Capture, ...] | None:
        """The same for several targets, or for those that a function of the output names."""
        tensors = [] if self.output is None else answers(self.output)
        if not self._flip.activations.complete or not any(tensor.requires_grad for tensor in tensors):
            return None
        with torch.inference_mode(False), torch.enable_grad():
            labels = usable_in_autograd(labels)
            captures = differentiate(self.output, targets, labels, self._flip.activations, self.layers)
        self.output, self.logits, self._flip = None, None, GradFlip(self.layers)
        return captures

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if (self.root is not None and not self._done) or is_step(module):
            return None  # within the root, or not yet at it
        own = any(is_same(tensor, self._images) for tensor in pytree.tree_leaves((args, kwargs)))
        if self._done and (self._took_own or not own):
            return None
        self.forget()
        self.root, self.given, self._took_own = module, (args, kwargs), own
        if self._listens:
            return None
        self._flip_hooks.add(self._flip.handles())
        self._modes.enter_context(torch.inference_mode(False))
        self._modes.enter_context(torch.no_grad())
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not any(tensor.is_inference() for tensor in tensors):
            return None
        # What is made within may need them for a gradient, as a loss that the module computes itself.
        return pytree.tree_map_only(Tensor, usable_in_autograd, (args, kwargs))

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        if module is not self.root or self._done:
            return None
        self._done = True
        if self._listens:
            return None
        self._modes.close()
        self._flip_hooks.remove()
        Belongings(module).detach()
        try:
            self.logits = find_logits(output)
        except CamtrainError:
            self.logits = None
        self.output = output
        detached = pytree.tree_map_only(Tensor, Tensor.detach, output)
        return detached if self._tried or not answers(output) else self._try_plain(module, detached)

    def _try_plain(self, module: nn.Module, ridden: Any) -> Any:
        """The ridden output if a plain pass gives its bits, else that of the plain pass."""
        self._tried = True
        plain = _run_again(module, *self.given)
        difference = _difference(answers(plain), answers(ridden))
        if difference == 0:
            return ridden
        self.reason = f"its logits differ by {difference:.2g} with gradients on"
        self.output = self.logits = None
        return plain if difference <= _ROUNDING else ridden


_ROUNDING = 1e-2  # beyond, it is no rounding: the second pass is another one, as of a model that keeps state


def _run_again(module: nn.Module, args: Any, kwargs: Any) -> Any:
    """What the module returns in the modes that its caller is in; nothing is left behind."""
    belongings = Belongings(module)
    devices = {t.device.index or 0 for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor) and t.is_cuda}
    try:
        with torch.random.fork_rng(devices=sorted(devices)):
            return module.forward(*args, **kwargs)
    finally:
        belongings.put_back()


def _difference(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """The largest difference of tensors; 0 only where all bits are the same, NaN counting as itself."""
    if [each.shape for each in first] != [each.shape for each in second]:
        return float("inf")
    return max((_largest(a, b) for a, b in zip(first, second, strict=True)), default=0.0)


def _largest(first: Tensor, second: Tensor) -> float:
    same = (first == second) | (first.isnan() & second.isnan())
    return 0.0 if bool(same.all()) else float((first - second).abs().nan_to_num(nan=torch.inf).max())


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
