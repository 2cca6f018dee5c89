"""What a monitor does must not end the training that it watches."""

from collections.abc import Callable
from typing import Any

from pytorch_lightning.utilities import rank_zero_warn


class Attempt:
    """Calls that may fail: the first failure is reported, and every one is survived.

    Args:
        owner: the callback, as the report names it.
        undo: called after each failure.

    >>> attempt = Attempt("Monitor")
    >>> attempt(print, "seen")
    seen
    """

    def __init__(self, owner: str, undo: Callable[[], None] | None = None) -> None:
        self.owner, self.undo = owner, undo
        self.failed = False

    def __call__(self, act: Callable[..., None], *args: Any) -> None:
        try:
            act(*args)
        except Exception as error:
            if self.undo is not None:
                self.undo()
            if not self.failed:
                self.failed = True
                name = getattr(act, "__name__", type(act).__name__).strip("_")
                rank_zero_warn(
                    f"{self.owner} failed in {name} ({type(error).__name__}: {error}); training goes on, and further "
                    "failures are not reported."
                )
