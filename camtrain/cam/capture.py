"""Activations and gradients from one forward and one partial backward.

`capture` runs the network with gradients off up to the first target layer, whose output becomes a leaf; from there on
gradients are on, so that the graph holds the head alone (the *grad flip*). In training the graph stays whole.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils import _pytree as pytree

from camtrain.cam.hooks import hooked, replace_at, tensor_at, tensors_of
from camtrain.cam.layers import Layer, LayerSpec, find_layers, forget_choice, read_layer, resolve_layers, with_uses
from camtrain.cam.observation import Observer, observing
from camtrain.cam.outputs import find_logits
from camtrain.cam.ownership import call, evaluating, isolated, unwrap, usable_in_autograd
from camtrain.cam.targets import Target, predicted_class, score_of
from camtrain.errors import BatchError, GradientError, LayerError

HALF_SCALE = 1024.0


class Activations(Sequence[Tensor]):
    """One recorded tensor per layer, filled by the forward pass; of a layer used several times, the last use.

    `mean` asks for the last one that some scores depend on.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._tensors: dict[int, Tensor] = {}
        self._every: list[list[Tensor]] = [[] for _ in self._names]

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        if position not in self._tensors:
            raise LayerError(
                f"Layer {self._names[position]!r} is not reached by the forward pass, or returns no tensor: name "
                "another."
            )
        return self._tensors[position]

    @property
    def complete(self) -> bool:
        """Whether every layer was reached."""
        return len(self._tensors) == len(self._names)

    def require_all(self) -> None:
        """LayerError for the first layer that was not reached."""
        for position in range(len(self)):
            self[position]

    def record(self, position: int, tensor: Tensor) -> None:
        """Keep a layer's output; of several uses the last."""
        self._tensors[position] = tensor
        self._every[position].append(tensor)

    @property
    def uses(self) -> list[int]:
        """How often each layer was used."""
        return [len(tensors) for tensors in self._every]

    def mean(self, scores: Tensor) -> None:
        """Of a layer used several times, as for features beside the answer, the last use that the scores depend on."""
        for position, tensors in enumerate(self._every):
            if len(tensors) < 2 or not scores.requires_grad or not all(each.requires_grad for each in tensors):
                continue
            gradients = torch.autograd.grad(scores.sum(), tensors, retain_graph=True, allow_unused=True)
            reached = [tensor for tensor, each in zip(tensors, gradients, strict=True) if each is not None]
            self._tensors[position] = [*tensors, *reached][-1]


def as_layers(layers: LayerSpec | Sequence[Layer] | Layer) -> tuple[Layer, ...]:
    """Modules and `Layer` records as `Layer` records, without looking at a model."""
    given = [layers] if isinstance(layers, (nn.Module, Layer)) else list(layers)
    items = [item for item in given if isinstance(item, (nn.Module, Layer))]
    if len(items) < len(given) or not items:
        raise LayerError(
            f"Recording needs modules or resolved layers, not {layers!r}: call resolve_layers(model, images, layers) "
            "first."
        )
    return tuple(item if isinstance(item, Layer) else Layer(type(item).__name__, item) for item in items)


@contextmanager
def record_activations(layers: LayerSpec | Sequence[Layer] | Layer) -> Iterator[Activations]:
    """Record the outputs of layers during a forward pass that keeps its whole graph.

    Yields a sequence with one tensor per layer, in the layer's own layout (`Layer.to_map` reads it as a map). Where all
    that feeds a layer is frozen, the graph starts at its output. The hooks are gone after the block.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(inplace=True))
    >>> with record_activations(net[0]) as activations:
    ...     _ = net(torch.ones(1, 1, 4, 4))
    >>> activations[0].shape
    torch.Size([1, 2, 4, 4])
    """
    resolved = as_layers(layers)
    activations = Activations([layer.name for layer in resolved])

    def recorder(position: int) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            layer = resolved[position]
            tensor = tensor_at(output, layer.position) if module is layer.module else None  # no copy of the layer
            if tensor is None:
                return None
            if torch.is_grad_enabled() and not tensor.requires_grad and tensor.is_floating_point():
                tensor = tensor.detach().requires_grad_()  # all that feeds the layer is frozen: the graph starts here
            activations.record(position, tensor)
            return replace_at(output, tensor.clone(), layer.position)  # an in-place ReLU must not reach the record

        return hook

    with hooked(layer.module.register_forward_hook(recorder(i)) for i, layer in enumerate(resolved)):
        yield activations


class GradFlip:
    """Forward hooks that cut the graph below the target layers: gradients are off before the first, on from there."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = tuple(layers)
        self.activations = Activations([layer.name for layer in layers])
        self.blocked = False
        self._flipped = False

    def handles(self) -> Iterator[Any]:
        """Register the hooks, one after the other."""
        for position, layer in enumerate(self.layers):
            yield layer.module.register_forward_hook(self._hook(position, layer.position))

    def _hook(self, position: int, place: int) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            tensor = tensor_at(output, place)
            if tensor is None:
                return None
            returned = any(tensor is given for given in tensors_of(inputs))
            if returned and tensor._is_view() and not torch.is_grad_enabled():
                self.blocked = True  # PyTorch lets no gradient into a view made without them
                return None
            torch._C._set_grad_enabled(True)
            leaf = self._leaf(tensor, returned)
            self.activations.record(position, leaf)
            if returned and leaf is not tensor:
                tensor.copy_(leaf)  # whoever else holds this tensor, as a skip connection does, depends on it too
                return None
            return replace_at(output, leaf.clone(), place)  # an in-place ReLU further on must not reach the record

        return hook

    def _leaf(self, tensor: Tensor, returned: bool) -> Tensor:
        if self._flipped and tensor.requires_grad:
            return tensor  # below an earlier target: part of its graph already
        self._flipped = True
        own = tensor.is_inference() or returned
        return (tensor.detach().clone() if own else tensor.detach()).requires_grad_()


@dataclass(frozen=True)
class Capture:
    """What one pass gives: logits, scores `(B,)`, and per layer the activations and gradients as `(B, K, *S)`.

    For a target that reads the model's whole output, `logits` is that output, detached. `saturated` `(B,)` says where
    the score no longer moves with the logits: the largest `|d score / d logit|` is below the rounding of their
    precision, as for the log-probability of a class that is certain. It is None where the score does not come from
    logits, and in training.
    """

    logits: Any
    scores: Tensor
    activations: tuple[Tensor, ...]
    gradients: tuple[Tensor, ...]
    layers: tuple[Layer, ...]
    saturated: Tensor | None = None


def gradients_of(
    scores: Tensor,
    activations: Sequence[Tensor],
    *,
    create_graph: bool = False,
    retain_graph: bool | None = None,
) -> list[Tensor]:
    """`d scores.sum() / d A` for each recorded tensor; zeros for one that the scores do not use.

    `.grad` of nothing is touched. With `create_graph` the gradients can be differentiated again, for a loss.
    Raises GradientError where the scores carry no graph.

    >>> A = torch.ones(1, 1, 2, 2, requires_grad=True)
    >>> gradients_of((3 * A).sum((1, 2, 3)), [A])[0].unique()
    tensor([3.])
    """
    if not scores.requires_grad:
        raise GradientError(
            "The scores do not depend on the layer through a differentiable path: the model detaches, runs under "
            "no_grad, or the target returned a constant. Name a layer after the detach, or another target."
        )
    if any(not tensor.requires_grad for tensor in activations):
        raise GradientError(
            "A recorded layer is not part of the graph: it ran under no_grad, or inside a reentrant checkpoint. Name a "
            "layer outside of it, or checkpoint with use_reentrant=False."
        )
    return list(
        torch.autograd.grad(
            scores,
            list(activations),
            grad_outputs=torch.ones_like(scores),
            create_graph=create_graph,
            retain_graph=retain_graph,
            materialize_grads=True,
        )
    )


def capture(
    model: nn.Module,
    images: Any,
    layers: LayerSpec = "auto",
    target: Target = predicted_class,
    *,
    labels: Tensor | None = None,
    create_graph: bool = False,
) -> Capture:
    """Activations and gradients of one or several layers.

    Without `create_graph` the model is evaluated (each module's mode is restored), and only the part after the first
    layer is in a graph. With it the model runs in the mode it is in and the graph stays whole, for training.
    `images` is a tensor `(B, ...)`, a tuple of positional inputs, or a mapping of keyword inputs. No images give empty
    results.
    Raises LayerError for layers that cannot be explained, GradientError where no gradient reaches them, BatchError for
    a target that does not return one score per image.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    >>> captured = capture(net, torch.rand(5, 1, 4, 4), "1")
    >>> captured.activations[0].shape, captured.scores.shape
    (torch.Size([5, 2, 2, 2]), torch.Size([5]))
    """
    if create_graph:
        return _capture_in_training(unwrap(model), images, layers, target, labels)
    return capture_each(model, images, layers, (target,), labels=labels)[0]


Targets = Sequence[Target] | Callable[[Any], Sequence[Target]]


def capture_each(
    model: nn.Module,
    images: Any,
    layers: LayerSpec,
    targets: Targets,
    *,
    labels: Tensor | None = None,
) -> tuple[Capture, ...]:
    """`capture` for several targets: one forward pass, one partial backward pass for each.

    `targets` may be a function of the model's output, where that says how many there are.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    >>> first, second = capture_each(net, torch.rand(5, 1, 4, 4), "1", [lambda z, _: z[:, 0], lambda z, _: z[:, 1]])
    >>> first.activations[0] is second.activations[0]
    True
    """
    model = unwrap(model)
    try:
        return _evaluated(model, images, _find(model, images, layers), targets, labels)
    except (LayerError, GradientError):
        if not _is_auto(layers) or not forget_choice(model, images):
            raise
    return _evaluated(model, images, _find(model, images, layers), targets, labels)  # it runs another way by now


def _evaluated(
    model: nn.Module, images: Any, layers: tuple[Layer, ...], targets: Targets, labels: Tensor | None
) -> tuple[Capture, ...]:
    with isolated(model, images), evaluating(model):
        inputs, labels = usable_in_autograd(images), usable_in_autograd(labels)
        try:
            return _flipped(model, inputs, layers, targets, labels)
        except RuntimeError as error:
            if "modified by an inplace operation" not in str(error):
                raise
        # At rest a dropout returns its input, and a later layer overwrites it. torch's allow_mutation_on_saved_tensors
        # tells tensors apart by addresses, which are used again: one in ten thousand graphs got another tensor.
        with saved_tensors_hooks(lambda saved: saved.detach().clone(), lambda saved: saved):
            return _flipped(model, inputs, layers, targets, labels)


def _is_auto(layers: LayerSpec) -> bool:
    return isinstance(layers, str) and layers == "auto"


def _find(model: nn.Module, images: Any, layers: LayerSpec) -> tuple[Layer, ...]:
    return resolve_layers(model, images, "auto") if _is_auto(layers) else find_layers(model, layers)


def _capture_in_training(
    model: nn.Module, images: Any, layers: LayerSpec, target: Target, labels: Tensor | None
) -> Capture:
    found = _find(model, images, layers)
    with torch.enable_grad(), _observing(model, images, found) as observer, record_activations(found) as recorded:
        output = call(model, images)
        scores = score_of(target, output, labels)
    recorded.require_all()
    recorded.mean(scores)
    resolved = _resolved(found, recorded, model, images, observer)
    maps = tuple(layer.to_map(a) for layer, a in zip(resolved, recorded, strict=True))
    gradients = gradients_of(checked_scores(scores, maps), list(recorded), create_graph=True)
    return Capture(
        _logits_or_output(output, target),
        scores,
        maps,
        tuple(layer.to_map(g) for layer, g in zip(resolved, gradients, strict=True)),
        resolved,
    )


def _flipped(
    model: nn.Module,
    images: Any,
    layers: tuple[Layer, ...],
    targets: Targets,
    labels: Tensor | None,
) -> tuple[Capture, ...]:
    try:
        return _flipped_once(model, images, layers, targets, labels, enabled=False)
    except GradientError:  # a no_grad block inside the model ended after the layer, or a view needs gradients before it
        return _flipped_once(model, images, layers, targets, labels, enabled=True)


def _flipped_once(
    model: nn.Module,
    images: Any,
    layers: tuple[Layer, ...],
    targets: Targets,
    labels: Tensor | None,
    *,
    enabled: bool,
) -> tuple[Capture, ...]:
    flip = GradFlip(layers)
    with ExitStack() as stack:
        stack.enter_context(torch.set_grad_enabled(enabled))
        observer = stack.enter_context(_observing(model, images, layers))
        stack.enter_context(hooked(flip.handles()))
        output = call(model, images)
    if flip.blocked:
        raise GradientError(
            "A layer returns a view of its input that was made without gradients: it needs them before."
        )
    flip.activations.require_all()
    resolved = _resolved(layers, flip.activations, model, images, observer)
    with torch.enable_grad():
        return differentiate(output, targets, labels, flip.activations, resolved)


def _observing(model: nn.Module, images: Any, layers: Sequence[Layer]) -> AbstractContextManager[Observer | None]:
    """An observer of the forward pass where a layer's layout is not known, or holds for one image size alone."""
    if all(layer.layout is not None and layer.layout.any_size for layer in layers):
        return nullcontext()
    return observing(Observer(model, images, only={layer.module for layer in layers}))


def _resolved(
    layers: Sequence[Layer], activations: Activations, model: nn.Module, images: Any, observer: Observer | None
) -> tuple[Layer, ...]:
    read = layers if observer is None else [read_layer(layer, model, images, observer) for layer in layers]
    return tuple(with_uses(layer, uses) for layer, uses in zip(read, activations.uses, strict=True))


def differentiate(
    output: Any, targets: Targets, labels: Tensor | None, activations: Activations, layers: Sequence[Layer]
) -> tuple[Capture, ...]:
    """A `Capture` for each target from a forward pass whose graph starts at the activations."""
    maps: tuple[Tensor, ...] = ()
    captures = []
    targets = targets(output) if callable(targets) else targets
    for position, target in enumerate(targets):
        logits = _logits_or_output(output, target)
        scores = target(logits, labels)
        if position == 0:
            activations.mean(scores)
            maps = tuple(layer.to_map(a.detach()) for layer, a in zip(layers, activations, strict=True))
        scores = checked_scores(scores, maps)
        watched = [logits] if isinstance(logits, Tensor) and logits.requires_grad else []
        retain = position < len(targets) - 1
        gradients = _gradients(scores, [*activations, *watched], retain_graph=retain)
        captures.append(
            Capture(
                pytree.tree_map_only(Tensor, Tensor.detach, logits),
                scores.detach(),
                maps,
                tuple(layer.to_map(g) for layer, g in zip(layers, gradients, strict=False)),
                tuple(layers),
                _saturated(gradients[-1], logits.dtype) if watched else None,
            )
        )
    return tuple(captures)


def _logits_or_output(output: Any, target: Target) -> Any:
    return output if getattr(target, "wants_output", False) else find_logits(output)


def checked_scores(scores: Tensor, maps: Sequence[Tensor]) -> Tensor:
    """The scores, if there is one for each image, as for the layers' maps `(B, K, *S)`; else BatchError."""
    batch = len(maps[0])
    if scores.shape != (batch,):
        raise BatchError(
            f"A target returns one score per image, (B,) = ({batch},); this one returned {tuple(scores.shape)}. For "
            "outputs other than (B, C) use a target made for them, as segmentation_region or caption_token."
        )
    return scores


def _gradients(scores: Tensor, inputs: Sequence[Tensor], *, retain_graph: bool) -> list[Tensor]:
    """The gradients; in float16, whose smallest numbers are not small, those of a larger score, divided afterwards."""
    if all(tensor.dtype != torch.float16 for tensor in inputs):
        return gradients_of(scores, inputs, retain_graph=retain_graph)
    scaled = gradients_of(scores * HALF_SCALE, inputs, retain_graph=True)
    if all(torch.isfinite(gradient).all() for gradient in scaled):
        return [gradient.float() / HALF_SCALE for gradient in scaled]
    return gradients_of(scores, inputs, retain_graph=retain_graph)


def _saturated(gradient: Tensor, precision: torch.dtype) -> Tensor:
    return (
        gradient.reshape(len(gradient), math.prod(gradient.shape[1:])).abs().amax(dim=1) <= torch.finfo(precision).eps
    )
