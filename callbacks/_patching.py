"""Methods replaced on one instance, and put back."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_MISSING = object()


class _Patched:
    """Calls `around(original, ...)`, and shows the original's signature to those who ask, as Lightning does.

    In a copy of the instance, or one that is loaded from a file, the method is the class's own again.
    """

    def __init__(self, instance: Any, name: str, around: Callable[..., Any]) -> None:
        self.instance, self.name, self.around = instance, name, around
        self.original: Callable[..., Any] = getattr(instance, name)
        self.before: Any = vars(instance).get(name, _MISSING)
        functools.update_wrapper(self, self.original, updated=())  # not the fields of a patch below

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.around(self.original, *args, **kwargs)

    @property
    def __code__(self) -> Any:
        return self.original.__code__

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = memo.get(id(self.instance))
        return self if copied is None else _own_method(copied, self.name)

    def __reduce__(self) -> Any:
        return _own_method, (self.instance, self.name)


def _own_method(instance: Any, name: str) -> Any:
    return getattr(type(instance), name).__get__(instance)


def patch(instance: Any, name: str, around: Callable[..., Any]) -> Callable[[], None]:
    """Have `instance.name(...)` call `around(original, ...)`; returns what puts the original back.

    Of several patches of one method any may be taken back first.
    """
    wrapper = _Patched(instance, name, around)

    def restore() -> None:
        above = vars(instance).get(name)
        if above is wrapper and wrapper.before is _MISSING:
            delattr(instance, name)
        elif above is wrapper:
            setattr(instance, name, wrapper.before)
        while isinstance(above, _Patched):
            if above.before is wrapper:
                above.original, above.before = wrapper.original, wrapper.before
            above = above.before

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
