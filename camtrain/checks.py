"""Which arguments can be meant: one table for every callback, by the name of the argument."""

import math
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

from torch import nn

from camtrain.cam import Layer
from camtrain.errors import ConfigurationError


class _Rule(NamedTuple):
    """What an argument has to be, and that in words."""

    holds: Callable[[Any], bool]
    text: str


def check_arguments(**arguments: Any) -> None:
    """ConfigurationError for an argument that cannot be meant, with its name, its value and what it can be.

    Arguments without a rule are left to whoever uses them.

    >>> check_arguments(weight="auto", start_when=1, stop_when=None)
    """
    for name, value in arguments.items():
        rule = _RULES.get(name)
        if rule is not None and not rule.holds(value):
            raise ConfigurationError(f"{name} {rule.text}; got {value!r}.")
    start, stop = arguments.get("start_when"), arguments.get("stop_when")
    if isinstance(start, Integral) and isinstance(stop, Integral) and stop <= start:
        raise ConfigurationError(
            f"Alignment would end before it begins: stop_when={stop} is not after start_when={start}."
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(float(value))


def _is_count(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 0


def _is_layer(value: Any) -> bool:
    return isinstance(value, (str, nn.Module, Layer))


def _are_layers(value: Any) -> bool:
    return _is_layer(value) or (isinstance(value, Sequence) and len(value) > 0 and all(map(_is_layer, value)))


def _is_factor(value: Any) -> bool:
    return value == "auto" if isinstance(value, str) else _is_number(value) and float(value) >= 0


def _is_time(value: Any) -> bool:
    return isinstance(value, str) or _is_count(value)


def _is_called(value: Any) -> bool:
    return callable(value) and not isinstance(value, type)


def _one_of(*names: str) -> _Rule:
    return _Rule(lambda value: value in names, f"is one of {', '.join(map(repr, names))}")


def _called(example: str, *, needed: bool = False) -> _Rule:
    return _Rule(
        lambda value: _is_called(value) or (value is None and not needed),
        f"is a function or an object to call: {example}",
    )


_FACTOR = _Rule(_is_factor, "is 'auto' or a finite number of at least 0 (0 switches it off)")
_SHARE = _Rule(lambda value: _is_number(value) and 0 < value <= 1, "is a part of the batch in (0, 1]")
_PLACE = _one_of("exchange", "add")
_RULES = {
    "weight": _FACTOR,
    "twins": _FACTOR,
    "gradient_ratio": _Rule(lambda value: _is_number(value) and value > 0, "is a finite number above 0"),
    "twins_share": _SHARE,
    "share": _SHARE,
    "reuse": _Rule(
        lambda value: isinstance(value, Real) and float(value) > 0,
        "counts twins per annotated image and epoch and is above 0",
    ),
    "memory": _Rule(_is_count, "counts images and is a whole number of at least 0"),
    "twins_place": _PLACE,
    "place": _PLACE,
    "twins_loss": _one_of("cross_entropy", "consistency"),
    "mask_kind": _one_of("object", "forbidden"),
    "accumulate": _Rule(
        lambda value: _is_count(value) and value > 0, "counts manual_backward calls and is a whole number of at least 1"
    ),
    "seed": _Rule(_is_count, "is a whole number of at least 0"),
    "second_order": _Rule(lambda value: isinstance(value, bool), "is True or False"),
    "start_when": _Rule(_is_time, "is an epoch from 0 on, or a condition on a metric"),
    "stop_when": _Rule(
        lambda value: value is None or _is_time(value), "is an epoch from 1 on, a condition on a metric, or None"
    ),
    "layers": _Rule(_are_layers, "are 'auto', a dotted name in the LightningModule, a module, or a list of these"),
    "model": _Rule(
        lambda value: value is None or isinstance(value, (str, nn.Module)), "is the name of a part, a module, or None"
    ),
    "loss": _called("an instance, as AlignmentLoss('outside_l1')"),
    "target": _called("as camtrain.cam.true_class", needed=True),
    "schedule": _called("of the progress in [0, 1], as lambda at: 1 - at"),
    "batch_adapter": _called("from a batch to (images, labels, masks)"),
}
