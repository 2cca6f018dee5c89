"""Finding the network that is aligned: of the calls that a step makes the one that holds the logits, and its layers."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.utils import _pytree as pytree

from camtrain.cam import Activations, Layer, find_layers, record_activations, resolve_layers
from camtrain.cam.hooks import hooked, is_same
from camtrain.cam.layouts import readings
from camtrain.cam.ownership import part_named
from camtrain.data.batches import Batch
from camtrain.errors import BatchError, ConfigurationError, LayerError
from camtrain.packages import overrides
from camtrain.tasks.answers import as_rows, depends_on
from camtrain.tasks.calls import Call, Calls

Parts = dict[str, nn.Module]
_BEHIND = (nn.Softmax, nn.LogSoftmax, nn.Softmax2d, nn.Sigmoid, nn.LogSigmoid, nn.modules.loss._Loss)


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


@contextmanager
def recording(modules: Mapping[str, nn.Module], layers: Sequence[Layer]) -> Iterator[Calls]:
    """Record the outermost calls of some modules, and what the layers put out; every hook goes at the end."""
    with record_activations(layers) if layers else nullcontext(Activations([])) as activations:
        calls = Calls(activations)
        with hooked(calls.handles(modules)):
            yield calls


def logits_call(
    calls: Calls, own: Sequence[Tensor] = (), rows: int | None = None, *, loss: Tensor | None = None
) -> Call:
    """The call whose output holds the logits: the last in a chain such as backbone, then head.

    Of several calls of one module it is that which was given one of the batch's `own` tensors; else the last, if all
    those with so many `rows` of logits were given the same tensors. What the loss does not depend on (the answer of a
    metric) is left out, and so are a softmax or a loss behind the network.

    Raises LayerError where a layer was not reached, ConfigurationError where no call or more than one qualifies.
    """
    if not calls.activations.complete:
        list(calls.activations)  # raises, naming the layer
    by_module: dict[nn.Module, list[Call]] = {}
    made = list(filter(holds_logits, calls.made))
    for call in [call for call in made if call.answer.ndim > 1] or made:  # (B,) may also be losses
        by_module.setdefault(call.module, []).append(call)
    candidates = [_of_one_module(made, own, rows) for made in by_module.values()]
    if len(candidates) > 1:
        used = candidates if loss is None else [call for call in candidates if depends_on(loss, call.answer)]
        behind = [call for call in used or candidates if _is_behind(call)]
        heads = [call for call in behind if not (isinstance(call.module, _BEHIND) and _is_fed(call, behind))]
        candidates = [call for call in heads if not any(_feeds(call, other) for other in heads)]
    if len(candidates) == 1:
        return candidates[0]
    called = ", ".join(map(_describe, candidates or calls.made)) or "none"
    raise ConfigurationError(
        f"The training step must call one module that returns logits (B, C) after the layer; it called "
        f"{'several' if candidates else 'none'} ({called}). Name the one to read with model='...'."
    )


def _is_behind(call: Call) -> bool:
    """Whether it comes after the layers; all do where none is asked for."""
    return not call.activations or any(depends_on(call.answer, a) for a in call.activations)


def other_answers(call: Call) -> str:
    """What else in its output may be the logits, of another width, as a sentence; empty where there is nothing.

    The first is read: a tuple starts with the logits.
    """
    if len({as_rows(answer).shape[1] for answer in call.answers}) < 2:
        return ""
    shapes = ", ".join(str(tuple(answer.shape)) for answer in call.answers)
    return (
        f"reads the first of several outputs {shapes} of {call.name or 'the module itself'!r} as the logits. If these "
        "are others, return a mapping in which they are called 'logits'"
    )


def _describe(call: Call) -> str:
    tensors = [v for v in pytree.tree_leaves(call.output) if isinstance(v, Tensor)]
    shapes = ", ".join(str(tuple(v.shape)) for v in tensors[:3]) or type(call.output).__name__
    return f"{call.name or 'the module itself'!r} gave {shapes}"


def _of_one_module(made: Sequence[Call], own: Sequence[Tensor], rows: int | None) -> Call:
    """The call to read among those of one module."""
    given = [call for call in made if call.took(own)]
    if given:
        return given[-1]
    fitting = [call for call in made if rows is None or len(call.logits) == rows]
    if any(not fitting[-1].took(call.tensors, all_of_them=True) for call in fitting[:-1]):
        name = fitting[-1].name or "the module itself"
        raise ConfigurationError(
            f"The training step calls {name!r} {len(fitting)} times on {rows} images each, none of them the batch's "
            "own tensor, so that it is not known which of them the masks belong to. Give one call the images as they "
            "are in the batch: normalize and augment in the data set, or in on_after_batch_transfer."
        )
    return (fitting or made)[-1]


def holds_own(calls: Calls, own: Sequence[Tensor]) -> bool:
    """Whether any call that returned logits was given one of the batch's own tensors."""
    return any(call.took(own) for call in calls.made if holds_logits(call))


def holds_logits(call: Call) -> bool:
    """Whether its output holds logits `(B, C)` that a gradient leads from."""
    try:
        answer = call.answer
    except BatchError:
        return False
    return bool(call.answers) and answer.requires_grad


def _is_fed(call: Call, others: Sequence[Call]) -> bool:
    return any(_feeds(other, call) for other in others)


def _feeds(call: Call, other: Call) -> bool:
    return other is not call and depends_on(other.answer, call.answer)


def find_images(args: Any, kwargs: Any, batch: Batch, own: Sequence[Tensor] = ()) -> Tensor | None:
    """The images among what a module is given, or None.

    They are the batch's own tensor, or one of `own`; else the first tensor of the batch's number and size of images,
    rather one with as many channels than one in gray or RGB.
    """
    given = [v for v in pytree.tree_leaves((args, kwargs)) if isinstance(v, Tensor) and _could_be(v, batch.images)]
    kept = [v for v in given if any(is_same(v, image) for image in (batch.images, *own))]
    alike = [v for v in given if v.shape[1] == batch.images.shape[1]]
    return next(iter([*kept, *alike, *given]), None)


def _could_be(value: Tensor, images: Tensor) -> bool:
    """Whether these are the images, as the module took them: gray may have become RGB, a feature map is no image."""
    if value.ndim not in (4, 5) or value.ndim != images.ndim or not value.is_floating_point():
        return False
    same_size = (len(value), *value.shape[2:]) == (len(images), *images.shape[2:])
    return same_size and value.shape[1] in (1, 3, images.shape[1])


def answers_again(others: Sequence[Call], call: Call, batch: Batch) -> bool:
    """Whether another call answered as many images, of the batch's size, with logits of as many classes."""
    alike = (other for other in others if find_images(other.args, other.kwargs, batch) is not None)
    return any(as_rows(answer).shape == call.logits.shape for other in alike for answer in other.answers)
