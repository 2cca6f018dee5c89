"""Whoever changes something puts it back: modes, random state, compiled calls; and whose memory values lie in."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, cast
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.utils import checkpoint

from camtrain.errors import ConfigurationError


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """The model in evaluation mode; on leaving, every module has the flag it had.

    >>> net = nn.Sequential(nn.Dropout()).train()
    >>> with evaluating(net):
    ...     net[0].training
    False
    >>> net[0].training
    True
    """
    modes = [(module, module.training) for module in model.modules() if module.training]
    try:
        if modes:
            model.eval()
        yield model
    finally:
        for module, mode in modes:
            module.training = mode


def unwrap(model: nn.Module) -> nn.Module:
    """The user's own module under `torch.compile` and distributed wrappers. DataParallel is refused.

    >>> net = nn.Conv2d(3, 4, 1)
    >>> unwrap(torch.compile(net)) is net
    True
    """
    while True:
        if isinstance(model, nn.DataParallel):
            raise ConfigurationError(
                "DataParallel replicates the model at every call, so its hooks see nothing: pass model.module."
            )
        if hasattr(model, "_orig_mod"):  # torch.compile
            model = cast(nn.Module, model._orig_mod)
        elif type(model).__name__ in ("DistributedDataParallel", "FullyShardedDataParallel"):
            model = cast(nn.Module, model.module)
        else:
            return model


def part_named(module: nn.Module, model: str | nn.Module) -> tuple[str, nn.Module]:
    """The part of a module that `model` names or is, unwrapped, with its name: the rule of every `model=`.

    ConfigurationError where there is no such part.

    >>> part_named(nn.Sequential(nn.Flatten(), nn.Linear(1, 2)), "1")
    ('1', Linear(in_features=1, out_features=2, bias=True))
    """
    for name, part in module.named_modules(remove_duplicate=False):
        if name == model or part is model:
            return name, unwrap(part)
    text = repr(model) if isinstance(model, str) else type(model).__name__
    children = ", ".join(name for name, _ in module.named_children())
    raise ConfigurationError(f"model={text} is no submodule of {type(module).__name__}, which has: {children}.")


def is_compiled(model: nn.Module) -> bool:
    """Whether a module or a part of it runs under `torch.compile`.

    >>> is_compiled(nn.Linear(1, 1)), is_compiled(nn.Sequential(torch.compile(nn.Linear(1, 1))))
    (False, True)
    """
    return any(m._compiled_call_impl is not None or "_orig_mod" in m._modules for m in model.modules())


@contextmanager
def isolated(model: nn.Module, inputs: Any = None) -> Iterator[None]:
    """A forward pass that leaves nothing behind and in which hooks see everything.

    The random state and what modules keep for themselves (caches, counters) are restored on leaving; inference mode is
    left; compiled calls run eagerly and checkpointed ones in one go, so that hooks fire once; autocast keeps no weights
    cast without a graph for the training step around it.
    """
    devices = {t.device.index or 0 for t in _tensors(inputs) if t.device.type == "cuda"}
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=sorted(devices)))
        stack.callback(Belongings(model).put_back)
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(_without_autocast_cache())
        stack.enter_context(_without_checkpointing())
        if is_compiled(model):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


class Belongings:
    """What the modules of a model keep for themselves beside parameters: attributes, contents of containers, buffers.

    A forward pass may fill caches (the attention biases of a LeViT in evaluation mode). Filled in our pass they are in
    a graph, and the model could not be copied any more, as averaging of weights does.

    >>> net = nn.Identity()
    >>> belongings = Belongings(net)
    >>> net.cache = torch.zeros(1)
    >>> belongings.put_back()
    >>> hasattr(net, "cache")
    False
    """

    def __init__(self, model: nn.Module) -> None:
        modules = [module for module in model.modules() if not isinstance(module, LazyModuleMixin)]
        self._before = [(module, _own(module), dict(module._buffers)) for module in modules]
        self._contents = [
            (value, copy.copy(value))
            for _, own, _ in self._before
            for value in own.values()
            if type(value) in (dict, list, set)
        ]

    def put_back(self) -> None:
        """Everything as it was: what is new goes, what was exchanged comes back."""
        for module, own, buffers in self._before:
            now = vars(module)
            for name in [name for name in now if name not in own and name not in _EVERY_MODULE_HAS]:
                del now[name]
            now.update(own)
            if any(module._buffers.get(name) is not buffer for name, buffer in buffers.items()):
                module._buffers.update(buffers)
        for container, content in self._contents:
            if container is not content and (container or content):
                container.clear()
                container.extend(content) if isinstance(container, list) else container.update(content)

    def detach(self) -> None:
        """Everything as it is now, but no cached tensor is part of a graph."""
        for module, *_ in self._before:
            for name, value in _own(module).items():
                if isinstance(value, Tensor) and value.grad_fn is not None:
                    vars(module)[name] = value.detach()
                elif type(value) is dict:
                    value.update({key: item.detach() for key, item in value.items() if _in_graph(item)})


def _in_graph(value: Any) -> bool:
    return isinstance(value, Tensor) and value.grad_fn is not None


_EVERY_MODULE_HAS = frozenset(vars(nn.Module()))


def _own(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name not in _EVERY_MODULE_HAS}


@contextmanager
def _without_autocast_cache() -> Iterator[None]:
    enabled = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(enabled)


@contextmanager
def _without_checkpointing() -> Iterator[None]:
    def run(function: Any, preserve_rng_state: bool, *inputs: Any) -> Any:
        return function(*inputs)

    def straight(*_: Any, **__: Any) -> Iterator[None]:
        yield

    with ExitStack() as stack:
        for name in ("_checkpoint_without_reentrant_generator", "_checkpoint_without_reentrant_generator_impl"):
            if hasattr(checkpoint, name):
                stack.enter_context(mock.patch.object(checkpoint, name, straight))
        stack.enter_context(mock.patch.object(checkpoint.CheckpointFunction, "apply", run))
        yield


def _tensors(inputs: Any) -> list[Tensor]:
    if isinstance(inputs, Tensor):
        return [inputs]
    values = inputs.values() if isinstance(inputs, Mapping) else inputs if isinstance(inputs, (tuple, list)) else ()
    return [tensor for value in values for tensor in _tensors(value)]


def usable_in_autograd(inputs: Any) -> Any:
    """The inputs with every inference tensor cloned into an ordinary one."""
    if isinstance(inputs, Tensor):
        return inputs.clone() if inputs.is_inference() else inputs
    if isinstance(inputs, Mapping):
        return {key: usable_in_autograd(value) for key, value in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        return type(inputs)(usable_in_autograd(value) for value in inputs)
    return inputs


def call(model: nn.Module, inputs: Any) -> Any:
    """`model(inputs)`; a tuple is passed as positional, a mapping as keyword arguments."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def are_at_hand(values: Tensor) -> bool:
    """Whether values lie in the host's own memory, where a look at them waits for nobody.

    >>> import torch
    >>> are_at_hand(torch.ones(1))
    True
    """
    return values.device.type == "cpu"
