"""One network: every method's heatmaps by every metric, as values for each image."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from _faithfulness_data import Photos, pairs, side_by_side
from _faithfulness_speed import clock
from torch import Tensor, nn

from camtrain import explain
from camtrain.cam import class_index, occlusion_map, true_class
from camtrain.cam.passes import image_of
from camtrain.metrics import (
    average_drop,
    average_precision,
    cascading_randomization,
    class_discrimination,
    class_probability,
    confidence_increase,
    energy_lift,
    heatmap_iou,
    highest_confidence,
    insertion_deletion,
    inside_energy,
    instance_coverage,
    loc,
    localization_error,
    masked_confidences,
    mean_interval,
    pointing_game,
    rank_correlation,
    road,
    share_interval,
    stability,
    win,
)

METHODS = (
    "grad_cam",
    "grad_cam_plus_plus",
    "hires_cam",
    "layer_cam",
    "xgrad_cam",
    "elementwise_cam",
    "contribution_cam",
    "eigen_cam",
    "ablation_cam",
    "score_cam",
    "smooth_grad_cam_plus_plus",
    "guided_backpropagation",
    "guided_grad_cam",
)
SLOW = ("ablation_cam", "score_cam", "smooth_grad_cam_plus_plus")
SHARES = ("increase", "pointing_game", "localization_error", "win_over_grad_cam", "grad_cam_wins")
PERCENT = ("average_drop", *SHARES)
LOWER = ("average_drop", "deletion", "localization_error", "max_sensitivity", "random_weights")  # is better

Values = dict[str, Tensor]  # by metric, (B,)
Sheet = dict[str, Values]  # by method


def random_map(model: nn.Module, images: Any, layer: Any, *, target: Any, labels: Any) -> Tensor:
    """A control: seven random numbers along each axis, the same for every image."""
    pictures, generator = image_of(images), torch.Generator().manual_seed(0)
    cells = torch.rand([7] * (pictures.ndim - 2), generator=generator)
    return cells.expand(len(pictures), *cells.shape).to(pictures.device).contiguous()


def center_map(model: nn.Module, images: Any, layer: Any, *, target: Any, labels: Any) -> Tensor:
    """A control: a hill in the middle of every image, whatever the model says."""
    pictures = image_of(images)
    axes = torch.meshgrid(*(torch.linspace(-1, 1, side) for side in pictures.shape[2:]), indexing="ij")
    hill = torch.exp(-2 * torch.stack(axes).square().sum(dim=0)).to(pictures.device)
    return hill.expand(len(pictures), *hill.shape).contiguous()


CONTROLS: dict[str, Callable[..., Tensor]] = {"random_map": random_map, "center_map": center_map}
for _control in CONTROLS.values():
    _control.needs_model = True  # type: ignore[attr-defined]


def given(methods: Sequence[str]) -> list[Any]:
    return [CONTROLS.get(name, name) for name in methods]


def faithfulness(model: nn.Module, photos: Photos, methods: Sequence[str], options: Any) -> Sheet:
    """The metrics that ask the model, of the predicted class."""
    sheet: Sheet = {name: {} for name in methods}
    for part in photos.images.split(options.chunk):
        found = explain(model, part, methods=given(methods))
        shared = {"logits": found.logits, "max_batch": options.max_batch}
        confidences = masked_confidences(model, part, found.heatmaps, **shared)
        curves = insertion_deletion(model, part, found.heatmaps, steps=options.steps, **shared)
        roads = road(model, part, found.heatmaps, percentiles=options.percentiles, **shared)
        occluded = occlusion_map(model, part, window=options.window, target=class_probability, max_batch=64)
        reference = confidences["grad_cam"]
        for name, heat in found.heatmaps.items():
            own = confidences[name]
            add(
                sheet[name],
                average_drop=average_drop(own.before, own.after),
                increase=confidence_increase(own.before, own.after),
                win_over_grad_cam=win(own.before, own.after, reference.after),
                grad_cam_wins=win(own.before, reference.after, own.after),
                insertion=curves[name].insertion_auc,
                deletion=curves[name].deletion_auc,
                road=roads[name],
                occlusion_correlation=rank_correlation(heat, occluded),
            )
    return sheet


def grounding(model: nn.Module, photos: Photos, methods: Sequence[str], options: Any) -> Sheet:
    """The metrics that ask the masks, of the predicted class where that is right, and of pairs of photographs."""
    sheet: Sheet = {name: {} for name in methods}
    photos = photos.where(photos.right(predictions(model, photos.images)))
    for start in range(0, len(photos.images), options.chunk):
        part = photos.images[start : start + options.chunk]
        masks = torch.zeros_like(part[:, 0]) if photos.masks is None else photos.masks[start : start + len(part)]
        for name, heat in explain(model, part, methods=given(methods)).heatmaps.items():
            add(
                sheet[name],
                inside_energy=inside_energy(heat, masks),
                lift=energy_lift(heat, masks),
                pointing_game=pointing_game(heat, masks),
                iou_otsu=heatmap_iou(heat, masks),
                loc_25=loc(heat, masks, 0.25),
                localization_error=localization_error(heat, masks),
                average_precision=average_precision(heat, masks),
            )
    _pairs(model, photos, methods, options, sheet)
    return sheet


def _pairs(model: nn.Module, photos: Photos, methods: Sequence[str], options: Any, sheet: Sheet) -> None:
    predicted = predictions(model, photos.images)
    for kind, rows in zip(("same", "different"), pairs(photos), strict=True):
        for start in range(0, len(rows), max(1, options.chunk // 2)):
            left, right = zip(*rows[start : start + max(1, options.chunk // 2)], strict=True)
            wide, own, other = side_by_side(photos, left, right)
            found = explain(model, wide, methods=given(methods), target=class_index(predicted[list(left)].cpu()))
            for name, heat in found.heatmaps.items():
                if kind == "same":
                    add(sheet[name], instance_coverage=instance_coverage(heat, own.long() + 2 * other.long()))
                else:
                    add(sheet[name], class_discrimination=class_discrimination(heat, own, other))


def misclassified(model: nn.Module, photos: Photos, methods: Sequence[str], options: Any) -> Sheet:
    """Insertion curves of the true class on photographs that the network gets wrong."""
    sheet: Sheet = {name: {} for name in methods}
    wrong = photos.where(~photos.right(predictions(model, photos.images)))
    labels = wrong.labels[: options.wrong].to(photos.images.device)
    for part, of in zip(wrong.images[: options.wrong].split(options.chunk), labels.split(options.chunk), strict=True):
        found = explain(model, part, methods=given(methods), target=true_class, labels=of)
        shared = {"logits": found.logits, "steps": options.steps, "max_batch": options.max_batch}
        curves = insertion_deletion(model, part, found.heatmaps, labels=of, **shared)
        for name, curve in curves.items():
            add(sheet[name], insertion=curve.insertion_auc, highest=highest_confidence(curve.insertion))
    return sheet


def trust(model: nn.Module, photos: Photos, methods: Sequence[str], options: Any) -> Sheet:
    """How alike the maps stay under weight randomization (last stage; and with a random head alone), and noise."""
    images = photos.images
    sanity = cascading_randomization(model, images, methods=given(methods), stages=options.stages)
    stable = stability(model, images, methods=given(methods), radius=0.1, samples=options.samples)
    return {
        name: {
            "random_weights": sanity.similarity[name][-1],
            "random_head": sanity.similarity[name][0],
            "stability": stable[name].correlation,
            "max_sensitivity": stable[name].sensitivity,
        }
        for name in methods
    }


def seconds_per_image(model: nn.Module, images: Tensor, methods: Sequence[str]) -> Mapping[str, float]:
    """One explanation by one method alone, forward pass included; the better of two, in CPU time on a CPU."""
    found = {}
    for name in methods:
        spent = []
        for _ in range(2):
            start = clock(images)
            explain(model, images, methods=given([name]))
            spent.append((clock(images) - start) / len(images))
        found[name] = min(spent)
    return found


@torch.no_grad()
def predictions(model: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([model(part).argmax(dim=1) for part in images.split(16)]).cpu()


def long_rows(network: str, sheet: Sheet) -> list[dict[str, Any]]:
    """A row for each method and metric: the mean over images with its 95 % interval, shares and drops in percent."""
    rows = []
    for method, values in sheet.items():
        for metric, each in values.items():
            known = each[~each.isnan()].double()
            scale = 100.0 if metric in PERCENT else 1.0
            if metric in SHARES:
                found = share_interval(float(known.sum()), len(known))
            else:
                found = mean_interval(float(known.sum()), float(known.square().sum()), len(known))
            ends = {key: scale * getattr(found, key) for key in ("mean", "low", "high")}
            rows.append({"network": network, "method": method, "metric": metric, **ends, "images": found.count})
    return rows


def add(values: Values, **more: Tensor) -> None:
    for metric, each in more.items():
        values[metric] = torch.cat([values[metric], each.float().cpu()]) if metric in values else each.float().cpu()
