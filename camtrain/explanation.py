"""`camtrain.explain`: heatmaps for a batch of images, in one call."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from camtrain.cam import (
    Capture,
    Layer,
    capture,
    is_empty,
    normalize,
    predicted_class,
    resize,
    resolve_method,
)
from camtrain.cam.layers import LayerSpec
from camtrain.cam.methods import Method
from camtrain.cam.targets import Target
from camtrain.errors import MethodError

MethodSpec = str | Method | Sequence[str | Method]
DEFAULT_METHODS = ("grad_cam", "grad_cam_plus_plus")


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a model looked at in each image of a batch.

    `heatmaps` maps a method's name to raw energy `(B, *S)`: non-negative, float32, at feature resolution,
    on the images' device. With several layers the names are `method@layer`. `empty` says which maps hold no evidence (zero everywhere,
    or not finite; such a map is returned as zeros), `logits` `(B, C)` and `scores` `(B,)` what was explained, `layers`
    which layers were chosen and why.
    """

    heatmaps: Mapping[str, Tensor]
    logits: Tensor
    scores: Tensor
    empty: Mapping[str, Tensor]
    layers: tuple[Layer, ...]
    images: Tensor = field(repr=False)

    def resized(self, method: str) -> Tensor:
        """A method's heatmaps at image size `(B, H, W)`, each rescaled to [0, 1] for display; an empty one is zero."""
        return normalize(resize(self._of(method), self.images.shape[2:]))

    def overlay(self, method: str, *, alpha: float = 0.4) -> Tensor:
        """A method's heatmaps painted over the images: `(B, 3, H, W)` uint8."""
        from camtrain.render import overlay

        return overlay(self.images, self._of(method), alpha=alpha)

    def _of(self, method: str) -> Tensor:
        if method not in self.heatmaps:
            raise MethodError(f"No heatmaps of {method!r} in this explanation; it has {', '.join(self.heatmaps)}.")
        return self.heatmaps[method]


def explain(
    model: nn.Module,
    images: Tensor,
    *,
    layers: LayerSpec = "auto",
    methods: MethodSpec = DEFAULT_METHODS,
    target: Target = predicted_class,
    labels: Tensor | None = None,
) -> Explanation:
    """Explain a model's answer for a batch of images, all methods from one forward and one partial backward.

    Args:
        model: any module from images `(B, C, H, W)` to logits `(B, C)`, or a tuple or mapping that holds them. It is
            evaluated, and left exactly as it was: modes, gradients, buffers, random state.
        images: as the model takes them.
        layers: `"auto"` (the last map of the forward pass), a dotted name, a module, or a list of these.
        methods: names of functions in `camtrain.cam`, or functions of (activations, gradients).
        target: what is explained, a function of (logits, labels) to `(B,)`.
        labels: `(B,)` for targets that need them.

    Returns:
        An `Explanation`. An empty batch gives empty heatmaps.

    Raises:
        LayerError: for a layer that does not exist or has no map.
        MethodError: for an unknown method.
        GradientError: if no gradient reaches the layer.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    >>> explanation = explain(net, torch.rand(2, 3, 8, 8))
    >>> explanation.heatmaps["grad_cam"].shape, explanation.resized("grad_cam").shape
    (torch.Size([2, 6, 6]), torch.Size([2, 8, 8]))
    """
    resolved = resolve_methods(methods)
    captured = capture(model, images, layers, target, labels=labels)
    heatmaps = heatmaps_of(captured, resolved)
    empty = {name: is_empty(maps) for name, maps in heatmaps.items()}
    cleared = {name: _zero_where(maps, empty[name]) for name, maps in heatmaps.items()}
    return Explanation(cleared, captured.logits, captured.scores, empty, captured.layers, images)


def resolve_methods(methods: MethodSpec) -> dict[str, Method]:
    """Methods by the name they are logged under.

    >>> list(resolve_methods(["grad_cam", "layer_cam"]))
    ['grad_cam', 'layer_cam']
    """
    given = [methods] if isinstance(methods, str) or callable(methods) else list(methods)
    if not given:
        raise MethodError("No method was given: name at least one, as 'grad_cam'.")
    functions = [resolve_method(method) for method in given]
    return {getattr(function, "__name__", type(function).__name__): function for function in functions}


def heatmaps_of(captured: Capture, methods: Mapping[str, Method]) -> dict[str, Tensor]:
    """Raw heatmaps `(B, *S)` by method, or by `method@layer` where several layers were captured."""
    several = len(captured.layers) > 1
    return {
        f"{name}@{layer.name}" if several else name: method(activations, gradients)
        for name, method in methods.items()
        for layer, activations, gradients in zip(captured.layers, captured.activations, captured.gradients, strict=True)
    }


def _zero_where(heatmaps: Tensor, empty: Tensor) -> Any:
    return torch.where(empty.reshape(-1, *[1] * (heatmaps.ndim - 1)), 0, heatmaps)
