"""Methods replaced on one instance, and put back."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

_MISSING = object()


def patch(instance: Any, name: str, around: Callable[..., Any]) -> Callable[[], None]:
    """Have `instance.name(...)` call `around(original, ...)`; returns what puts the original back.

    The wrapper shows the original's signature to those who ask, as Lightning does. Of several patches of one method any
    may be taken back first.
    """
    below = {"original": getattr(instance, name), "before": vars(instance).get(name, _MISSING)}

    @functools.wraps(below["original"])
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return around(below["original"], *args, **kwargs)

    def restore() -> None:
        above = vars(instance).get(name)
        if above is wrapper and below["before"] is _MISSING:
            delattr(instance, name)
        elif above is wrapper:
            setattr(instance, name, below["before"])
        while hasattr(above, "camtrain_below"):
            if above.camtrain_below["before"] is wrapper:
                above.camtrain_below.update(below)
            above = above.camtrain_below["before"]

    wrapper.camtrain_below = below  # type: ignore[attr-defined]
    setattr(instance, name, wrapper)
    return restore


@contextmanager
def patched(instance: Any, name: str, around: Callable[..., Any]) -> Iterator[None]:
    """`patch` for the duration of a block."""
    restore = patch(instance, name, around)
    try:
        yield
    finally:
        restore()


@contextmanager
def eager() -> Iterator[None]:
    """Run compiled code eagerly, so that hooks fire and gradients can be differentiated twice."""
    with torch.compiler.set_stance("force_eager"):
        yield
