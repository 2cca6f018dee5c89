"""A logger whose service dies does not take the training with it."""

import functools
import logging
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

log = logging.getLogger(__name__)

CALLS = ("log_metrics", "log_hyperparams", "after_save_checkpoint", "save", "finalize")


def guard(logger: Any) -> Callable[[], None]:
    """Let a logger's calls fail quietly once the connection to its service is lost; return what undoes this.

    The loss is reported once. Other errors go through as before.

    >>> class Cut:
    ...     def log_metrics(self, metrics):
    ...         raise ConnectionResetError("gone")
    >>> cut = Cut()
    >>> undo = guard(cut)
    >>> cut.log_metrics({})
    >>> undo()
    >>> cut.log_metrics({})
    Traceback (most recent call last):
    ConnectionResetError: gone
    """
    reported: list[str] = []
    undone = ExitStack()
    for name in CALLS:
        if callable(getattr(logger, name, None)) and name not in vars(logger):
            setattr(logger, name, _guarded(getattr(logger, name), type(logger).__name__, reported))
            undone.callback(vars(logger).pop, name)
    return undone.close


def _guarded(call: Callable[..., Any], owner: str, reported: list[str]) -> Callable[..., Any]:
    @functools.wraps(call)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return call(*args, **kwargs)
        except ConnectionError as error:
            if not reported:
                reported.append(owner)
                log.warning(
                    "%s lost its service (%s: %s); training goes on, and numbers are kept in the run's local files.",
                    owner,
                    type(error).__name__,
                    error,
                )

    return guarded
