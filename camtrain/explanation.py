"""`camtrain.explain`: heatmaps for a batch of images, in one call."""

import dataclasses
import logging
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, overload
from weakref import WeakSet

import torch
from torch import Tensor, nn

from camtrain.cam import (
    Capture,
    Layer,
    class_index,
    find_logits,
    is_empty,
    normalize,
    predicted_class,
    resize,
    resolve_method,
)
from camtrain.cam.capture import capture_each, checked_scores
from camtrain.cam.layers import LayerSpec
from camtrain.cam.methods import Method
from camtrain.cam.model_methods import find_method, name_of, needs_layer, needs_model, run_method
from camtrain.cam.ownership import call, usable_in_autograd
from camtrain.cam.passes import image_of, undisturbed
from camtrain.cam.spatial import channels_second, space_of
from camtrain.cam.states import State, states_of
from camtrain.cam.targets import Target, score_of
from camtrain.errors import BatchError, MethodError
from camtrain.facts import class_called, class_names, is_untrained
from camtrain.inputs import Transform, as_inputs
from camtrain.tasks.answers import probabilities

_log = logging.getLogger("camtrain")

TargetSpec = Target | int | str | Tensor | Sequence[Target | int | str]
AnyMethod = Callable[..., Any]
MethodSpec = str | AnyMethod | Sequence[str | AnyMethod]
DEFAULT_METHODS = ("grad_cam", "grad_cam_plus_plus")


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """What a model looked at in each image of a batch.

    `heatmaps` maps a method's name to raw energy `(B, *S)`: non-negative, float32, at feature resolution, on the
    images' device. With several layers the names are `method@layer`. `empty` says which maps hold no evidence (zero
    everywhere, or not finite; such a map is returned as zeros) and `states` why, as numbers of `camtrain.cam.State`.
    `logits` `(B, C)` and `scores` `(B,)` are what was explained, `layers` which layers were chosen and why (none where
    no method needed one), `names` the classes' names where the network knows them.
    """

    heatmaps: Mapping[str, Tensor]
    logits: Any
    scores: Tensor
    empty: Mapping[str, Tensor]
    layers: tuple[Layer, ...]
    images: Tensor
    states: Mapping[str, Tensor] = field(default_factory=dict)
    names: tuple[str, ...] | None = None

    def __repr__(self) -> str:
        """What was explained, in a line."""
        maps = ", ".join(f"{name} {'x'.join(map(str, maps.shape[1:]))}" for name, maps in self.heatmaps.items())
        layers = ", ".join(repr(layer.name) for layer in self.layers) or "no layer"
        answers = ", ".join(self.answers()[:3]) + (", ..." if len(self.scores) > 3 else "")
        count = len(self.scores)
        return f"Explanation({count} image{'s' * (count != 1)}: {answers or 'no answers'}; {maps}; {layers})"

    def answers(self) -> list[str]:
        """The predicted class of each image in words, with its probability; its score where there are no classes."""
        if not isinstance(self.logits, Tensor) or self.logits.ndim != 2 or self.logits.shape[1] < 2:
            return [f"score {score:.3g}" for score in self.scores.tolist()]
        sure, classes = probabilities(self.logits).max(dim=1)
        names = self.names if self.names and len(self.names) == self.logits.shape[1] else None
        words = [names[index] if names else f"class {index}" for index in classes.tolist()]
        return [f"{word} {share:.0%}" for word, share in zip(words, sure.tolist(), strict=True)]

    def state_names(self, method: str) -> list[str]:
        """The names of the states of a method's heatmaps, one per image, as "OK" or "ZERO_GRADIENT"."""
        self._of(method)
        return [State(code).name for code in self.states[method].tolist()]

    def resized(self, method: str) -> Tensor:
        """A method's heatmaps at image size `(B, H, W)`, each rescaled to [0, 1] for display; an empty one is zero."""
        heatmaps = self._of(method)
        return normalize(resize(heatmaps, space_of(self.images)[-(heatmaps.ndim - 1) :]))

    def overlay(self, method: str, *, alpha: float = 0.4) -> Tensor:
        """A method's heatmaps painted over the images: `(B, 3, H, W)` uint8; of clips `(B, T, 3, H, W)`."""
        from camtrain.render import overlay

        images, heatmaps = channels_second(self.images), self._of(method)
        if images.ndim == 4:
            return overlay(images, heatmaps, alpha=alpha)
        if images.ndim != 5:
            raise MethodError(
                f"Heatmaps are painted over pictures (B, C, H, W) and clips (B, C, T, H, W), not over "
                f"{tuple(self.images.shape)}: take .resized({method!r})."
            )
        shown = resize(heatmaps, images.shape[2:]) if heatmaps.ndim == 4 else heatmaps.unsqueeze(1)
        shown = shown.expand(-1, images.shape[2], *shown.shape[2:])
        frames = overlay(images.transpose(1, 2).flatten(0, 1), shown.flatten(0, 1), alpha=alpha)
        return frames.reshape(len(images), images.shape[2], *frames.shape[1:])

    def save(self, path: str | Path, *, method: str | None = None, alpha: float = 0.4) -> Path:
        """Write the overlays as one picture, PNG or JPEG: a row for each image, a column for each method.

        Of a clip the frames follow each other in the row. Returns the path. `method` asks for one of several.
        """
        from camtrain.records.images import jpeg, png, to_pixels

        path = Path(path)
        encode = {".png": png, ".jpg": jpeg, ".jpeg": jpeg}.get(path.suffix.lower())
        if encode is None:
            raise MethodError(f"Overlays are saved as .png or .jpg, not as {path.suffix or 'a name without either'!r}.")
        columns = [self.overlay(name, alpha=alpha) for name in ([method] if method else self.heatmaps)]
        columns = [column.unsqueeze(1) if column.ndim == 4 else column for column in columns]
        rows = torch.cat(columns, dim=1)  # (B, columns * frames, 3, H, W)
        sheet = torch.cat(list(torch.cat(list(rows.unbind(1)), dim=-1)), dim=-2)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(to_pixels(sheet.to(torch.uint8))))
        return path

    def _repr_html_(self) -> str:
        """Images, overlays and answers as a table, for a notebook; text for what is no batch of images."""
        from camtrain.render import to_uint8
        from camtrain.render.notebook import picture_table

        if self.images.ndim != 4:
            return f"<pre>{escape(repr(self))}</pre>"
        images = to_uint8(channels_second(self.images))
        captions = [f"score {score:.3g}" for score in self.scores.tolist()]
        if self.names:
            captions = [f"{answer} · {c}" for answer, c in zip(self.answers(), captions, strict=True)]
        for method in self.states:
            states = self.state_names(method)
            captions = [f"{c} · {method}: {s}" if s != "OK" else c for c, s in zip(captions, states, strict=True)]
        return picture_table(images, {m: self.overlay(m) for m in self.heatmaps}, captions)

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
    target: Target | int | str | Tensor = predicted_class,
    labels: Tensor | None = None,
    names: Sequence[str] | None = None,
    transform: Transform | None = None,
) -> Explanation: ...


@overload
def explain(
    model: nn.Module,
    images: Any,
    *,
    layers: LayerSpec = "auto",
    methods: MethodSpec = DEFAULT_METHODS,
    target: Sequence[Target | int | str],
    labels: Tensor | None = None,
    names: Sequence[str] | None = None,
    transform: Transform | None = None,
) -> tuple[Explanation, ...]: ...


def explain(
    model: nn.Module,
    images: Any,
    *,
    layers: LayerSpec = "auto",
    methods: MethodSpec = DEFAULT_METHODS,
    target: TargetSpec = predicted_class,
    labels: Tensor | None = None,
    names: Sequence[str] | None = None,
    transform: Transform | None = None,
) -> Any:
    """Explain a model's answer for a batch of images: one forward, one partial backward for each target.

    Args:
        model: any module from images `(B, C, *S)` to logits `(B, C)`, or a tuple or mapping that holds them. It is
            evaluated, and left exactly as it was: modes, gradients, buffers, random state.
        images: as the model takes them; a tuple of positional or a mapping of keyword inputs where there are several.
            One image `(C, H, W)`, a PIL image, a file name, or a list of these become a batch by the network's own
            preprocessing.
        layers: `"auto"` (the last map of the forward pass), a dotted name, a module, or a list of these.
        methods: names of functions in `camtrain.cam`, or functions of (activations, gradients), all computed from the
            one pass. Those that run the model themselves (`score_cam`, `guided_grad_cam`, `occlusion_map`, ...) follow
            one after the other; give them options by `functools.partial`. `occlusion_map` and
            `guided_backpropagation` need no layer: asked for alone they explain any network.
        target: what is explained: a function of (logits, labels) to `(B,)`, a class's index or name, a tensor `(B,)` of
            indices; or several of these, as `top_k(3)`.
        labels: `(B,)` for targets that need them.
        names: the classes' names by index; None takes those that the network or its library knows.
        transform: from a PIL image to `(C, H, W)`; None takes the network's own preprocessing.

    Returns:
        An `Explanation`, or a tuple of them, one for each of several targets. An empty batch gives empty heatmaps.

    Raises:
        LayerError: for a layer that does not exist or has no map.
        MethodError: for an unknown method.
        GradientError: if no gradient reaches the layer.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    >>> explanation = explain(net, torch.rand(2, 3, 8, 8), target=1)
    >>> explanation.heatmaps["grad_cam"].shape, explanation.resized("grad_cam").shape
    (torch.Size([2, 6, 6]), torch.Size([2, 8, 8]))
    """
    named = name_methods(methods)
    images = as_inputs(model, images, transform)
    known = tuple(names) if names is not None else tuple(class_names(model) or ()) or None
    single = callable(target) or isinstance(target, str) or not isinstance(target, Sequence)
    asked: Sequence[Any] = [target] if single else list(target)  # type: ignore[arg-type]
    targets = tuple(as_target(each, known) for each in asked)
    picture = image_of(images)  # raises before the forward pass, if at all
    _say_if_untrained(model)
    if all(needs_model(method) and not needs_layer(method) for method in named.values()):
        captures = tuple(_without_layer(model, images, each, labels) for each in targets)
    else:
        captures = _captured(model, images, picture, layers, targets, labels)
    explanations = tuple(
        dataclasses.replace(_explained(captured, model, images, named, each, labels), images=picture, names=known)
        for captured, each in zip(captures, targets, strict=True)
    )
    return explanations[0] if single else explanations


def _captured(
    model: nn.Module, images: Any, picture: Tensor, layers: LayerSpec, targets: Sequence[Target], labels: Tensor | None
) -> tuple[Capture, ...]:
    try:
        return capture_each(model, images, layers, targets, labels=labels)
    except RuntimeError as error:
        if picture.ndim == 4 and picture.shape[-1] in (1, 3, 4) and picture.shape[1] > 4:
            raise BatchError(
                f"Images are (B, C, H, W); got {tuple(picture.shape)}, with the channels last, it seems. Give "
                "images.movedim(-1, 1)."
            ) from error
        raise


def as_target(target: Target | int | str | Tensor, names: Sequence[str] | None = None) -> Target:
    """A target as a function; a class's index or name as `class_index` of it.

    >>> as_target(1)(torch.tensor([[1.0, 5.0]]), None)
    tensor([5.])
    """
    if isinstance(target, str):
        return class_index(class_called(target, names))
    if isinstance(target, Tensor) and not target.is_floating_point():
        return class_index(target)
    if callable(target):
        return target
    try:
        return class_index(operator.index(target))
    except TypeError as error:
        raise BatchError(
            f"A target is a class's index or name, or a function of (logits, labels), as class_index(3); not "
            f"{type(target).__name__}: {target!r}."
        ) from error


_untrained: WeakSet[nn.Module] = WeakSet()


def _say_if_untrained(model: nn.Module) -> None:
    if model not in _untrained and is_untrained(model):
        _untrained.add(model)
        _log.warning(
            "%s has random weights, as its constructor left them: the heatmaps explain an untrained network. Load its "
            "weights first.",
            type(model).__name__,
        )


def _without_layer(model: nn.Module, images: Any, target: Target, labels: Tensor | None) -> Capture:
    """The answer alone, for methods that look at no layer."""
    with undisturbed(model, images) as (net, inputs), torch.no_grad():
        output = call(net, inputs)
        scores = score_of(target, output, usable_in_autograd(labels))
        logits = output if getattr(target, "wants_output", False) else find_logits(output)
    return Capture(logits, checked_scores(scores, [image_of(images)]), (), (), ())


def _explained(
    captured: Capture, model: nn.Module, images: Any, methods: Mapping[str, AnyMethod], target: Target, labels: Any
) -> Explanation:
    heatmaps: dict[str, Tensor] = {}
    states: dict[str, Tensor] = {}
    for name, method in methods.items():
        if needs_model(method) and not needs_layer(method):
            found = {name: method(model, images, target=target, labels=labels)}
            states[name] = states_of(found[name])
        elif needs_model(method):
            maps = [run_method(method, model, images, layer, target, labels) for layer in captured.layers]
            found = dict(zip(_names(name, captured.layers), maps, strict=True))
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
