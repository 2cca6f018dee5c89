"""When something begins and ends, and how far training has come: one dialect for every callback."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from camtrain.callbacks._lightning import Trainer
from camtrain.checks import parse_condition
from camtrain.errors import ConfigurationError


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


def not_logged(trainer: Trainer, conditions: list[str]) -> list[str]:
    """The metrics among the conditions that nobody has logged."""
    return [name for name, _, _ in map(parse_condition, conditions) if name not in trainer.callback_metrics]


def waits_for(trainer: Trainer, conditions: list[str]) -> str:
    """What is waited for in vain after a validation, as a sentence; empty where all was logged."""
    missing = not_logged(trainer, conditions)
    logged = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
    return f"waits for {missing[0]!r}, which the validation did not log; known: {logged}" if missing else ""


def never_begins(trainer: Trainer, start_when: int | str) -> str:
    """Why the epoch to begin at will not come, as a sentence; empty where it will, or a metric decides.

    Asked once training starts: before, Lightning does not know how many batches an epoch has.
    """
    if isinstance(start_when, str) or start_when == 0:
        return ""
    epochs, steps, batches = trainer.max_epochs, trainer.max_steps, trainer.num_training_batches
    if epochs is not None and 0 < epochs <= start_when:
        return f"begins in epoch {start_when}, and training ends after {epochs}: it will do nothing"
    if batches == math.inf:
        endless = epochs is None or epochs < 0
        return _ENDLESS.format(epoch=start_when) if endless else ""
    ends = math.ceil(steps * trainer.accumulate_grad_batches / batches) if steps > 0 and batches else math.inf
    if ends <= start_when:
        return f"begins in epoch {start_when}, and training ends after {steps} steps, before that: it will do nothing"
    return ""


_ENDLESS = (
    "begins in epoch {epoch}, and the training data have no length: if they have no end, that epoch never comes and it "
    "does nothing. Begin by a condition on a metric, which is looked at after each validation: "
    "start_when='val/accuracy > 0.8'"
)


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
