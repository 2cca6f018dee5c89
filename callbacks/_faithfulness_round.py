"""What a round of faithfulness costs and finds: no Trainer in here."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from camtrain.cam import Layer, predicted_class, true_class
from camtrain.errors import ConfigurationError
from camtrain.explanation import explain
from camtrain.metrics import (
    Interval,
    average_drop,
    confidence_increase,
    insertion_deletion,
    masked_confidences,
    mean_interval,
    road,
    share_interval,
)
from camtrain.metrics.functional.road import PERCENTILES

MASKED = ("average_drop", "confidence_increase")
CURVES = ("insertion", "deletion")
METRICS = (*MASKED, *CURVES, "road")
SHARES = ("confidence_increase",)

Values = Mapping[str, Sequence[float]]  # by `<metric>/<method>`, one for each image


@dataclass(frozen=True)
class Plan:
    """What is measured of each image.

    >>> Plan(("insertion",), {"a": print, "b": print}, steps=10, of_labels=False, max_batch=64).forwards
    39
    """

    metrics: tuple[str, ...]
    methods: Mapping[str, Callable[..., Any]]
    steps: int
    of_labels: bool
    max_batch: int

    @property
    def forwards(self) -> int:
        """Forward passes for one image: one to explain it, and those of each kind of change."""
        methods, found = len(self.methods), 1
        if self._wants(MASKED):
            found += methods
        if self._wants(CURVES):
            found += 2 + 2 * (self.steps - 1) * methods
        if "road" in self.metrics:
            found += 2 * len(PERCENTILES) * methods
        return found

    def _wants(self, metrics: Iterable[str]) -> bool:
        return any(metric in self.metrics for metric in metrics)

    def measure(
        self, network: nn.Module, images: Tensor, labels: Tensor | None, layers: Sequence[Layer]
    ) -> dict[str, Tensor]:
        """Each metric of each method, `(B,)` by `<metric>/<method>`; NaN where it has no answer."""
        classes = labels if self.of_labels else None
        explained = explain(
            network,
            images,
            layers=list(layers),
            methods=list(self.methods.values()),
            target=true_class if self.of_labels else predicted_class,
            labels=classes,
        )
        given = (network, images, explained.heatmaps)
        options: dict[str, Any] = {"labels": classes, "logits": explained.logits, "max_batch": self.max_batch}
        found: dict[str, Mapping[str, Tensor]] = {}
        if self._wants(MASKED):
            confidences = masked_confidences(*given, **options)
            found["average_drop"] = {m: average_drop(c.before, c.after) for m, c in confidences.items()}
            found["confidence_increase"] = {m: confidence_increase(c.before, c.after) for m, c in confidences.items()}
        if self._wants(CURVES):
            curves = insertion_deletion(*given, steps=self.steps, **options)
            found["insertion"] = {m: c.insertion_auc for m, c in curves.items()}
            found["deletion"] = {m: c.deletion_auc for m, c in curves.items()}
        if "road" in self.metrics:
            found["road"] = road(*given, **options)
        return {f"{metric}/{method}": v for metric in self.metrics for method, v in found[metric].items()}


def checked_metrics(metrics: Sequence[str]) -> tuple[str, ...]:
    """The metrics, if there are any and all are known.

    >>> checked_metrics(["insertion"])
    ('insertion',)
    """
    unknown = [metric for metric in metrics if metric not in METRICS]
    if unknown or not metrics:
        raise ConfigurationError(f"Metrics are some of {', '.join(METRICS)}; not {unknown or 'none'}.")
    return tuple(dict.fromkeys(metrics))


def evenly(images: Iterable[tuple[Tensor, Tensor | None]], most: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Single images stacked again in batches of one size, at most `most` in each, with their labels.

    >>> [len(batch) for batch, _ in evenly([(torch.zeros(1, 2, 2), None)] * 5, 2)]
    [2, 2, 1]
    """
    for _, alike in itertools.groupby(images, lambda pair: (pair[0].shape, pair[1] is None)):
        rows = list(alike)
        for start in range(0, len(rows), most):
            part = rows[start : start + most]
            labels = [label for _, label in part if label is not None]
            yield torch.stack([image for image, _ in part]), torch.stack(labels) if labels else None


def intervals(parts: Iterable[Values], level: float) -> dict[str, Interval]:
    """The mean and interval of each metric over the images of all processes; images without an answer left out.

    >>> found = intervals([{"insertion/grad_cam": [0.5]}, {"insertion/grad_cam": [0.7, float("nan")]}], 0.95)
    >>> found["insertion/grad_cam"].count
    2
    """
    together: dict[str, list[float]] = {}
    for part in parts:
        for name, values in part.items():
            together.setdefault(name, []).extend(value for value in values if value == value)
    return {name: _interval(name, values, level) for name, values in together.items()}


def _interval(name: str, values: Sequence[float], level: float) -> Interval:
    if name.partition("/")[0] in SHARES:
        return share_interval(float(sum(values)), len(values), level=level)
    return mean_interval(float(sum(values)), float(sum(value**2 for value in values)), len(values), level=level)
