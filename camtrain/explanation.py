"""`camtrain.explain`: heatmaps for a batch of images, in one call."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, overload

import torch
from torch import Tensor, nn

from camtrain.cam import Capture, Layer, is_empty, normalize, predicted_class, resize, resolve_method
from camtrain.cam.capture import capture_each
from camtrain.cam.layers import LayerSpec
from camtrain.cam.methods import Method
from camtrain.cam.model_methods import find_method, name_of, needs_layer, needs_model, run_method
from camtrain.cam.passes import image_of
from camtrain.cam.states import State, states_of
from camtrain.cam.targets import Target
from camtrain.errors import MethodError

AnyMethod = Callable[..., Any]
MethodSpec = str | AnyMethod | Sequence[str | AnyMethod]
DEFAULT_METHODS = ("grad_cam", "grad_cam_plus_plus")


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a model looked at in each image of a batch.

    `heatmaps` maps a method's name to raw energy `(B, *S)`: non-negative, float32, at feature resolution, on the
    images' device. With several layers the names are `method@layer`. `empty` says which maps hold no evidence (zero
    everywhere, or not finite; such a map is returned as zeros) and `states` why, as numbers of `camtrain.cam.State`.
    `logits` `(B, C)` and `scores` `(B,)` are what was explained, `layers` which layers were chosen and why.
    """

    heatmaps: Mapping[str, Tensor]
    logits: Any
    scores: Tensor
    empty: Mapping[str, Tensor]
    layers: tuple[Layer, ...]
    images: Tensor = field(repr=False)
    states: Mapping[str, Tensor] = field(default_factory=dict)

    def state_names(self, method: str) -> list[str]:
        """The names of the states of a method's heatmaps, one per image, as "OK" or "ZERO_GRADIENT"."""
        self._of(method)
        return [State(code).name for code in self.states[method].tolist()]

    def resized(self, method: str) -> Tensor:
        """A method's heatmaps at image size `(B, H, W)`, each rescaled to [0, 1] for display; an empty one is zero."""
        heatmaps = self._of(method)
        return normalize(resize(heatmaps, self.images.shape[-(heatmaps.ndim - 1) :]))

    def overlay(self, method: str, *, alpha: float = 0.4) -> Tensor:
        """A method's heatmaps painted over the images: `(B, 3, H, W)` uint8."""
        from camtrain.render import overlay

        return overlay(self.images, self._of(method), alpha=alpha)

    def _repr_html_(self) -> str:
        """Images, overlays and answers as a table, for a notebook; text for what is no batch of images."""
        from camtrain.render import to_uint8
        from camtrain.render.notebook import picture_table

        if self.images.ndim != 4:
            return f"<pre>{escape(repr(self))}</pre>"
        captions = [f"score {score:.3g}" for score in self.scores.tolist()]
        for method in self.states:
            states = self.state_names(method)
            captions = [f"{c} · {method}: {s}" if s != "OK" else c for c, s in zip(captions, states, strict=True)]
        return picture_table(to_uint8(self.images), {m: self.overlay(m) for m in self.heatmaps}, captions)

    def _of(self, method: str) -> Tensor:
        if method not in self.heatmaps:
            raise MethodError(f"No heatmaps of {method!r} in this explanation; it has {', '.join(self.heatmaps)}.")
        return self.heatmaps[method]


@overload
def explain(
    model: nn.Module,
    images: Any,
    *,
    layers: LayerSpec = "auto",
    methods: MethodSpec = DEFAULT_METHODS,
    target: Target = predicted_class,
    labels: Tensor | None = None,
) -> Explanation: ...


@overload
def explain(
    model: nn.Module,
    images: Any,
    *,
    layers: LayerSpec = "auto",
    methods: MethodSpec = DEFAULT_METHODS,
    target: Sequence[Target],
    labels: Tensor | None = None,
) -> tuple[Explanation, ...]: ...


def explain(
    model: nn.Module,
    images: Any,
    *,
    layers: LayerSpec = "auto",
    methods: MethodSpec = DEFAULT_METHODS,
    target: Target | Sequence[Target] = predicted_class,
    labels: Tensor | None = None,
) -> Any:
    """Explain a model's answer for a batch of images: one forward, one partial backward for each target.

    Args:
        model: any module from images `(B, C, *S)` to logits `(B, C)`, or a tuple or mapping that holds them. It is
            evaluated, and left exactly as it was: modes, gradients, buffers, random state.
        images: as the model takes them; a tuple of positional or a mapping of keyword inputs where there are several.
        layers: `"auto"` (the last map of the forward pass), a dotted name, a module, or a list of these.
        methods: names of functions in `camtrain.cam`, or functions of (activations, gradients), all computed from the
            one pass. Those that run the model themselves (`score_cam`, `guided_grad_cam`, `occlusion_map`, ...) follow
            one after the other; give them options by `functools.partial`.
        target: what is explained, a function of (logits, labels) to `(B,)`; or several, as `top_k(3)`.
        labels: `(B,)` for targets that need them.

    Returns:
        An `Explanation`, or a tuple of them, one for each of several targets. An empty batch gives empty heatmaps.

    Raises:
        LayerError: for a layer that does not exist or has no map.
        MethodError: for an unknown method.
        GradientError: if no gradient reaches the layer.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    >>> explanation = explain(net, torch.rand(2, 3, 8, 8))
    >>> explanation.heatmaps["grad_cam"].shape, explanation.resized("grad_cam").shape
    (torch.Size([2, 6, 6]), torch.Size([2, 8, 8]))
    """
    named = name_methods(methods)
    targets = (target,) if callable(target) else tuple(target)
    image_of(images)  # raises before the forward pass, if at all
    captures = capture_each(model, images, layers, targets, labels=labels)
    explanations = tuple(
        _explained(captured, model, images, named, each, labels)
        for captured, each in zip(captures, targets, strict=True)
    )
    return explanations[0] if callable(target) else explanations


def _explained(
    captured: Capture, model: nn.Module, images: Any, methods: Mapping[str, AnyMethod], target: Target, labels: Any
) -> Explanation:
    heatmaps: dict[str, Tensor] = {}
    states: dict[str, Tensor] = {}
    for name, method in methods.items():
        if needs_model(method):
            layers = captured.layers if needs_layer(method) else captured.layers[:1]
            maps = [run_method(method, model, images, layer, target, labels) for layer in layers]
            found = dict(zip(_names(name, layers), maps, strict=True))
            states |= {key: states_of(value) for key, value in found.items()}
        else:
            found = heatmaps_of(captured, {name: method})
            states |= states_of_capture(captured, found)
        heatmaps |= found
    empty = {name: is_empty(maps) for name, maps in heatmaps.items()}
    cleared = {name: _zero_where(maps, empty[name]) for name, maps in heatmaps.items()}
    return Explanation(cleared, captured.logits, captured.scores, empty, captured.layers, image_of(images), states)


def states_of_capture(captured: Capture, heatmaps: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The `State` of each image's heatmap, of one method's heatmaps by layer in the order of the capture."""
    return {
        key: states_of(maps, activations, gradients, captured.saturated)
        for (key, maps), activations, gradients in zip(
            heatmaps.items(), captured.activations, captured.gradients, strict=True
        )
    }


def name_methods(methods: MethodSpec) -> dict[str, AnyMethod]:
    """Methods of every kind by the name they are logged under.

    >>> list(name_methods(["grad_cam", "score_cam"]))
    ['grad_cam', 'score_cam']
    """
    given = [methods] if isinstance(methods, str) or callable(methods) else list(methods)
    if not given:
        raise MethodError("No method was given: name at least one, as 'grad_cam'.")
    functions = [find_method(method) for method in given]
    return {name_of(function): function for function in functions}


def resolve_methods(methods: MethodSpec) -> dict[str, Method]:
    """Methods that read activations and gradients, by the name they are logged under.

    >>> list(resolve_methods(["grad_cam", "layer_cam"]))
    ['grad_cam', 'layer_cam']
    """
    named = name_methods(methods)
    return {name: resolve_method(name if needs_model(method) else method) for name, method in named.items()}


def heatmaps_of(captured: Capture, methods: Mapping[str, Method]) -> dict[str, Tensor]:
    """Raw heatmaps `(B, *S)` by method, or by `method@layer` where several layers were captured."""
    return {
        key: method(activations, gradients)
        for name, method in methods.items()
        for key, activations, gradients in zip(
            _names(name, captured.layers), captured.activations, captured.gradients, strict=True
        )
    }


def _names(method: str, layers: Sequence[Layer]) -> list[str]:
    return [method] if len(layers) == 1 else [f"{method}@{layer.name}" for layer in layers]


def _zero_where(heatmaps: Tensor, empty: Tensor) -> Any:
    return torch.where(empty.reshape(-1, *[1] * (heatmaps.ndim - 1)), 0, heatmaps)
