"""When alignment begins, how far training has come since, and which numbers make sense."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from pytorch_lightning import Trainer

from camtrain.errors import ConfigurationError


def is_due(start_when: int | str, epoch: int, metrics: Mapping[str, Any]) -> bool:
    """Whether the epoch has come, or the named metric is above 0. A metric that is missing or NaN is not.

    >>> is_due(3, 2, {}), is_due("reliance/flagged", 0, {"reliance/flagged": 1.0})
    (False, True)
    """
    if isinstance(start_when, int):
        return epoch >= start_when
    return start_when in metrics and float(metrics[start_when]) > 0


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


def check_arguments(weight: float, twins: float, twins_share: float, start_when: int | str, accumulate: int) -> None:
    """ConfigurationError for a number that cannot be meant."""
    for name, value in (("weight", weight), ("twins", twins)):
        if not (math.isfinite(value) and value >= 0):
            raise ConfigurationError(f"{name} is a finite number of at least 0; got {value}. Use 0 to switch it off.")
    if not 0 < twins_share <= 1:
        raise ConfigurationError(f"twins_share is a part of the batch in (0, 1]; got {twins_share}.")
    if accumulate < 1:
        raise ConfigurationError(f"accumulate counts manual_backward calls and is at least 1; got {accumulate}.")
    if isinstance(start_when, int) and start_when < 0:
        raise ConfigurationError(f"start_when is an epoch from 0 on, or the name of a metric; got {start_when}.")
