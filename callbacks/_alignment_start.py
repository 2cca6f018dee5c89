"""When alignment begins, and how far training has come since."""

import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from camtrain.callbacks._lightning import Trainer
from camtrain.errors import ConfigurationError

_COMPARISONS = {">": operator.gt, "<": operator.lt, ">=": operator.ge, "<=": operator.le, "==": operator.eq}
_CONDITION = re.compile(r"(?P<name>.+?)\s*(?P<sign>>=|<=|==|>|<)\s*(?P<bound>[-+]?\d*\.?\d+(?:[eE][-+]?\d+)?)")


def is_due(when: int | str, epoch: int, metrics: Mapping[str, Any]) -> bool:
    """Whether the epoch has come, or the condition on a metric holds: not so for one that is missing or NaN.

    >>> is_due(3, 2, {}), is_due("reliance/flagged", 0, {"reliance/flagged": 1.0})
    (False, True)
    >>> is_due("val/accuracy >= 0.9", 0, {"val/accuracy": 0.85})
    False
    """
    if not isinstance(when, str):
        return epoch >= when
    name, compare, bound = parse_condition(when)
    return name in metrics and compare(float(metrics[name]), bound)


def parse_condition(condition: str) -> tuple[str, Callable[[float, float], bool], float]:
    """The metric, the comparison and the number of `"metric > number"`; a name alone means above 0.

    >>> parse_condition("reliance/flagged")[::2], parse_condition("val/loss<0.5")[::2]
    (('reliance/flagged', 0.0), ('val/loss', 0.5))
    """
    found = _CONDITION.fullmatch(condition.strip())
    if found is None:
        return condition.strip(), operator.gt, 0.0
    return found["name"], _COMPARISONS[found["sign"]], float(found["bound"])


def position(trainer: Trainer, *, new_epoch: bool = False) -> float:
    """How much of the training is over, in [0, 1]; 0 for a training without an end.

    With `new_epoch` no batch of this epoch counts: at an epoch's start Lightning still holds the number of the last.
    """
    parts = [0.0]
    if trainer.max_steps > 0:
        parts.append(trainer.global_step / trainer.max_steps)
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        batches, done = trainer.num_training_batches, trainer.fit_loop.epoch_loop.batch_progress.current.completed
        within = done / batches if 0 < batches < math.inf and not new_epoch else 0.0
        parts.append((trainer.current_epoch + within) / trainer.max_epochs)
    return min(max(parts), 1.0)


def progress(now: float, started: float) -> float:
    """The part of what was left at the start that is over now, in [0, 1].

    >>> progress(0.75, 0.5)
    0.5
    """
    return min(max((now - started) / (1 - started), 0.0), 1.0) if started < 1 else 1.0


def factor(schedule: Callable[..., Any] | None, at: float) -> float:
    """The schedule's factor at a progress; 1 without a schedule. ConfigurationError unless finite and at least 0."""
    value = 1.0 if schedule is None else float(schedule(at))
    if not (math.isfinite(value) and value >= 0):
        raise ConfigurationError(
            f"A schedule returns a finite factor of at least 0; at progress {at:.3f} it gave {value}."
        )
    return value
