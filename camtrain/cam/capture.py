"""Activations and gradients from one forward and one partial backward.

`capture` runs the network with gradients off up to the first target layer, whose output becomes a leaf; from there on
gradients are on, so that the graph holds the head alone (the *grad flip*). `record_activations` leaves the graph whole,
for losses.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from camtrain.cam.layers import (
    Layer,
    LayerSpec,
    first_tensor,
    hooked,
    replace_first,
    resolve_layers,
)
from camtrain.cam.ownership import call, evaluating, isolated, unwrap, usable_in_autograd
from camtrain.cam.targets import Target, find_logits, predicted_class
from camtrain.errors import GradientError, LayerError


class Activations(Sequence[Tensor]):
    """One recorded tensor per layer, filled by the forward pass; of a layer used several times, the last use."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._tensors: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        if position not in self._tensors:
            raise LayerError(f"Layer {self._names[position]!r} was not reached by the forward pass.")
        return self._tensors[position]

    @property
    def complete(self) -> bool:
        """Whether every layer was reached."""
        return len(self._tensors) == len(self._names)

    def record(self, position: int, tensor: Tensor) -> None:
        """Keep a layer's output."""
        self._tensors[position] = tensor


@dataclass(frozen=True)
class Capture:
    """What one pass gives: logits, scores `(B,)`, and per layer the activations and gradients as `(B, K, *S)`."""

    logits: Tensor
    scores: Tensor
    activations: tuple[Tensor, ...]
    gradients: tuple[Tensor, ...]
    layers: tuple[Layer, ...]


def as_layers(layers: LayerSpec | Sequence[Layer] | Layer) -> tuple[Layer, ...]:
    """Modules and `Layer` records as `Layer` records, without looking at a model."""
    given = [layers] if isinstance(layers, (nn.Module, Layer)) else list(layers)
    items = [item for item in given if isinstance(item, (nn.Module, Layer))]
    if len(items) < len(given) or not items:
        raise LayerError(
            f"Recording needs modules or resolved layers, not {layers!r}: call resolve_layers(model, images, layers) first."
        )
    return tuple(item if isinstance(item, Layer) else Layer(type(item).__name__, item) for item in items)


@contextmanager
def record_activations(layers: LayerSpec | Sequence[Layer] | Layer) -> Iterator[Activations]:
    """Record the outputs of layers during a forward pass that keeps its whole graph.

    Yields a sequence with one tensor per layer, in the layer's own layout (`Layer.to_map` reads it as a map). The hooks
    are gone after the block.

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
            tensor = first_tensor(output)
            if tensor is None:
                return None
            activations.record(position, tensor)
            return replace_first(output, tensor.clone())  # an in-place ReLU further on must not reach the record

        return hook

    with hooked(layer.module.register_forward_hook(recorder(i)) for i, layer in enumerate(resolved)):
        yield activations


class GradFlip:
    """Forward hooks that cut the graph below the target layers: gradients are off before the first, on from there."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = tuple(layers)
        self.activations = Activations([layer.name for layer in layers])
        self._flipped = False

    def handles(self) -> Iterator[Any]:
        """Register the hooks, one after the other."""
        for position, layer in enumerate(self.layers):
            yield layer.module.register_forward_hook(self._hook(position))

    def _hook(self, position: int) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            tensor = first_tensor(output)
            if tensor is None:
                return None
            torch._C._set_grad_enabled(True)
            leaf = self._leaf(tensor)
            self.activations.record(position, leaf)
            return replace_first(output, leaf.clone())  # an in-place ReLU further on must not reach the record

        return hook

    def _leaf(self, tensor: Tensor) -> Tensor:
        if self._flipped and tensor.requires_grad:
            return tensor  # below an earlier target: part of its graph already
        self._flipped = True
        return (tensor.clone() if tensor.is_inference() else tensor.detach()).requires_grad_()


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
            "The scores do not depend on the layer through a differentiable path: the model detaches, runs under no_grad, "
            "or the target returned a constant. Name a layer after the detach, or another target."
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

    Without `create_graph` the model is evaluated (each module's mode is restored), and only the part after the first layer
    is in a graph. With it the model runs in the mode it is in and the graph stays whole, for training.
    `images` is a tensor `(B, ...)`, a tuple of positional inputs, or a mapping of keyword inputs.
    Raises LayerError for layers that cannot be explained, GradientError where no gradient reaches them.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    >>> captured = capture(net, torch.rand(5, 1, 4, 4), "1")
    >>> captured.activations[0].shape, captured.scores.shape
    (torch.Size([5, 2, 2, 2]), torch.Size([5]))
    """
    model = unwrap(model)
    resolved = _resolved(model, images, layers)
    if create_graph:
        with torch.enable_grad(), record_activations(resolved) as recorded:
            logits = find_logits(call(model, images))
            return _captured(logits, target(logits, labels), recorded, resolved, create_graph=True)
    with isolated(model, images), evaluating(model):
        inputs = usable_in_autograd(images)
        try:
            return _flipped(model, inputs, resolved, target, labels, enabled=False)
        except GradientError:  # a no_grad block inside the model ended after the layer
            return _flipped(model, inputs, resolved, target, labels, enabled=True)


def _resolved(model: nn.Module, images: Any, layers: Any) -> tuple[Layer, ...]:
    if isinstance(layers, (tuple, list)) and layers and all(isinstance(layer, Layer) for layer in layers):
        return tuple(layers)
    return resolve_layers(model, images, layers)


def _flipped(
    model: nn.Module,
    images: Any,
    layers: tuple[Layer, ...],
    target: Target,
    labels: Tensor | None,
    *,
    enabled: bool,
) -> Capture:
    flip = GradFlip(layers)
    with ExitStack() as stack:
        stack.enter_context(torch.set_grad_enabled(enabled))
        stack.enter_context(hooked(flip.handles()))
        logits = find_logits(call(model, images))
        scores = target(logits, usable_in_autograd(labels))
    return _captured(logits.detach(), scores, flip.activations, layers)


def _captured(
    logits: Tensor,
    scores: Tensor,
    activations: Activations,
    layers: tuple[Layer, ...],
    create_graph: bool = False,
) -> Capture:
    gradients = gradients_of(scores, list(activations), create_graph=create_graph)
    keep = (lambda tensor: tensor) if create_graph else Tensor.detach
    return Capture(
        logits,
        keep(scores),
        tuple(layer.to_map(keep(a)) for layer, a in zip(layers, activations, strict=True)),
        tuple(layer.to_map(g) for layer, g in zip(layers, gradients, strict=True)),
        layers,
    )
