"""One suite of metrics for an audit and for `FaithfulnessMonitor`: what is measured of heatmaps, and what it costs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from camtrain.cam import occlusion_map
from camtrain.errors import ConfigurationError
from camtrain.explanation import Explanation
from camtrain.metrics.functional.accuracy import Interval, mean_interval, share_interval
from camtrain.metrics.functional.curves import Curves, insertion_deletion
from camtrain.metrics.functional.evidence import inside_energy, pointing_game
from camtrain.metrics.functional.faithfulness import (
    average_drop,
    confidence_increase,
    rank_correlation,
)
from camtrain.metrics.functional.localization import average_precision, heatmap_iou, localization_error
from camtrain.metrics.functional.probing import masked_confidences
from camtrain.metrics.functional.road import PERCENTILES, road
from camtrain.tasks.answers import class_probability

MASKED = ("average_drop", "confidence_increase")
CURVES = ("insertion", "deletion")
FAITHFUL = (*MASKED, *CURVES, "road")
ON_REQUEST = ("occlusion_correlation",)  # some two hundred forward passes for each image
ON_MASKS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "inside_energy": inside_energy,
    "pointing_game": pointing_game,
    "heatmap_iou": heatmap_iou,
    "average_precision": average_precision,
    "localization_error": localization_error,
}
SHARES = ("confidence_increase", "pointing_game", "localization_error")


@dataclass(frozen=True)
class Measured:
    """The metrics of a batch by `<metric>/<method>`, `(B,)` each, NaN without an answer; the curves by method."""

    values: Mapping[str, Tensor]
    curves: Mapping[str, Curves]


@dataclass(frozen=True)
class Suite:
    """The metrics to take of each image's heatmaps, by name; curves in so many steps.

    >>> Suite(("insertion",), steps=10).forwards(methods=2)
    38
    """

    metrics: tuple[str, ...]
    steps: int = 20
    max_batch: int = 64

    def forwards(self, methods: int) -> int:
        """Forward passes for one image beside that which explains it: those of each kind of change."""
        passes = 0
        if self._wants(*MASKED):
            passes += methods
        if self._wants(*CURVES):
            passes += 2 + 2 * (self.steps - 1) * methods
        if self._wants("road"):
            passes += 2 * len(PERCENTILES) * methods
        return passes

    def measure(
        self,
        model: nn.Module,
        images: Any,
        explained: Explanation,
        *,
        labels: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> Measured:
        """Take the metrics of a batch; of the label's class, without labels of the predicted one."""
        heatmaps = explained.heatmaps
        answers: dict[str, Mapping[str, Tensor]] = {}
        curves: Mapping[str, Curves] = {}
        options: dict[str, Any] = {"labels": labels, "logits": explained.logits, "max_batch": self.max_batch}
        if self._wants(*MASKED):
            left = masked_confidences(model, images, heatmaps, **options)
            answers["average_drop"] = {method: average_drop(c.before, c.after) for method, c in left.items()}
            answers["confidence_increase"] = {
                method: confidence_increase(c.before, c.after) for method, c in left.items()
            }
        if self._wants(*CURVES):
            curves = insertion_deletion(model, images, heatmaps, steps=self.steps, **options)
            answers["insertion"] = {method: curve.insertion_auc for method, curve in curves.items()}
            answers["deletion"] = {method: curve.deletion_auc for method, curve in curves.items()}
        if self._wants("road"):
            answers["road"] = road(model, images, heatmaps, **options)
        if self._wants("occlusion_correlation"):
            occluded = occlusion_map(model, images, target=class_probability, labels=labels)
            answers["occlusion_correlation"] = {m: rank_correlation(heat, occluded) for m, heat in heatmaps.items()}
        if masks is not None:
            for metric, function in ON_MASKS.items():
                if self._wants(metric):
                    answers[metric] = {method: function(heat, masks) for method, heat in heatmaps.items()}
        ordered = [metric for metric in self.metrics if metric in answers]
        values = {f"{metric}/{method}": each for metric in ordered for method, each in answers[metric].items()}
        return Measured(values, curves)

    def _wants(self, *metrics: str) -> bool:
        return any(metric in self.metrics for metric in metrics)


def checked_metrics(metrics: Sequence[str], known: Sequence[str] = FAITHFUL) -> tuple[str, ...]:
    """The metrics, each once, if there are any and all are known.

    >>> checked_metrics(["insertion"])
    ('insertion',)
    """
    unknown = [metric for metric in metrics if metric not in known]
    if unknown or not metrics:
        raise ConfigurationError(f"Metrics are some of {', '.join(known)}; not {unknown or 'none'}.")
    return tuple(dict.fromkeys(metrics))


def interval_of(metric: str, values: Sequence[float] | Tensor, *, level: float = 0.95) -> Interval:
    """The mean of a metric over images and its interval, Wilson's for shares; images without an answer are left out.

    >>> interval_of("insertion/grad_cam", [0.5, 0.7, float("nan")]).count
    2
    """
    each = torch.as_tensor(values, dtype=torch.float64)
    each = each[~each.isnan()]
    total, count = float(each.sum()), len(each)
    if metric.partition("/")[0] in SHARES:
        return share_interval(total, count, level=level)
    return mean_interval(total, float(each @ each), count, level=level)
