"""Forward hooks: what they get hold of, and who removes them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor


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


@contextmanager
def hooked(handles: Iterable[Any]) -> Iterator[None]:
    """Keep the hooks for the duration of the block, and remove each of them afterwards."""
    registered = []
    try:
        for handle in handles:
            registered.append(handle)  # noqa: PERF402  a failure halfway must remove those before it
        yield
    finally:
        for handle in registered:
            handle.remove()
