"""Insertion and deletion: the confidence while pixels appear, or vanish, in the order of their heat."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from camtrain.cam.targets import Target
from camtrain.errors import ConfigurationError
from camtrain.metrics.functional.faithfulness import curve_area
from camtrain.metrics.functional.probing import Probe, heat_at, probing
from camtrain.tasks.answers import class_probability

__all__ = ["Curves", "blur", "insertion_deletion"]


@dataclass(frozen=True, eq=False)
class Curves:
    """The confidences along both curves `(B, P)`, over the fractions `(P,)` of pixels changed; NaN for an empty map."""

    fractions: Float[Tensor, " P"]
    insertion: Float[Tensor, "B P"]
    deletion: Float[Tensor, "B P"]

    @property
    def insertion_auc(self) -> Float[Tensor, " B"]:
        """The area under each insertion curve; higher is better."""
        return curve_area(self.insertion, self.fractions)

    @property
    def deletion_auc(self) -> Float[Tensor, " B"]:
        """The area under each deletion curve; lower is better."""
        return curve_area(self.deletion, self.fractions)


def insertion_deletion(
    model: nn.Module,
    images: Any,
    heatmaps: Mapping[str, Tensor],
    *,
    target: Target = class_probability,
    labels: Tensor | None = None,
    logits: Tensor | None = None,
    steps: int = 50,
    baseline: float | Tensor = 0.0,
    start: float | Tensor | None = None,
    max_batch: int = 64,
) -> dict[str, Curves]:
    """Insertion and deletion curves of each method's heatmaps.

    Deletion turns pixels into `baseline`, the hottest first; insertion reveals them in the same order on `start`, by
    default the image blurred (see `blur`). Both are numbers or tensors that broadcast to the images. Each step changes
    ceil(pixels / steps) of them, and the last one the rest. Pixels of equal heat keep their order in memory.
    The explained class is the label, else the one predicted for the whole image. All steps, methods and both
    curves go through the model together, at most `max_batch` images at a time, and the ends of the curves once;
    `logits` of the images spare one more. The model is left as it was. Source: Petsiuk et al. 2018 (RISE).

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> curves = insertion_deletion(net, torch.rand(3, 1, 2, 2), {"mine": torch.rand(3, 2, 2)}, steps=4)["mine"]
    >>> curves.fractions, curves.insertion_auc.shape
    (tensor([0.0000, 0.2500, 0.5000, 0.7500, 1.0000]), torch.Size([3]))
    """
    if steps < 1:
        raise ConfigurationError(f"A curve has one step at least, not steps={steps}.")
    if not heatmaps:
        return {}
    changes = 2 * steps * len(heatmaps)
    with probing(model, images, target, labels, logits, changes=changes, max_batch=max_batch) as probe:
        pictures = probe.images
        deleted = torch.as_tensor(baseline, dtype=pictures.dtype, device=pictures.device)
        begun = blur(pictures) if start is None else torch.as_tensor(start).to(pictures)
        scaled = heat_at(heatmaps, pictures)
        ranks = torch.stack([pixel_ranks(heat) for heat in scaled.values()])  # (M, B, *S)
        counts = step_counts(ranks[0, 0].numel() if len(pictures) else steps, steps)
        jobs = _jobs(len(scaled), counts).to(pictures.device)

        def changed(first: int, last: int) -> Tensor:
            method, count, inserts = (column.view(-1, *[1] * pictures.ndim) for column in jobs[first:last].unbind(1))
            hot = ranks[method.flatten()].unsqueeze(2) < count  # (n, B, 1, *S)
            return torch.where(hot == (inserts > 0), pictures, torch.where(inserts > 0, begun, deleted))

        scores = probe.ask(changed, len(jobs)).T  # (B, jobs)
        fractions = torch.tensor(counts, device=pictures.device) / counts[-1]
        return _assembled(probe, scaled, scores, fractions)


def blur(images: Float[Tensor, "B C *S"], kernel: int = 11, sigma: float = 5.0) -> Float[Tensor, "B C *S"]:
    """The images blurred by a Gaussian over height and width (video frames one by one), reflected at the border.

    >>> blur(torch.eye(3).view(1, 1, 3, 3), kernel=3, sigma=1e6).mean()
    tensor(0.4074)
    """
    for axis in range(max(2, images.ndim - 2), images.ndim):
        images = _blurred_along(images, axis, kernel, sigma)
    return images


def _blurred_along(images: Tensor, axis: int, kernel: int, sigma: float) -> Tensor:
    rows = images.movedim(axis, -1)
    radius = min(kernel // 2, rows.shape[-1] - 1)
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=torch.float32)
    weights = (-0.5 * (offsets / sigma) ** 2).exp()
    weights = (weights / weights.sum()).to(images.dtype).view(1, 1, -1)
    padded = F.pad(rows.reshape(-1, 1, rows.shape[-1]), (radius, radius), mode="reflect")
    return F.conv1d(padded, weights).reshape(rows.shape).movedim(-1, axis)


def pixel_ranks(heat: Float[Tensor, "B *S"]) -> Int[Tensor, "B *S"]:
    """The place of each pixel in the order of decreasing heat, from 0; equal ones in their order in memory.

    >>> pixel_ranks(torch.tensor([[0.5, 0.9, 0.5]])).tolist()
    [[1, 0, 2]]
    """
    order = heat.flatten(1).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=heat.device, dtype=torch.int32).expand_as(order)
    return torch.zeros_like(order, dtype=torch.int32).scatter_(1, order, places).view(heat.shape)


def step_counts(pixels: int, steps: int) -> list[int]:
    """How many pixels are changed after each step, from none to all.

    >>> step_counts(5, 3)
    [0, 2, 4, 5]
    """
    return [*range(0, pixels, math.ceil(pixels / steps)), pixels]


def _jobs(methods: int, counts: list[int]) -> Int[Tensor, "J 3"]:
    """Method, pixels and whether they are inserted, of every change: both ends, then all between of each method."""
    ends = [(0, counts[-1], 0), (0, 0, 1)]
    inner = [(method, count, kind) for method in range(methods) for kind in (0, 1) for count in counts[1:-1]]
    return torch.tensor(ends + inner)


def _assembled(probe: Probe, scaled: Mapping[str, Tensor], scores: Tensor, fractions: Tensor) -> dict[str, Curves]:
    whole, deleted, begun = probe.before.unsqueeze(1).to(scores), scores[:, :1], scores[:, 1:2]
    inner = scores[:, 2:].reshape(len(scores), len(scaled), 2, len(fractions) - 2)  # (B, M, 2, N - 1)
    curves = {}
    for index, (name, heat) in enumerate(scaled.items()):
        empty = heat.flatten(1).isnan().any(dim=1, keepdim=True)
        deletion = torch.cat([whole, inner[:, index, 0], deleted], dim=1)
        insertion = torch.cat([begun, inner[:, index, 1], whole], dim=1)
        curves[name] = Curves(fractions, *(torch.where(empty, torch.nan, curve) for curve in (insertion, deletion)))
    return curves
