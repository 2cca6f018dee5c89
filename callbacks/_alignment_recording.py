"""What a training step calls: activations, and the call whose output holds the logits."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

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

    @property
    def tensors(self) -> list[Tensor]:
        """Those that the module was given."""
        return [v for v in pytree.tree_leaves((self.args, self.kwargs)) if isinstance(v, Tensor)]

    def took(self, tensors: Sequence[Tensor], *, all_of_them: bool = False) -> bool:
        """Whether the module was given any of these; or all of them."""
        known = [any(is_same(mine, tensor) for mine in self.tensors) for tensor in tensors]
        return all(known) if all_of_them else any(known)


class Calls:
    """The calls that a step makes to a module's parts, without those that happen inside another call.

    A copy of a network that is made meanwhile (a moving average of it) has hooks too; they do nothing.
    """

    def __init__(self, activations: Any) -> None:  # a run-time check of `Activations` would index it unfilled
        self.activations: Activations = activations
        self.made: list[Call] = []
        self.depth = 0


class _Entering:
    """A forward pre-hook."""

    def __init__(self, calls: Calls | None) -> None:
        self.calls = calls

    def __deepcopy__(self, memo: Any) -> "_Entering":
        return _Entering(None)

    def __reduce__(self) -> Any:
        return _Entering, (None,)

    def __call__(self, module: nn.Module, args: Any) -> None:
        if self.calls is not None:
            self.calls.depth += 1


class _Leaving:
    """A forward hook for the module of that name; also after a forward that raised."""

    def __init__(self, calls: Calls | None, name: str) -> None:
        self.calls, self.name = calls, name

    def __deepcopy__(self, memo: Any) -> "_Leaving":
        return _Leaving(None, self.name)

    def __reduce__(self) -> Any:
        return _Leaving, (None, self.name)

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        calls = self.calls
        if calls is None:
            return
        calls.depth -= 1
        if calls.depth == 0 and calls.activations.complete:
            calls.made.append(Call(self.name, module, args, kwargs, output, tuple(calls.activations)))


@contextmanager
def recording(modules: dict[str, nn.Module], layers: Sequence[Layer]) -> Iterator[Calls]:
    """Record the outermost calls of some modules, and the activations of the layers; every hook goes at the end."""
    with record_activations(layers) as activations, ExitStack() as stack:
        calls = Calls(activations)
        for name, module in modules.items():
            stack.callback(module.register_forward_pre_hook(_Entering(calls)).remove)
            leaving = module.register_forward_hook(_Leaving(calls, name), with_kwargs=True, always_call=True)
            stack.callback(leaving.remove)
        yield calls


def logits_call(calls: Calls, own: Sequence[Tensor] = (), rows: int | None = None) -> Call:
    """The call whose output holds the logits: the last in a chain such as backbone, then head.

    Of several calls of one module it is that which was given one of the batch's `own` tensors; else the last, if all
    those with so many `rows` of logits were given the same tensors.

    Raises LayerError where a layer was not reached, ConfigurationError where no call or more than one qualifies.
    """
    if not calls.activations.complete:
        list(calls.activations)  # raises, naming the layer
    by_module: dict[nn.Module, list[Call]] = {}
    for call in filter(holds_logits, calls.made):
        by_module.setdefault(call.module, []).append(call)
    found = [_one_of(made, own, rows) for made in by_module.values()]
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


def _one_of(made: Sequence[Call], own: Sequence[Tensor], rows: int | None) -> Call:
    """The call to read among those of one module."""
    given = [call for call in made if call.took(own)]
    if given:
        return given[-1]
    fitting = [call for call in made if rows is None or len(call.logits) == rows]
    if any(not fitting[-1].took(call.tensors, all_of_them=True) for call in fitting[:-1]):
        name = fitting[-1].name or "the module itself"
        raise ConfigurationError(
            f"The training step calls {name!r} {len(fitting)} times on {rows} images each, none of them the batch's "
            "own tensor, so that it is not known which of them the masks belong to. Give one call the images as they "
            "are in the batch: normalize and augment in the data set, or in on_after_batch_transfer."
        )
    return (fitting or made)[-1]


def holds_own(calls: Calls, own: Sequence[Tensor]) -> bool:
    """Whether any call that returned logits was given one of the batch's own tensors."""
    return any(call.took(own) for call in calls.made if holds_logits(call))


def is_same(value: Tensor, other: Tensor) -> bool:
    """Whether two tensors are one, or views of the same values.

    >>> import torch
    >>> x = torch.rand(2, 3)
    >>> is_same(x, x.view(2, 3)), is_same(x, x.clone()), is_same(x, x[:1])
    (True, False, False)
    """
    if value is other:
        return True
    alike = value.shape == other.shape and value.dtype == other.dtype and value.device == other.device
    return alike and value.numel() > 0 and value.data_ptr() == other.data_ptr() and value.stride() == other.stride()


def holds_logits(call: Call) -> bool:
    """Whether its output holds logits `(B, C)` that a gradient leads from."""
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
