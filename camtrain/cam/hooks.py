"""The one hook primitive: hooked, swapped, put back; and what a hook gets hold of."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


def first_tensor(output: Any) -> Tensor | None:
    """The tensor in a layer's output: itself, or the first one of a tuple."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor):
        return output[0]
    return None


def replace_first(output: Any, tensor: Tensor) -> Any:
    """The layer's output with its first tensor replaced."""
    if isinstance(output, Tensor):
        return tensor
    return type(output)([tensor, *output[1:]]) if type(output) in (tuple, list) else type(output)(tensor, *output[1:])


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
