"""The one hook primitive: hooked, swapped, put back; and what a hook gets hold of."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree


def tensors_of(output: Any) -> list[Tensor]:
    """Every tensor in a layer's output, in order, whatever containers it is in.

    >>> [tuple(tensor.shape) for tensor in tensors_of(([Tensor([0.0])], {"map": Tensor([0.0, 0.0])}, None))]
    [(1,), (2,)]
    """
    if isinstance(output, Tensor):
        return [output]
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


def tensor_at(output: Any, position: int = 0) -> Tensor | None:
    """The tensor at a position among those of a layer's output; None where there are not as many."""
    if isinstance(output, Tensor):
        return output if position == 0 else None
    tensors = tensors_of(output)
    return tensors[position] if position < len(tensors) else None


def replace_at(output: Any, tensor: Tensor, position: int = 0) -> Any:
    """The layer's output with the tensor at a position replaced.

    >>> replace_at(("a", {"b": Tensor([0.0])}), Tensor([1.0]))
    ('a', {'b': tensor([1.])})
    """
    if isinstance(output, Tensor):
        return tensor
    leaves, structure = pytree.tree_flatten(output)
    index = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)][position]
    return pytree.tree_unflatten([*leaves[:index], tensor, *leaves[index + 1 :]], structure)


def first_tensor(output: Any) -> Tensor | None:
    """The first tensor in a layer's output, or None."""
    return tensor_at(output)


def replace_first(output: Any, tensor: Tensor) -> Any:
    """The layer's output with its first tensor replaced."""
    return replace_at(output, tensor)


def is_same(value: Any, other: Tensor | None) -> bool:
    """Whether two tensors are one, or views of the same values.

    >>> x = Tensor([[1.0, 2.0]])
    >>> is_same(x, x.view(1, 2)), is_same(x, x.clone()), is_same(x, x[:, :1])
    (True, False, False)
    """
    if not isinstance(value, Tensor) or other is None or value is other:
        return value is other and other is not None
    alike = value.shape == other.shape and value.dtype == other.dtype and value.device == other.device
    return alike and value.numel() > 0 and value.data_ptr() == other.data_ptr() and value.stride() == other.stride()


def is_step(module: nn.Module) -> bool:
    """Whether a call of the module is Lightning's way through a wrapper, as DDP, to one of its steps.

    In `fit` the strategy calls the wrapper, and the forward that this reaches is for once the step: its arguments are a
    batch and a number. Its own forward runs within, if the step calls it.
    """
    return getattr(module.forward, "__name__", "") == "wrapped_forward"


class Hooks:
    """Hooks of a life that no block encloses; `remove` takes them all away. A copy of their owner has none.

    >>> hooks, net = Hooks(), nn.Identity()
    >>> hooks.add([net.register_forward_hook(print)])
    >>> hooks.remove()
    >>> len(net._forward_hooks)
    0
    """

    def __init__(self) -> None:
        self._handles: list[Any] = []

    def __deepcopy__(self, memo: Any) -> "Hooks":
        return Hooks()

    def __reduce__(self) -> Any:
        return Hooks, ()

    def __len__(self) -> int:
        return len(self._handles)

    def add(self, handles: Iterable[Any]) -> None:
        """Keep hooks while they are registered one by one; after a failure halfway those before it can be removed."""
        for handle in handles:
            self._handles.append(handle)

    def remove(self) -> None:
        """Remove every hook, the last one first. Safe to call twice."""
        while self._handles:
            self._handles.pop().remove()


@contextmanager
def hooked(handles: Iterable[Any]) -> Iterator[None]:
    """Keep the hooks for the duration of the block, and remove each of them afterwards.

    >>> net, seen = nn.Identity(), []
    >>> with hooked([net.register_forward_hook(lambda module, inputs, output: seen.append(output))]):
    ...     _ = net(1)
    >>> seen, len(net._forward_hooks)
    ([1], 0)
    """
    hooks = Hooks()
    try:
        hooks.add(handles)
        yield
    finally:
        hooks.remove()


@contextmanager
def swapped(module: nn.Module, name: str, value: Any) -> Iterator[None]:
    """A module with another attribute of its own, as `forward`, for the duration of the block; then as it was.

    >>> net = nn.Identity()
    >>> with swapped(net, "forward", lambda number: number + 1):
    ...     net(1)
    2
    >>> net(1)
    1
    """
    own = vars(module)
    missing = name not in own
    before = own.get(name)
    own[name] = value
    try:
        yield
    finally:
        if missing:
            del own[name]
        else:
            own[name] = before
