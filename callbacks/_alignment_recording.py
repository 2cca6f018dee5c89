"""What a training step calls: activations, and the call whose output holds the logits."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from camtrain.cam import Activations, Layer, find_logits, record_activations
from camtrain.errors import BatchError, ConfigurationError, LayerError


@dataclass(frozen=True)
class Call:
    """One call that the step itself made: the module, what went in and came out, and the activations known by then."""

    name: str
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any
    activations: tuple[Tensor, ...]

    @property
    def logits(self) -> Tensor:
        """The `(B, C)` tensor in the output. BatchError if there is none."""
        return find_logits(self.output)


class Calls:
    """The calls that a step makes to a module's parts, without those that happen inside another call."""

    def __init__(self, activations: Any) -> None:  # a run-time check of `Activations` would index it unfilled
        self.activations: Activations = activations
        self.made: list[Call] = []
        self._depth = 0

    def enter(self, module: nn.Module, args: Any) -> None:
        """A forward pre-hook."""
        self._depth += 1

    def leaving(self, name: str) -> Callable[..., None]:
        """A forward hook for the module of that name."""

        def hook(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            self._depth -= 1
            if self._depth == 0 and self.activations.complete:
                self.made.append(Call(name, module, args, kwargs, output, tuple(self.activations)))

        return hook


@contextmanager
def recording(modules: dict[str, nn.Module], layers: Sequence[Layer]) -> Iterator[Calls]:
    """Record the outermost calls of some modules, and the activations of the layers; every hook goes at the end."""
    with record_activations(layers) as activations, ExitStack() as stack:
        calls = Calls(activations)
        for name, module in modules.items():
            stack.callback(module.register_forward_pre_hook(calls.enter).remove)
            stack.callback(module.register_forward_hook(calls.leaving(name), with_kwargs=True).remove)
        yield calls


def logits_call(calls: Calls) -> Call:
    """The call whose output holds the logits: the last in a chain such as backbone, then head.

    Raises LayerError where a layer was not reached, ConfigurationError where no call or more than one qualifies.
    """
    if not calls.activations.complete:
        list(calls.activations)  # raises, naming the layer
    found = list({call.module: call for call in calls.made if _holds_logits(call)}.values())
    if len(found) > 1:
        found = [call for call in found if any(depends_on(call.logits, a) for a in call.activations)]
        found = [call for call in found if not any(_feeds(call, other) for other in found)]
    if len(found) == 1:
        return found[0]
    called = ", ".join(repr(call.name or "the module itself") for call in found or calls.made) or "none"
    raise ConfigurationError(
        f"The training step must call one module that returns logits (B, C) after the layer; it called "
        f"{'several' if found else 'none'} ({called}). Name the one to read with model='...'."
    )


def _holds_logits(call: Call) -> bool:
    try:
        logits = call.logits
    except BatchError:
        return False
    return logits.ndim == 2 and logits.is_floating_point() and logits.requires_grad


def _feeds(call: Call, other: Call) -> bool:
    return other is not call and depends_on(other.logits, call.logits)


def depends_on(tensor: Tensor, source: Tensor) -> bool:
    """Whether a tensor's graph holds the node that made another, or starts at it.

    >>> import torch
    >>> a = torch.ones(2, requires_grad=True) * 2
    >>> depends_on(a.sum(), a), depends_on(a, a.sum())
    (True, False)
    """
    seen, stack = set(), [tensor.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        if node is source.grad_fn or getattr(node, "variable", None) is source:
            return True
        seen.add(node)
        stack.extend(parent for parent, _ in node.next_functions)
    return False


def named_module(pl_module: nn.Module, model: str | nn.Module) -> dict[str, nn.Module]:
    """The module that `model` names, or is. LayerError if the LightningModule has no such part."""
    for name, module in pl_module.named_modules():
        if model in (name, module):
            return {name: module}
    shown = repr(model) if isinstance(model, str) else type(model).__name__
    parts = ", ".join(repr(name) for name, _ in pl_module.named_children())
    raise LayerError(f"model={shown} is no part of {type(pl_module).__name__}, which holds {parts}.")
