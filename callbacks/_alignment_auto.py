"""Layers of a LightningModule that may have no `forward` of its own: found, and read as maps."""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from camtrain.callbacks._lightning import LightningModule
from camtrain.cam import Layer, resolve_layers
from camtrain.cam.layouts import readings
from camtrain.errors import LayerError
from camtrain.packages import overrides


class Maps:
    """The layers whose outputs are explained, known by name or found, and how these outputs are read as maps."""

    def __init__(self, layers: tuple[Layer, ...] | None = None) -> None:
        self._layers = layers
        self._size: torch.Size | None = None
        self._refused: LayerError | None = None

    def find(self, pl_module: LightningModule, images: Tensor, model: dict[str, nn.Module] | None) -> tuple[Layer, ...]:
        """The layers; where none was named the last map, see `last_map`: of the model, else, if that is a head, of all.

        Empty where no part takes the images as they are in the batch: `find_in` a call of the network then.
        """
        for part in (model, None) if model else (None,):
            if self._layers is None:
                try:
                    self._layers = (last_map(pl_module, images, part),)
                except LayerError as error:
                    self._refused = self._refused or error
        return self._layers or ()

    def find_in(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The last map of a module that was called so. LayerError, that of `find`, where it has none either.

        The dry forward is given the arguments by position, those by name only where there are no others.
        """
        assert self._refused is not None
        try:
            (layer,) = resolve_layers(module, args or kwargs)
        except Exception as error:  # whatever a foreign forward raises
            raise self._refused from error
        self._layers = (dataclasses.replace(layer, name=f"{name}.{layer.name}" if name else layer.name),)

    def read(
        self,
        pl_module: LightningModule,
        images: Tensor,
        activations: Sequence[Tensor],
        model: dict[str, nn.Module] | None,
    ) -> tuple[Layer, ...]:
        """The layers with their layouts: anew where these go with the size of the images, and that has changed."""
        layers, size = self.find(pl_module, images, model), images.shape[2:]
        unread = self._size is None and any(layer.layout is None for layer in layers)
        resized = self._size not in (None, size)
        if unread or (resized and any(layer.layout and not layer.layout.any_size for layer in layers)):
            self._layers = layers = read_as_maps(pl_module, images, layers, activations, model)
        self._size = size
        return layers


def last_map(pl_module: LightningModule, images: Tensor, model: dict[str, nn.Module] | None = None) -> Layer:
    """The last layer with a map, found in a dry forward of the first part that takes images.

    Tried are `model`, else the module itself if it has a `forward`, else its children, largest first. LayerError says
    what each of them answered.
    """
    refused = []
    for name, module in (model or dict(_candidates(pl_module))).items():
        try:
            (layer,) = resolve_layers(module, _as_numbers(images))
        except Exception as error:  # whatever a foreign forward raises
            refused.append(f"{name or type(pl_module).__name__}: {str(error) or repr(error)}")
            continue
        return dataclasses.replace(layer, name=f"{name}.{layer.name}" if name else layer.name)
    raise LayerError(
        f"layers='auto' needs a part that takes images of shape {tuple(images.shape)}; tried "
        f"{'; '.join(refused) or 'none'}. Name the layer, as layers='net.layer4', or the part with model='net'."
    )


def read_as_maps(
    pl_module: LightningModule,
    images: Tensor,
    layers: Sequence[Layer],
    activations: Sequence[Tensor],
    model: dict[str, nn.Module] | None = None,
) -> tuple[Layer, ...]:
    """Layers with how their outputs are read: as the shapes allow, or as a dry forward shows where these leave open.

    The dry forward is that of the first part that holds the layers, tried as for `last_map`. Where none takes these
    images the layers stay as they are: an output `(B, K, *S)` is read as it is.
    """
    frame = tuple(images.shape[2:])
    open_to = [readings(tuple(activation.shape), frame) for activation in activations]
    if all(len(layouts) == 1 and layouts[0].any_size for layouts in open_to):
        return tuple(dataclasses.replace(a, layout=b[0]) for a, b in zip(layers, open_to, strict=True))
    for module in (model or dict(_candidates(pl_module))).values():
        with suppress(Exception):  # whatever a foreign forward raises
            found = resolve_layers(module, _as_numbers(images), [layer.module for layer in layers])
            return tuple(dataclasses.replace(a, layout=b.layout) for a, b in zip(layers, found, strict=True))
    return tuple(layers)


def _as_numbers(images: Tensor) -> Tensor:
    """Images of bytes as the module may make them."""
    return images if images.is_floating_point() else images.float()


def _candidates(pl_module: LightningModule) -> Iterator[tuple[str, nn.Module]]:
    """The module, and its children: those with most to train first, since a larger one may be a frozen teacher."""
    if overrides(pl_module, "forward"):
        yield "", pl_module
    sizes = {name: _size(child) for name, child in pl_module.named_children()}
    for name in sorted(sizes, key=sizes.__getitem__, reverse=True):
        if sizes[name][1]:
            yield name, pl_module.get_submodule(name)


def _size(module: nn.Module) -> tuple[int, int]:
    """Parameters that are trained, and all of them."""
    sizes = [(1 if isinstance(p, UninitializedParameter) else p.numel(), p.requires_grad) for p in module.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)
