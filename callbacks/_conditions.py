"""When something begins and ends, and how far training has come: one dialect for every callback."""

import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from camtrain.callbacks._lightning import Trainer
from camtrain.errors import ConfigurationError

_COMPARISONS = {">": operator.gt, "<": operator.lt, ">=": operator.ge, "<=": operator.le, "==": operator.eq}
_CONDITION = re.compile(r"(?P<name>.+?)\s*(?P<sign>>=|<=|==|>|<)\s*(?P<bound>[-+]?\d*\.?\d+(?:[eE][-+]?\d+)?)")


class Span:
    """From when until when something is on: from an epoch, or from a condition on a logged metric. It begins once.

    >>> span = Span(2)
    >>> span.is_on, span.started_at
    (False, None)
    """

    def __init__(self, start_when: int | str, stop_when: int | str | None = None) -> None:
        self.start_when, self.stop_when = start_when, stop_when
        self.begin_anew()

    def begin_anew(self) -> None:
        """As if nothing had been trained yet."""
        self.started_at: float | None = None  # the position in the training, in [0, 1]
        self.stopped = False

    @property
    def is_on(self) -> bool:
        """Whether it has begun and not ended."""
        return self.started_at is not None and not self.stopped

    @property
    def conditions(self) -> list[str]:
        """Those of its ends that wait for a metric."""
        return [when for when in (self.start_when, self.stop_when) if isinstance(when, str)]

    def should_start(self, trainer: Trainer) -> bool:
        """Whether to begin now. All processes decide alike."""
        return self.started_at is None and _is_due_for_all(trainer, self.start_when)

    def should_stop(self, trainer: Trainer) -> bool:
        """Whether to end now. All processes decide alike."""
        return self.is_on and self.stop_when is not None and _is_due_for_all(trainer, self.stop_when)

    def progress(self, trainer: Trainer) -> float:
        """The part of what was left at the start that is over now, in [0, 1]."""
        return 0.0 if self.started_at is None else progress(position(trainer), self.started_at)


def _is_due_for_all(trainer: Trainer, when: int | str) -> bool:
    due = is_due(when, trainer.current_epoch, trainer.callback_metrics)
    return bool(trainer.strategy.reduce_boolean_decision(due, all=False)) if isinstance(when, str) else due


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
    parts = _CONDITION.fullmatch(condition.strip())
    if parts is None:
        return condition.strip(), operator.gt, 0.0
    return parts["name"], _COMPARISONS[parts["sign"]], float(parts["bound"])


def not_logged(trainer: Trainer, conditions: list[str]) -> list[str]:
    """The metrics among the conditions that nobody has logged."""
    return [name for name, _, _ in map(parse_condition, conditions) if name not in trainer.callback_metrics]


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
