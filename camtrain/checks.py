"""Which arguments can be meant: one table for every callback, by the name of the argument."""

import math
import operator
import re
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from os import PathLike
from typing import Any, NamedTuple

from torch import nn

from camtrain.cam import Layer
from camtrain.errors import ConfigurationError

_COMPARISONS = {">": operator.gt, "<": operator.lt, ">=": operator.ge, "<=": operator.le, "==": operator.eq}
_CONDITION = re.compile(
    r"(?P<name>[^<>=!\s][^<>=!]*?)\s*((?P<sign>>=|<=|==|>|<)\s*(?P<bound>[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?))?"
)


class _Rule(NamedTuple):
    """What an argument has to be, and that in words."""

    holds: Callable[[Any], bool]
    text: str


def check_arguments(**arguments: Any) -> None:
    """ConfigurationError for an argument that cannot be meant, with its name, its value and what it can be.

    Arguments without a rule are left to whoever uses them.

    A constructor gives all that it was given, `check_arguments(**locals())`.

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


def parse_condition(condition: str) -> tuple[str, Callable[[float, float], bool], float]:
    """The metric, the comparison and the number of `"metric > number"`; a name alone means above 0.

    Raises ConfigurationError for what is neither.

    >>> parse_condition("reliance/flagged")[::2], parse_condition("val/loss<0.5")[::2]
    (('reliance/flagged', 0.0), ('val/loss', 0.5))
    """
    parts = _CONDITION.fullmatch(condition.strip())
    if parts is None:
        raise ConfigurationError(
            f"A condition is the name of a metric (above 0), or a name, one of {', '.join(_COMPARISONS)} and a number, "
            f"as 'val/accuracy > 0.8'; got {condition!r}."
        )
    sign = parts["sign"] or ">"
    return parts["name"], _COMPARISONS[sign], float(parts["bound"] or 0)


def _is_condition(value: Any) -> bool:
    return isinstance(value, str) and _CONDITION.fullmatch(value.strip()) is not None


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
    return _is_condition(value) or _is_count(value)


def _is_called(value: Any) -> bool:
    return callable(value) and not isinstance(value, type)


def _one_of(*names: str) -> _Rule:
    return _Rule(lambda value: value in names, f"is one of {', '.join(map(repr, names))}")


def _called(example: str, *, needed: bool = False) -> _Rule:
    return _Rule(
        lambda value: _is_called(value) or (value is None and not needed),
        f"is a function or an object to call: {example}",
    )


def _count(least: int = 0) -> _Rule:
    return _Rule(lambda value: _is_count(value) and value >= least, f"is a whole number of at least {least}")


def _between(low: float, high: float) -> _Rule:
    return _Rule(lambda value: _is_number(value) and low < value < high, f"is a number between {low:g} and {high:g}")


def _are_classes(value: Any) -> bool:
    return value is None or (
        isinstance(value, Sequence) and all(map(_is_count, value)) and len({int(index) for index in value}) > 1
    )


def _are_names(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(name, str) for name in value)


_BOOLEAN = _Rule(lambda value: isinstance(value, bool), "is True or False")
_NAMES = _Rule(_are_names, "are names in a list")
_FACTOR = _Rule(_is_factor, "is 'auto' or a finite number of at least 0 (0 switches it off)")
_AS = "a condition on a metric, as 'reliance/flagged' (above 0) or 'val/accuracy > 0.8'"
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
    "seed": _count(),
    "second_order": _BOOLEAN,
    "start_when": _Rule(_is_time, f"is an epoch from 0 on, or {_AS}"),
    "when": _Rule(lambda value: value is None or _is_condition(value), f"is {_AS}, or None"),
    "stop_when": _Rule(lambda value: value is None or _is_time(value), f"is an epoch from 1 on, {_AS}, or None"),
    "layers": _Rule(_are_layers, "are 'auto', a dotted name in the LightningModule, a module, or a list of these"),
    "model": _Rule(
        lambda value: value is None or isinstance(value, (str, nn.Module)), "is the name of a part, a module, or None"
    ),
    "loss": _called("an instance, as AlignmentLoss('outside_l1')"),
    "target": _called("as camtrain.cam.true_class", needed=True),
    "schedule": _called("of the progress in [0, 1], as lambda at: 1 - at"),
    "method": _Rule(
        lambda value: isinstance(value, str) or _is_called(value), "is a name, as 'grad_cam', or a function as that one"
    ),
    "infill": _one_of("swap", "inpaint", "noise", "shuffle"),
    "jitter": _Rule(lambda value: _is_number(value) and 0 <= value <= 1, "is a fraction in [0, 1]"),
    "cue": _Rule(lambda value: isinstance(value, str), "is the name of a cue, as 'background'"),
    "p": _Rule(lambda value: _is_number(value) and 0 <= value <= 1, "is a probability in [0, 1]"),
    "batch_adapter": _called("from a batch to (images, labels, masks)"),
    "segmenter": _Rule(
        lambda value: value is None or _is_called(value) or value in ("guess", "found", "auto"),
        "is a function from images (B, C, H, W) to masks (B, H, W), 'guess', 'found', 'auto' or None",
    ),
    "methods": _Rule(
        lambda value: isinstance(value, (str, Sequence)) and len(value) > 0, "are names, as ['grad_cam', 'hires_cam']"
    ),
    "metrics": _NAMES,
    "looks": _NAMES,
    "cues": _NAMES,
    "head": _Rule(lambda value: value is None or isinstance(value, str), "is the dotted name of a layer, or None"),
    "pictures": _one_of("jpg", "png"),
    "judgement": _Rule(
        lambda value: value is None or isinstance(value, (str, PathLike)), "is the path of a judgement.json, or None"
    ),
    "classes": _Rule(
        _are_classes, "are indices, at least two since classes lend each other backgrounds, or None for all of them"
    ),
    "every_n_epochs": _count(1),
    "start_epoch": _count(),
    "dataloader_idx": _count(),
    "num_probes": _count(),
    "num_failures": _count(),
    "num_examples": _count(),
    "regions": _count(),
    "images_per_class": _count(2),
    "max_images": _count(2),
    "donor_classes": _count(2),
    "budget": _count(1),
    "steps": _count(1),
    "max_batch": _count(1),
    "grounded_above": _between(-1.0, 1.0),
    "alpha": _between(0.0, 1.0),
    "level": _between(0.0, 1.0),
    "tau": _between(-1.0, 1.0),
    "limit": _between(-1.0, 1.0),
    "lend_from_training": _BOOLEAN,
    "stickers": _BOOLEAN,
    "spend_alpha": _BOOLEAN,
    "of_labels": _BOOLEAN,
}
