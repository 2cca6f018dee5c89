"""When alignment begins, how far training has come since, and which numbers make sense."""

import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from pytorch_lightning import Trainer

from camtrain.errors import ConfigurationError

TWINS_LOSSES = ("cross_entropy", "consistency")
_COMPARISONS = {">": operator.gt, "<": operator.lt, ">=": operator.ge, "<=": operator.le, "==": operator.eq}
_CONDITION = re.compile(r"(?P<name>.+?)\s*(?P<sign>>=|<=|==|>|<)\s*(?P<bound>[-+]?\d*\.?\d+(?:[eE][-+]?\d+)?)")


def is_due(when: int | str, epoch: int, metrics: Mapping[str, Any]) -> bool:
    """Whether the epoch has come, or the condition on a metric holds: not so for one that is missing or NaN.

    >>> is_due(3, 2, {}), is_due("reliance/flagged", 0, {"reliance/flagged": 1.0})
    (False, True)
    >>> is_due("val/accuracy >= 0.9", 0, {"val/accuracy": 0.85})
    False
    """
    if isinstance(when, int):
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


def check_arguments(
    *,
    weight: float | str,
    gradient_ratio: float,
    twins: float | str,
    twins_share: float,
    reuse: float,
    memory: int,
    twins_place: str,
    twins_loss: str,
    mask_kind: str,
    start_when: int | str,
    stop_when: int | str | None,
    accumulate: int,
    **functions: Any,
) -> None:
    """ConfigurationError for an argument that cannot be meant."""
    for name, value in (("weight", weight), ("twins", twins)):
        if value != "auto" and not (_is_number(value) and float(value) >= 0):
            raise ConfigurationError(
                f"{name} is 'auto' or a finite number of at least 0; got {value!r}. Use 0 to switch it off."
            )
    if not (_is_number(gradient_ratio) and gradient_ratio > 0):
        raise ConfigurationError(f"gradient_ratio is a finite number above 0; got {gradient_ratio!r}.")
    if not (_is_number(twins_share) and 0 < twins_share <= 1):
        raise ConfigurationError(f"twins_share is a part of the batch in (0, 1]; got {twins_share!r}.")
    if not (isinstance(reuse, (int, float)) and reuse > 0):
        raise ConfigurationError(f"reuse counts twins per annotated image and epoch and is above 0; got {reuse!r}.")
    if not isinstance(memory, int) or memory < 0:
        raise ConfigurationError(f"memory counts images and is a whole number of at least 0; got {memory!r}.")
    if twins_place not in ("exchange", "add"):
        raise ConfigurationError(f"twins_place is 'exchange' or 'add'; got {twins_place!r}.")
    if twins_loss not in TWINS_LOSSES:
        raise ConfigurationError(f"twins_loss is one of {', '.join(TWINS_LOSSES)}; got {twins_loss!r}.")
    if mask_kind not in ("object", "forbidden"):
        raise ConfigurationError(f"mask_kind is 'object' or 'forbidden'; got {mask_kind!r}.")
    if not isinstance(accumulate, int) or accumulate < 1:
        raise ConfigurationError(f"accumulate counts manual_backward calls and is at least 1; got {accumulate!r}.")
    _check_functions(functions)
    _check_times(start_when, stop_when)


def _check_functions(functions: Mapping[str, Any]) -> None:
    for name, function in functions.items():
        if function is not None and (isinstance(function, type) or not callable(function)):
            raise ConfigurationError(f"{name} is a function or an object to call, not {function!r}: {_GIVE[name]}.")


def _check_times(start_when: int | str, stop_when: int | str | None) -> None:
    for name, when in (("start_when", start_when), ("stop_when", stop_when)):
        known = isinstance(when, str) or (isinstance(when, int) and not isinstance(when, bool) and when >= 0)
        if not known and not (name == "stop_when" and when is None):
            raise ConfigurationError(f"{name} is an epoch from 0 on, or a condition on a metric; got {when!r}.")
    if isinstance(start_when, int) and isinstance(stop_when, int) and stop_when <= start_when:
        raise ConfigurationError(
            f"Alignment would end before it begins: stop_when={stop_when} is not after start_when={start_when}."
        )


_GIVE = {
    "loss": "an instance, as AlignmentLoss('outside_l1')",
    "target": "as camtrain.cam.true_class",
    "schedule": "of the progress in [0, 1], as lambda at: 1 - at",
    "batch_adapter": "from a batch to (images, labels, masks)",
}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
