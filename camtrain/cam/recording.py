"""Getting hold of the outputs of layers in a forward pass, with the whole graph or the part after them alone."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from camtrain.cam.hooks import hooked, replace_at, tensor_at, tensors_of
from camtrain.cam.layers import Layer, LayerSpec
from camtrain.errors import LayerError


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
