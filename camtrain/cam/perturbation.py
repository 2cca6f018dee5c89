"""Score-CAM and Ablation-CAM: weights from forward passes alone, batched over channels under a budget of images."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from camtrain.cam.capture import record_activations
from camtrain.cam.layers import Layer, LayerSpec, resolve_layers
from camtrain.cam.methods import _weighted_sum
from camtrain.cam.outputs import find_logits
from camtrain.cam.passes import (
    batch_size,
    image_of,
    laid_out,
    quickened_for,
    score_as_given,
    score_variants,
    undisturbed,
)
from camtrain.cam.replay import Replay
from camtrain.cam.spatial import across_channels, resize, space_of
from camtrain.cam.targets import Target, predicted_class, score_of, settled
from camtrain.errors import BatchError, MethodError


def score_cam(
    model: nn.Module,
    images: Any,
    layers: LayerSpec = "auto",
    *,
    target: Target = predicted_class,
    labels: Tensor | None = None,
    max_batch: int = 64,
) -> Float[Tensor, "B *S"]:
    """Score-CAM: `relu(sum_k w_k A_k)` with `w_k` the softmax over channels of the score of the image masked by `A_k`.

    A channel's mask is its activation, resized to the image and rescaled to [0, 1]; a constant channel masks
    everything. At most `max_batch` images are in one call of the model. Of several layers the first is taken.
    Source: Wang et al. 2020.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    >>> score_cam(net, torch.rand(5, 1, 4, 4)).shape
    torch.Size([5, 2, 2])
    """
    layer = resolve_layers(model, images, layers)[0]
    with undisturbed(model, images) as (net, inputs), torch.no_grad():
        with record_activations([layer]) as recorded:
            _, fixed = score_as_given(net, inputs, target, labels)
        activations, pictures = layer.to_map(recorded[0]), image_of(inputs)
        size = space_of(pictures)
        if len(size) != activations.ndim - 2:
            raise MethodError(
                f"Score-CAM masks the images by the map: images {tuple(pictures.shape)} and a map "
                f"{tuple(activations.shape)} differ in their axes."
            )

        def masked(start: int, stop: int) -> Tensor:
            channels = activations[:, start:stop].transpose(0, 1)  # (n, B, *s)
            masks = _rescaled(resize(channels.flatten(0, 1).to(_precision(channels)), size))
            masks = across_channels(masks.reshape(*channels.shape[:2], *size), pictures)
            return pictures.unsqueeze(0) * masks.to(pictures.dtype)

        count, most = activations.shape[1], batch_size(pictures, max_batch)
        with quickened_for(net, inputs, count) as layout:
            scores = score_variants(net, inputs, laid_out(masked, layout), count, fixed, labels, max_batch=most)
        return _combined(scores.T.to(_precision(activations)).softmax(dim=1), activations)


def ablation_cam(
    model: nn.Module,
    images: Any,
    layers: LayerSpec = "auto",
    *,
    target: Target = predicted_class,
    labels: Tensor | None = None,
    max_batch: int = 64,
) -> Float[Tensor, "B *S"]:
    """Ablation-CAM: `relu(sum_k w_k A_k)` with `w_k = (y - y_k) / |y|`, `y_k` the score with channel `k` set to zero.

    Only what follows the layer runs again for each channel, where that reproduces the model's logits; the whole forward
    otherwise. At most `max_batch` images are in one call of the model, but never fewer than the batch. A score of 0
    gives an empty map. Of several layers the first is taken. Source: Desai and Ramaswamy 2020.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    >>> ablation_cam(net, torch.rand(5, 1, 4, 4)).shape
    torch.Size([5, 2, 2])
    """
    if max_batch < 1:
        raise BatchError(f"max_batch is the number of images in one call, at least 1, not {max_batch}.")
    layer = resolve_layers(model, images, layers)[0]
    with undisturbed(model, images) as (net, inputs), torch.no_grad():
        replay = Replay(net, inputs, layer)
        raw, activations = replay.activations, layer.to_map(replay.activations)
        whole = score_of(target, replay.output, labels)
        fixed = target if _reads_output(target) else settled(target, find_logits(replay.output), labels)
        step = 1 if _reads_output(target) else max(1, max_batch // max(len(raw), 1))
        channels = channel_of_each(layer, raw)
        scores = torch.cat(
            [
                _ablated(replay, torch.arange(start, min(start + step, activations.shape[1])), channels, fixed, labels)
                for start in range(0, activations.shape[1], step)
            ]
        )
        fall = (whole - scores).T.to(_precision(activations))  # (B, K)
        size = whole.abs().unsqueeze(1).to(fall)
        return _combined(torch.where(size > 0, fall / torch.where(size > 0, size, 1), 0), activations)


def _ablated(
    replay: Replay, numbers: Tensor, channels: Tensor, target: Target, labels: Tensor | None
) -> Float[Tensor, "n B"]:
    """The scores without each of some channels."""
    removed = channels == numbers.to(channels).view(-1, *[1] * channels.ndim)  # (n, *one image's activations)
    variants = torch.where(removed.unsqueeze(1), 0, replay.activations.unsqueeze(0)).flatten(0, 1)
    output = replay.run(variants)
    if _reads_output(target):
        return target(output, labels).unsqueeze(0)
    parts = find_logits(output).chunk(len(numbers))
    return torch.stack([target(part, labels) for part in parts])


def channel_of_each(layer: Layer, activations: Tensor) -> Tensor:
    """The channel of the map that each number of one image's activations belongs to, in the layer's own layout.

    -1 for those that are not on the map, as a class token.

    >>> channel_of_each(Layer("conv", nn.Identity()), torch.zeros(5, 2, 1, 2)).tolist()
    [[[0, 0]], [[1, 1]]]
    """
    shape = activations.shape[1:]
    numbers = torch.arange(shape.numel(), dtype=torch.float64, device=activations.device).view(1, *shape)
    positions = layer.to_map(numbers)[0].flatten(1).long()  # (K, cells)
    channels = torch.full((shape.numel(),), -1, device=activations.device)
    channels[positions] = torch.arange(len(positions), device=activations.device).unsqueeze(1)
    return channels.view(shape)


def _combined(weights: Tensor, activations: Tensor) -> Tensor:
    with torch.autocast(activations.device.type, enabled=False):
        return _weighted_sum(weights, activations.to(weights.dtype)).relu()


def _rescaled(maps: Tensor) -> Tensor:
    """Each map rescaled to [0, 1] by its own range; a constant one gives zeros."""
    axes = tuple(range(1, maps.ndim))
    low, high = maps.amin(dim=axes, keepdim=True), maps.amax(dim=axes, keepdim=True)
    return torch.where(high > low, (maps - low) / torch.where(high > low, high - low, 1), 0)


def _precision(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _reads_output(target: Target) -> bool:
    return bool(getattr(target, "wants_output", False))
