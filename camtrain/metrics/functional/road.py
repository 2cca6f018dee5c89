"""ROAD: remove pixels by filling them from what surrounds them, so that their shape does not give them away."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from camtrain.cam.passes import image_of
from camtrain.cam.targets import Target
from camtrain.errors import BatchError, ConfigurationError
from camtrain.metrics.functional.curves import pixel_ranks
from camtrain.metrics.functional.probing import heat_at, probing
from camtrain.swaps.compositing import fill_objects
from camtrain.tasks.answers import class_probability

__all__ = ["impute", "road"]

PERCENTILES = (20, 40, 60, 80)


def road(
    model: nn.Module,
    images: Any,
    heatmaps: Mapping[str, Tensor],
    *,
    target: Target = class_probability,
    labels: Tensor | None = None,
    logits: Tensor | None = None,
    percentiles: Sequence[int | float] = PERCENTILES,
    noise: float = 0.01,
    seed: int = 0,
    max_batch: int = 64,
) -> dict[str, Float[Tensor, " B"]]:
    """Confidence without the coldest pixels minus that without the hottest, halved, in the mean over percentiles.

    In [-0.5, 0.5], higher is better. A percentile p removes p % of the pixels and fills them by `impute`. The explained
    class is the label, else the one predicted for the whole image. An empty heatmap gives NaN. Two forward passes
    for each percentile and method. Source: Rong et al. 2022; combined as in pytorch-grad-cam's `ROADCombined`, which
    names percentiles by what the hottest-first removal keeps.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    >>> road(net, torch.rand(3, 1, 4, 4), {"mine": torch.rand(3, 4, 4)})["mine"].shape
    torch.Size([3])
    """
    if image_of(images).ndim != 4:
        raise BatchError(f"ROAD fills images (B, C, H, W), not {tuple(image_of(images).shape)}.")
    if not percentiles or not all(0 < p < 100 for p in percentiles):
        raise ConfigurationError(f"ROAD removes percentiles between 0 and 100 of the pixels, not {percentiles!r}.")
    changes = 2 * len(percentiles) * len(heatmaps)
    with probing(model, images, target, labels, logits, changes=changes, max_batch=max_batch) as probe:
        scaled = heat_at(heatmaps, probe.images)
        generator = torch.Generator(probe.images.device).manual_seed(seed)
        removed = [mask for heat in scaled.values() for mask in _removals(heat, percentiles)]

        def imputed(start: int, stop: int) -> Tensor:
            return torch.stack([impute(probe.images, m, noise=noise, generator=generator) for m in removed[start:stop]])

        scores = probe.ask(imputed, len(removed)).reshape(len(scaled), 2, len(percentiles), -1)
        coldest, hottest = scores.mean(dim=2).unbind(1) if scaled else ((), ())
        return {
            name: torch.where(heat.flatten(1).isnan().any(dim=1), torch.nan, (cold - hot) / 2)
            for (name, heat), cold, hot in zip(scaled.items(), coldest, hottest, strict=True)
        }


def _removals(heat: Tensor, percentiles: Sequence[int | float]) -> list[Tensor]:
    """What is removed at each percentile: first the coldest pixels, then the hottest."""
    ranks = pixel_ranks(heat)
    pixels = heat[0].numel() if len(heat) else 0
    counts = [round(pixels * p / 100) for p in percentiles]
    return [ranks >= pixels - count for count in counts] + [ranks < count for count in counts]


def impute(
    images: Float[Tensor, "B C H W"],
    missing: Bool[Tensor, "B H W"],
    *,
    noise: float = 0.01,
    generator: torch.Generator | None = None,
    tolerance: float = 1e-4,
    iterations: int = 1000,
) -> Float[Tensor, "B C H W"]:
    """Each missing pixel as the weighted mean of its neighbors: 1/6 for those beside it, 1/12 for those at its corners.

    At the border the weights of the neighbors that exist are scaled up. All images are solved together by conjugate
    gradients, from a smooth filling, until the residual is below `tolerance` of the right side; then normal noise of
    standard deviation `noise` is added to the missing pixels, the same to every image of the batch. An image without
    any pixel left gets its mean color.
    Source: Rong et al. 2022 (ROAD), noisy linear imputation.

    >>> image = torch.tensor([0.0, 9.0, 3.0]).view(1, 1, 1, 3)
    >>> impute(image, torch.tensor([[[False, True, False]]]), noise=0.0).flatten()
    tensor([0.0000, 1.5000, 3.0000])
    """
    gone = missing.unsqueeze(1).to(images.dtype)
    start = fill_objects(images, missing.to(images.dtype))
    filled = torch.where(gone > 0, _solved(images * (1 - gone), gone, start, tolerance, iterations), images)
    filled = torch.where(gone.amin(dim=(1, 2, 3), keepdim=True) > 0, start, filled)
    drawn = torch.randn((1, *images.shape[1:]), generator=generator, device=images.device, dtype=torch.float32)
    return filled + noise * gone * drawn.to(images.dtype)


def _solved(known: Tensor, gone: Tensor, start: Tensor, tolerance: float, iterations: int) -> Tensor:
    """Conjugate gradients for (D - W) u = W known on the missing pixels, each channel of each image on its own."""
    weights = _neighbors(torch.ones_like(gone))
    right = gone * _neighbors(known)

    def apply(u: Tensor) -> Tensor:
        return gone * (weights * u - _neighbors(u))

    solution = start * gone
    residual = right - apply(solution)
    direction, power = residual, _dot(residual, residual)
    enough = tolerance**2 * _dot(right, right)
    for _ in range(iterations):
        going = power > enough  # what is solved rests at zero: ever smaller numbers would be slow
        if not bool(going.any()):
            break
        direction = torch.where(going, direction, 0)
        pushed = apply(direction)
        curvature = _dot(direction, pushed)
        length = torch.where(curvature > 0, power / curvature, 0)
        solution, residual = solution + length * direction, residual - length * pushed
        following = _dot(residual, residual)
        direction = residual + torch.where(power > 0, following / power, 0) * direction
        power = following
    return solution


def _neighbors(images: Tensor) -> Tensor:
    """The weighted sum of each pixel's eight neighbors, none beyond the border."""
    padded = F.pad(images, (1, 1, 1, 1))
    above_and_below, rows = padded[..., :-2, :] + padded[..., 2:, :], padded[..., 1:-1, :]
    corners = above_and_below[..., :-2] + above_and_below[..., 2:]
    beside = above_and_below[..., 1:-1] + rows[..., :-2] + rows[..., 2:]
    return beside / 6 + corners / 12


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=(2, 3), keepdim=True)
