"""Does a heatmap stay under small noise, do methods agree, and does a map account for what noise does to the score?"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from camtrain.cam import predicted_class, settled
from camtrain.cam.layers import LayerSpec
from camtrain.cam.passes import image_of, with_images
from camtrain.cam.targets import Target
from camtrain.errors import BatchError, ConfigurationError
from camtrain.explanation import DEFAULT_METHODS, MethodSpec, explain
from camtrain.metrics.functional.faithfulness import rank_correlation
from camtrain.metrics.functional.probing import heat_at, probing

__all__ = ["Stability", "agreement", "infidelity", "stability"]


@dataclass(frozen=True, eq=False)
class Stability:
    """What noise does to each image's heatmap, `(B,)` each; NaN where the map of the image itself is empty.

    `correlation` is the mean rank correlation with the maps of noisy copies (higher is better), `sensitivity` the
    largest change relative to the map's norm (lower is better).
    """

    correlation: Float[Tensor, " B"]
    sensitivity: Float[Tensor, " B"]


def stability(
    model: nn.Module,
    images: Any,
    *,
    layers: LayerSpec = "auto",
    methods: MethodSpec = DEFAULT_METHODS,
    target: Target = predicted_class,
    labels: Tensor | None = None,
    radius: float = 0.02,
    samples: int = 10,
    seed: int = 0,
) -> dict[str, Stability]:
    """How stable each method's heatmaps are under uniform noise in `[-radius, radius]`, in units of the model's input.

    The explained class stays the one of the image without noise. One explanation for each sample, all methods together;
    the random state is untouched. The sensitivity is the max-sensitivity of Yeh et al. 2019.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    >>> stability(net, torch.rand(5, 1, 4, 4), methods="grad_cam")["grad_cam"].sensitivity.shape
    torch.Size([5])
    """
    if samples < 1 or radius <= 0:
        raise ConfigurationError(f"Stability needs samples >= 1 and radius > 0, not {samples} and {radius}.")
    clean = explain(model, images, layers=layers, methods=methods, target=target, labels=labels)
    fixed = target if getattr(target, "wants_output", False) else settled(target, clean.logits, labels)
    names = [layer.name for layer in clean.layers]
    correlations: dict[str, list[Tensor]] = {name: [] for name in clean.heatmaps}
    changes: dict[str, list[Tensor]] = {name: [] for name in clean.heatmaps}
    for noise in noises(image_of(images), radius, samples, seed):
        varied = with_images(images, image_of(images) + noise, torch.arange(len(noise)))
        noisy = explain(model, varied, layers=names, methods=methods, target=fixed, labels=labels)
        for name, heat in clean.heatmaps.items():
            correlations[name].append(rank_correlation(noisy.heatmaps[name], heat))
            changes[name].append(_relative_change(heat, noisy.heatmaps[name]))
    return {
        name: Stability(torch.stack(correlations[name]).nanmean(dim=0), torch.stack(changes[name]).amax(dim=0))
        for name in clean.heatmaps
    }


def noises(images: Tensor, radius: float, samples: int, seed: int) -> Iterator[Tensor]:
    """Uniform noise of the images' shape, `samples` times, from a generator of its own."""
    generator = torch.Generator(images.device).manual_seed(seed)
    for _ in range(samples):
        drawn = torch.rand(images.shape, generator=generator, device=images.device)
        yield (radius * (2 * drawn - 1)).to(images.dtype)


def _relative_change(heat: Tensor, noisy: Tensor) -> Tensor:
    norm, change = heat.flatten(1).square().sum(dim=1).sqrt(), (noisy - heat).flatten(1).square().sum(dim=1).sqrt()
    return change / torch.where(norm > 0, norm, torch.nan)


def agreement(heatmaps: Mapping[str, Tensor]) -> dict[tuple[str, str], Float[Tensor, " B"]]:
    """The rank correlation of every two methods' heatmaps, on the finer of their two grids.

    >>> agreement({"a": torch.tensor([[[1.0, 2.0, 4.0]]]), "b": torch.tensor([[[0.0, 9.0, 1.0]]])})
    {('a', 'b'): tensor([0.5000])}
    """
    agreements = {}
    for (first, maps), (second, others) in itertools.combinations(heatmaps.items(), 2):
        coarse, fine = sorted((maps, others), key=lambda maps: maps[:1].numel())
        agreements[first, second] = rank_correlation(coarse, fine)
    return agreements


def infidelity(
    model: nn.Module,
    images: Any,
    heatmaps: Mapping[str, Tensor],
    *,
    target: Target = predicted_class,
    labels: Tensor | None = None,
    noise: float = 0.2,
    samples: int = 20,
    seed: int = 0,
    max_batch: int = 64,
) -> dict[str, Float[Tensor, " B"]]:
    """Mean squared difference of `I * heatmap` and of what taking the noise I from the image takes from the score.

    In the score's units squared, lower is better; I is normal with standard deviation `noise`, the same on all
    channels. The heatmap in [0, 1] is scaled to fit best, since its own scale means nothing. An empty heatmap gives
    NaN. One forward pass for each sample, for all methods together. Source: Yeh et al. 2019,
    definition 2.1; scaled as captum does with `normalize=True`.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> infidelity(net, torch.rand(3, 1, 2, 2), {"mine": torch.rand(3, 2, 2)})["mine"].shape
    torch.Size([3])
    """
    if samples < 2 or noise <= 0:
        raise ConfigurationError(f"Infidelity needs samples >= 2 and noise > 0, not {samples} and {noise}.")
    pictures = image_of(images)
    if pictures.ndim < 3:
        raise BatchError(f"Infidelity needs images (B, C, *S), not {tuple(pictures.shape)}.")
    generator = torch.Generator(pictures.device).manual_seed(seed)
    shape = (samples, len(pictures), *pictures.shape[2:])
    drawn = noise * torch.randn(shape, generator=generator, device=pictures.device)
    with probing(model, images, target, labels, None, changes=samples, max_batch=max_batch) as probe:
        scores = probe.ask(lambda first, last: probe.images - drawn[first:last].unsqueeze(2).to(probe.images), samples)
        falls = probe.before - scores  # (samples, B)
        return {name: _infidelity(drawn, falls, heat) for name, heat in heat_at(heatmaps, probe.images).items()}


def _infidelity(drawn: Tensor, falls: Tensor, heat: Tensor) -> Tensor:
    explained = (drawn * heat).flatten(2).sum(dim=2)  # (samples, B)
    power = explained.square().mean(dim=0)
    scale = (explained * falls).mean(dim=0) / torch.where(power > 0, power, torch.nan)
    return (scale * explained - falls).square().mean(dim=0)
