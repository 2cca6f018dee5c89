"""Which part of a module answers the batch's images, and which layers are read: looked for first, then known."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from camtrain.alignment.calls import holds_logits, holds_own, logits_call
from camtrain.cam import Layer, find_layers, resolve_layers
from camtrain.cam.layouts import readings
from camtrain.cam.ownership import part_named
from camtrain.errors import LayerError
from camtrain.packages import overrides
from camtrain.tasks.calls import Call, Calls

Parts = dict[str, nn.Module]


class Looking:
    """Before the network is known: every part's calls are watched, until one of them answers the batch's images.

    Args:
        module: all that is trained.
        model: the part that returns the logits, by name or as a module; None to find it.
        layers: "auto" (the last map), a dotted name in the module, a module, or a list of these.
        name: of the part that answered in an earlier fit; `takes_own` is what was known of it.

    Raises LayerError for layers that the module does not have, ConfigurationError for such a part.

    >>> list(Looking(nn.Sequential(nn.Linear(1, 1)), model="0").parts)
    ['0']
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        model: str | nn.Module | None = None,
        layers: Any = "auto",
        name: str | None = None,
        takes_own: bool | None = None,
    ) -> None:
        self.module, self.name, self.takes_own = module, name, takes_own
        self.layers: tuple[Layer, ...] = (
            () if isinstance(layers, str) and layers == "auto" else find_layers(module, layers)
        )
        self._part = dict([part_named(module, model)]) if model is not None else _part_named(module, name)
        self._refusal: LayerError | None = None

    @property
    def is_named(self) -> bool:
        """Whether the part is known by name, though it has not answered yet."""
        return bool(self._part)

    @property
    def parts(self) -> Parts:
        """Whose calls are to be watched."""
        return self._part or dict(self.module.named_modules())

    def look_ahead(self, images: Tensor) -> None:
        """Find the last map, where no layer was named: of the part that was named, else, if that is a head, of all.

        None is found where no part takes the images as they are in the batch; then `find` looks in the call.
        """
        for part in (self._part, {}) if self._part else ({},):
            if not self.layers:
                try:
                    self.layers = (last_map(self.module, images, part),)
                except LayerError as error:
                    self._refusal = self._refusal or error

    def find(self, calls: Calls, own: Sequence[Tensor], images: int, loss: Tensor | None) -> tuple["Network", Call]:
        """The network and its call. `own` are tensors that are the batch's images. Raises as `logits_call` does.

        Where `look_ahead` found no layer it is the last map of the module as it was called, by position if it was
        given anything by position. LayerError, that of `look_ahead`, where it has none either.
        """
        call = logits_call(calls, own, images, loss=loss)
        layers = self.layers
        if self._refusal is not None and not layers:
            try:
                (layer,) = resolve_layers(call.module, call.args or call.kwargs)
            except Exception as error:  # whatever a foreign forward raises
                raise self._refusal from error
            layers = (_within(call.name, layer),)
        return Network(call.name, call.module, layers, takes_own=call.took(own)), call


class Network:
    """The part that answers the batch's images, and the layers whose outputs are explained.

    `takes_own`: it is given the batch's very tensor, and not images that are made of it.
    """

    def __init__(self, name: str, module: nn.Module, layers: tuple[Layer, ...] = (), *, takes_own: bool = True) -> None:
        self.name, self.module, self.layers, self.takes_own = name, module, layers, takes_own
        self.is_named = True
        self._size: torch.Size | None = None

    @property
    def parts(self) -> Parts:
        """Whose calls are to be watched."""
        return {self.name: self.module}

    def read(self, calls: Calls, own: Sequence[Tensor], images: int, loss: Tensor | None) -> Call | None:
        """The call to teach; None where a step, or a backward pass of it, has no answer to the batch's images."""
        if not calls.activations.complete or not any(map(holds_logits, calls.made)):
            return None
        if self.takes_own and not holds_own(calls, own):
            return None
        return logits_call(calls, own, images, loss=loss)

    def read_layers(self, images: Tensor, activations: Sequence[Tensor]) -> tuple[Layer, ...]:
        """The layers with their layouts: anew where these go with the size of the images, and that has changed."""
        size = images.shape[2:]
        unread = self._size is None and any(layer.layout is None for layer in self.layers)
        resized = self._size not in (None, size)
        if unread or (resized and any(layer.layout and not layer.layout.any_size for layer in self.layers)):
            self.layers = read_as_maps(self.module, images, self.layers, activations)
        self._size = size
        return self.layers


def _part_named(module: nn.Module, name: str | None) -> Parts:
    return {each: part for each, part in module.named_modules() if each == name}


def _within(name: str, layer: Layer) -> Layer:
    return dataclasses.replace(layer, name=f"{name}.{layer.name}" if name else layer.name)


def last_map(module: nn.Module, images: Tensor, part: Mapping[str, nn.Module]) -> Layer:
    """The last layer with a map, found in a dry forward of the first part that takes images.

    Tried are `part`, else the module itself if it has a `forward`, else its children, largest first. LayerError says
    what each of them answered.
    """
    refusals = []
    for name, candidate in (part or dict(_candidates(module))).items():
        try:
            (layer,) = resolve_layers(candidate, _as_numbers(images))
        except Exception as error:  # whatever a foreign forward raises
            refusals.append(f"{name or type(module).__name__}: {str(error) or repr(error)}")
            continue
        return _within(name, layer)
    raise LayerError(
        f"layers='auto' needs a part that takes images of shape {tuple(images.shape)}; tried "
        f"{'; '.join(refusals) or 'none'}. Name the layer, as layers='net.layer4', or the part with model='net'."
    )


def read_as_maps(
    module: nn.Module, images: Tensor, layers: Sequence[Layer], activations: Sequence[Tensor]
) -> tuple[Layer, ...]:
    """Layers with how their outputs are read: as the shapes allow, or as a dry forward shows where these leave open.

    Where the module does not take these images the layers stay as they are: an output `(B, K, *S)` is read as it is.
    """
    frame = tuple(images.shape[2:])
    open_to = [readings(tuple(activation.shape), frame) for activation in activations]
    if all(len(layouts) == 1 and layouts[0].any_size for layouts in open_to):
        return tuple(dataclasses.replace(a, layout=b[0]) for a, b in zip(layers, open_to, strict=True))
    with suppress(Exception):  # whatever a foreign forward raises
        resolved = resolve_layers(module, _as_numbers(images), [layer.module for layer in layers])
        return tuple(dataclasses.replace(a, layout=b.layout) for a, b in zip(layers, resolved, strict=True))
    return tuple(layers)


def _as_numbers(images: Tensor) -> Tensor:
    """Images of bytes as the module may make them."""
    return images if images.is_floating_point() else images.float()


def _candidates(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The module, and its children: those with most to train first, since a larger one may be a frozen teacher."""
    if overrides(module, "forward"):
        yield "", module
    sizes = {name: _size(child) for name, child in module.named_children()}
    for name in sorted(sizes, key=sizes.__getitem__, reverse=True):
        if sizes[name][1]:
            yield name, module.get_submodule(name)


def _size(module: nn.Module) -> tuple[int, int]:
    """Parameters that are trained, and all of them."""
    sizes = [(1 if isinstance(p, UninitializedParameter) else p.numel(), p.requires_grad) for p in module.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)
