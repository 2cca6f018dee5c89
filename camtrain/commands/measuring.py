"""Do the heatmaps of an audit tell the truth: metrics of some of its images, as columns, rows and curves."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from camtrain.cam import occlusion_map
from camtrain.cam.layers import LayerSpec
from camtrain.data.batches import Batch, read_batch
from camtrain.errors import ConfigurationError
from camtrain.explanation import Explanation, explain
from camtrain.metrics import (
    Interval,
    average_drop,
    average_precision,
    class_probability,
    confidence_increase,
    heatmap_iou,
    insertion_deletion,
    inside_energy,
    localization_error,
    masked_confidences,
    mean_interval,
    pointing_game,
    rank_correlation,
    road,
    share_interval,
)
from camtrain.sinks.records import Curve, MetricRow, Metrics

STEPS = 20  # of the curves
FAITHFUL = ("average_drop", "confidence_increase", "insertion", "deletion", "road")
ON_REQUEST = ("occlusion_correlation",)  # some two hundred forward passes for each image
ON_MASKS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "inside_energy": inside_energy,
    "pointing_game": pointing_game,
    "heatmap_iou": heatmap_iou,
    "average_precision": average_precision,
    "localization_error": localization_error,
}
METRICS = (*FAITHFUL, *ON_REQUEST, *ON_MASKS)
SHARES = ("confidence_increase", "pointing_game", "localization_error")

Values = dict[str, list[float]]  # by `<metric>/<method>`, one for each image


@dataclass
class Measured:
    """The values of each image by `<metric>/<method>`, NaN without an answer, and its confidences along the curves."""

    samples: list[str] = field(default_factory=list)
    values: Values = field(default_factory=dict)
    confidences: dict[tuple[str, str], list[Tensor]] = field(default_factory=dict)  # curve, method: (B, P) each
    fractions: list[float] = field(default_factory=list)

    def add(self, samples: Sequence[str], found: Mapping[str, Tensor]) -> None:
        """Take the metrics of a batch."""
        self.samples += samples
        for name, each in found.items():
            self.values.setdefault(name, []).extend(each.tolist())

    def columns(self, samples: Sequence[str]) -> dict[str, list[float | None]]:
        """A column for each metric and method, in the order of these samples: None for those not measured."""
        rows = {sample: row for row, sample in enumerate(self.samples)}
        return {
            name: [_known(each[rows[sample]]) if sample in rows else None for sample in samples]
            for name, each in self.values.items()
        }


def chosen_metrics(names: Sequence[str] | None, *, masked: bool) -> tuple[str, ...]:
    """The metrics to take: none without the flag; with the bare flag all, of the masks where there are any.

    Raises ConfigurationError for a metric that needs masks where there are none.

    >>> chosen_metrics([], masked=False)
    ('average_drop', 'confidence_increase', 'insertion', 'deletion', 'road')
    """
    if names is None:
        return ()
    if not names:
        return (*FAITHFUL, *ON_MASKS) if masked else FAITHFUL
    if not masked and (needy := [name for name in names if name in ON_MASKS]):
        raise ConfigurationError(f"--metrics {' '.join(needy)} asks masks, and there are none: name them by --masks.")
    return tuple(dict.fromkeys(names))


def evenly(count: int, most: int) -> list[int]:
    """The rows of at most so many images, spread over all.

    >>> evenly(10, 4)
    [0, 2, 5, 7]
    """
    kept = min(count, most)
    return [index * count // kept for index in range(kept)]


def measure(
    model: nn.Module,
    dataset: Dataset[Any],
    rows: Sequence[int],
    metrics: Sequence[str],
    *,
    methods: Sequence[str],
    layers: LayerSpec = "auto",
    batch_size: int = 32,
    workers: int = 0,
) -> Measured:
    """These metrics of these rows of a dataset of named images, of the predicted class, on the model's device."""
    place = next((each.device for each in model.parameters()), torch.device("cpu"))
    measured = Measured()
    for items in DataLoader(Subset(dataset, rows), batch_size, num_workers=workers):
        batch = read_batch(items)
        images = batch.images.to(place)
        found = explain(model, images, layers=layers, methods=list(methods))
        layers = list(found.layers)
        values = _faithful(model, images, found, metrics, measured) | _on_masks(batch, found, metrics)
        measured.add(batch.ids or [], values)
    return measured


def record_of(columns: Mapping[str, Sequence[Any]], measured: Measured, metrics: Sequence[str]) -> Metrics:
    """Means with intervals over what the columns know, and the mean curves with theirs."""
    rows = [
        _row(metric, name.partition("/")[2], columns[name])
        for metric in metrics
        for name in columns
        if name.startswith(f"{metric}/")
    ]
    curves = [
        _curve(kind, method, measured.fractions, torch.cat(parts))
        for (kind, method), parts in measured.confidences.items()
    ]
    return Metrics(tuple(rows), tuple(curves), epoch=0, step=0)


def _faithful(
    model: nn.Module, images: Tensor, found: Explanation, metrics: Sequence[str], measured: Measured
) -> dict[str, Tensor]:
    values: dict[str, Tensor] = {}
    heatmaps, logits = found.heatmaps, found.logits
    if {"average_drop", "confidence_increase"} & set(metrics):
        for method, own in masked_confidences(model, images, heatmaps, logits=logits).items():
            values[f"average_drop/{method}"] = average_drop(own.before, own.after)
            values[f"confidence_increase/{method}"] = confidence_increase(own.before, own.after)
    if {"insertion", "deletion"} & set(metrics):
        for method, curves in insertion_deletion(model, images, heatmaps, logits=logits, steps=STEPS).items():
            values[f"insertion/{method}"] = curves.insertion_auc
            values[f"deletion/{method}"] = curves.deletion_auc
            measured.fractions = curves.fractions.tolist()
            for kind, each in (("insertion", curves.insertion), ("deletion", curves.deletion)):
                if kind in metrics:
                    measured.confidences.setdefault((kind, method), []).append(each.cpu())
    if "road" in metrics:
        values |= {f"road/{method}": each for method, each in road(model, images, heatmaps, logits=logits).items()}
    if "occlusion_correlation" in metrics:
        occluded = occlusion_map(model, images, target=class_probability)
        values |= {f"occlusion_correlation/{m}": rank_correlation(heat, occluded) for m, heat in heatmaps.items()}
    return {name: each for name, each in values.items() if name.partition("/")[0] in metrics}


def _on_masks(batch: Batch, found: Explanation, metrics: Sequence[str]) -> dict[str, Tensor]:
    if batch.masks is None:
        return {}
    masks = batch.masks.to(found.logits.device)
    return {
        f"{metric}/{method}": ask(heat, masks)
        for metric, ask in ON_MASKS.items()
        if metric in metrics
        for method, heat in found.heatmaps.items()
    }


def _row(metric: str, method: str, column: Sequence[float | None]) -> MetricRow:
    values = torch.tensor([value for value in column if value is not None], dtype=torch.float64)
    found = _interval(metric, values)
    return MetricRow(metric, method, found.mean, found.low, found.high, found.count)


def _curve(kind: str, method: str, fractions: Sequence[float], confidences: Tensor) -> Curve:
    known = confidences[~confidences.isnan().any(dim=1)].double()
    points = list(map(partial(_interval, kind), known.T))
    means, lows, highs = ([getattr(point, end) for point in points] for end in ("mean", "low", "high"))
    return Curve(kind, method, tuple(fractions), tuple(means), tuple(lows), tuple(highs))


def _interval(metric: str, values: Tensor) -> Interval:
    total, count = float(values.sum()), len(values)
    return share_interval(total, count) if metric in SHARES else mean_interval(total, float(values @ values), count)


def _known(value: float) -> float | None:
    return None if value != value else value
