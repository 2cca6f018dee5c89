"""Which layers to explain: names, modules and "auto" become `Layer` records in one place."""

import dataclasses
import difflib
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from camtrain.cam.layouts import Layout, channels_first
from camtrain.cam.looking import Choices, Interpretation, Looker, read_by_looking
from camtrain.cam.observation import Observer, Output, Topology, observing
from camtrain.cam.outputs import answers
from camtrain.cam.ownership import call, evaluating, isolated, unwrap, usable_in_autograd
from camtrain.errors import LayerError

_log = logging.getLogger("camtrain")


@dataclass(frozen=True)
class Layer:
    """A layer to explain: its dotted name, its module, why it was chosen, and how its output is read as a map.

    `layout` is None as long as no forward pass has shown the output; `resolve_layers` and `capture` fill it in.
    `position` says which of the tensors is meant that the module returns.
    """

    name: str
    module: nn.Module
    reason: str = "given"
    layout: Layout | None = field(default=None, repr=False)
    position: int = field(default=0, repr=False)

    def to_map(self, tensor: Tensor) -> Tensor:
        """The layer's output, or a gradient of the same shape, as `(B, K, *S)`."""
        if self.layout is None and tensor.ndim in (4, 5):
            return channels_first(tuple(tensor.shape)).to_map(tensor)
        if self.layout is None or tensor.ndim < 3:
            raise LayerError(_unreadable(self.name, tuple(tensor.shape)))
        return self.layout.to_map(tensor)


LayerSpec = str | nn.Module | Layer | Sequence[str | nn.Module | Layer]


def find_layers(model: nn.Module, layers: LayerSpec) -> tuple[Layer, ...]:
    """Names and modules as layers, without a forward pass. `"auto"` is not known before one: see `resolve_layers`.

    Raises LayerError for a name that does not exist, with the closest ones, and for a module that is not in the model.

    >>> [layer.name for layer in find_layers(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), "0")]
    ['0']
    """
    specs = [layers] if isinstance(layers, (str, nn.Module, Layer)) else list(layers)
    if not specs:
        raise LayerError("No layer was given: pass 'auto', a dotted name, a module, or a list of these.")
    return tuple(_find(unwrap(model), spec) for spec in specs)


def _find(model: nn.Module, spec: str | nn.Module | Layer) -> Layer:
    if isinstance(spec, Layer):
        return spec
    modules: dict[str, nn.Module] = {plain(name): module for name, module in model.named_modules() if name}
    if isinstance(spec, nn.Module):
        for name, module in modules.items():
            if module in (spec, getattr(spec, "_orig_mod", None)):
                return Layer(name, module)
        raise LayerError(f"The module {type(spec).__name__} given as a layer is not part of {type(model).__name__}.")
    if not isinstance(spec, str):
        raise TypeError(f"A layer is 'auto', a dotted name or a module, not {type(spec).__name__}: {spec!r}.")
    if plain(spec) in modules:
        return Layer(plain(spec), modules[plain(spec)])
    raise LayerError(f"No layer named {spec!r} in {type(model).__name__}; closest: {_closest(spec, modules)}.")


def plain(name: str) -> str:
    """A module's name without what `torch.compile` puts into it."""
    return name.replace("_orig_mod.", "").removesuffix("._orig_mod")


def _closest(name: str, names: Iterable[str]) -> str:
    names = list(names)
    tails = {known.rsplit(".", 1)[-1]: known for known in reversed(names)}
    found = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or [
        tails[tail] for tail in difflib.get_close_matches(name, tails, n=3, cutoff=0.4)
    ]
    return ", ".join(repr(known) for known in found or names[-3:])


def resolve_layers(model: nn.Module, images: Any, layers: LayerSpec = "auto") -> tuple[Layer, ...]:
    """Layers from `"auto"`, a dotted name, a module, or a list of names or modules, checked in one dry forward.

    The dry forward runs on one or two images, in evaluation mode; the random state and every module's mode are
    restored. `"auto"` takes, among the outputs of modules with parameters that can be read as a map of more than one
    cell and on which the answer depends (its gradient is not zero), the one with the fewest cells, and of those the
    last, that every path from the image to the answer goes through. `Layer.reason` and the log say what was found.
    A choice is kept for the model as long as its modules and the size of the images stay the same.
    Raises LayerError for an unknown layer, one that the forward does not reach, and an output that is not a map.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    >>> [layer.name for layer in resolve_layers(net, torch.zeros(1, 3, 8, 8))]
    ['0']
    """
    model = unwrap(model)
    if isinstance(layers, str) and layers == "auto":
        return (_chosen_before(model, images) or _choose(model, images),)
    found = find_layers(model, layers)
    observer, _ = _observe(model, images)
    return tuple(read_layer(layer, model, images, observer) for layer in found)


def read_layer(layer: Layer, model: nn.Module, images: Any, observer: Observer) -> Layer:
    """The layer with the layout that an observed forward pass shows; of several uses it is the last one."""
    outputs = [o for o in observer.outputs if o.module is layer.module and o.position == layer.position]
    if not outputs:
        raise LayerError(
            f"Layer {layer.name!r} is not reached by the forward pass, or returns no tensor: name another."
        )
    layouts = outputs[-1].layouts
    if not layouts:
        raise LayerError(_unreadable(layer.name, outputs[-1].shape))
    named = [layout for layout in layouts if layer.layout is not None and layout.name == layer.layout.name]
    if named or (len(layouts) == 1 and layouts[0].sure):
        return with_uses(dataclasses.replace(layer, layout=(named or layouts)[0]), len(outputs))
    before = _choices.recall(model, images, layer.name)
    layout = before[2] if before else _looked_at(layer, model, images)
    if layer.name:
        _choices.remember(model, images, (layer.name, layer.reason, layout, layer.position), layer.name)
    return with_uses(dataclasses.replace(layer, layout=layout), len(outputs))


def _looked_at(layer: Layer, model: nn.Module, images: Any) -> Layout:
    """How a layer is read whose shape does not settle it; LayerError where no reading holds."""
    observer, answer = _observe(model, images, graph=True)
    output = [o for o in observer.outputs if o.module is layer.module and o.position == layer.position][-1]
    topology = Topology(observer, answer)
    looker = Looker(model, first_of(images, 1), observer.frame)
    reading = _read(looker, [output], observer, topology)
    if reading.layout is None:
        raise LayerError(
            f"The output of layer {layer.name!r} has shape {output.shape}, but {reading.words}. Name an earlier layer, "
            f"or {WITHOUT_LAYER}."
        )
    return reading.layout


def _read(looker: Looker, outputs: Sequence[Output], observer: Observer, topology: Topology) -> Interpretation:
    """How the first output is read; the others are looked at in the same passes, to be asked about later."""
    first = outputs[0]
    if len(first.layouts) == 1 and first.layouts[0].sure:
        return Interpretation(first.layouts[0])
    return read_by_looking(
        looker,
        [(output.module, output.position) for output in outputs],
        first.layouts,
        observer.other_readings(first),
        lambda grid: topology.laid_out_on(first, grid),
    )


def with_uses(layer: Layer, uses: int) -> Layer:
    """The layer, with a word on which use is meant where the forward pass uses it several times."""
    told = f"used {uses} times, the last use that the answer depends on is explained"
    return layer if uses < 2 or told in layer.reason else dataclasses.replace(layer, reason=f"{layer.reason}; {told}")


WITHOUT_LAYER = 'take a method that needs no layer: methods="occlusion_map" or "guided_backpropagation"'


def _unreadable(name: str, shape: tuple[int, ...]) -> str:
    return (
        f"The output of layer {name!r} has shape {shape}, which cannot be read as a map (B, K, *S) of more than one "
        f"cell: name an earlier layer, or {WITHOUT_LAYER}."
    )


@dataclass(frozen=True)
class _Candidate:
    output: Output
    position: int

    @property
    def cells(self) -> int:
        return min(math.prod(layout.grid) for layout in self.output.layouts)

    @property
    def unsure(self) -> bool:
        return len(self.output.layouts) > 1 or not self.output.layouts[0].sure


_choices = Choices()


def _chosen_before(model: nn.Module, images: Any) -> Layer | None:
    known = _choices.recall(model, images)
    if known is None:
        return None
    name, reason, layout, position = known
    return Layer(plain(name), model.get_submodule(name), reason, layout, position)


def forget_choice(model: nn.Module, images: Any) -> bool:
    """Drop what `"auto"` chose before for this model on such images; whether there was anything."""
    return _choices.forget(unwrap(model), images)


def _choose(model: nn.Module, images: Any) -> Layer:
    observer, answer = _observe(model, images, graph=True)
    candidates = _candidates(observer, answers(answer))
    if not candidates:
        shapes = {output.name: output.shape for output in observer.outputs[-5:]}
        raise LayerError(
            f"No layer of {type(model).__name__} has a map of more than one cell; the last outputs were {shapes}. Name "
            f"a layer, use larger images, or {WITHOUT_LAYER}."
        )
    looks = _Looks(observer, Topology(observer, answer), Looker(model, first_of(images, 1), observer.frame), candidates)
    choice = _best(candidates, looks)
    if choice is None:
        last = next(iter(looks.refusals))
        raise LayerError(
            f"No layer of {type(model).__name__} has a map that holds its places. Of {last!r}: {looks.refusals[last]}. "
            f"Name a layer whose cells are places of the image, or {WITHOUT_LAYER}."
        )
    chosen, why, felt = choice
    module, reading = chosen.output.module, looks.read(chosen)
    assert reading.layout is not None
    grid = "x".join(str(side) for side in reading.layout.grid)
    words = ", ".join(word for word in (f"{grid} cells", reading.layout.name, reading.words) if word)
    layer = Layer(plain(chosen.output.name), module, f"{why} ({words})", reading.layout, chosen.output.position)
    layer = with_uses(layer, observer.uses(module))
    if felt and layer.name:
        remembered = (chosen.output.name, layer.reason, reading.layout, layer.position)
        _choices.remember(model, images, remembered)
    _log.info("layers='auto' chose %r of %s: %s", layer.name, type(model).__name__, layer.reason)
    return layer


class _Looks:
    """The candidates' readings, each looked for once; and why some have none."""

    def __init__(
        self, observer: Observer, topology: Topology, looker: Looker, candidates: Sequence[_Candidate]
    ) -> None:
        self.observer, self.topology, self.looker = observer, topology, looker
        self.refusals: dict[str, str] = {}
        self._unsure = [candidate.output for candidate in _ordered(candidates) if candidate.unsure]
        self._readings: dict[Output, Interpretation] = {}

    def read(self, candidate: _Candidate) -> Interpretation:
        """How a candidate is read; a few that may be asked about next are looked at in the same passes."""
        output = candidate.output
        if output not in self._readings:
            start = self._unsure.index(output) if candidate.unsure else 0
            together = (
                [output, *self._unsure[start + 1 : start + _LOOKED_AT_TOGETHER]] if candidate.unsure else [output]
            )
            reading = _read(self.looker, together, self.observer, self.topology)
            self._readings[output] = reading
            if reading.layout is None:
                self.refusals[output.name] = reading.words
        return self._readings[output]

    def is_felt(self, candidate: _Candidate) -> bool:
        """Whether the candidate has a reading, and the answer depends on the map."""
        if not self.topology.is_felt(candidate.output, candidate.output.layouts[0]):
            return False
        layout = self.read(candidate).layout
        return layout is not None and self.topology.is_felt(candidate.output, layout)


_LOOKED_AT_TOGETHER = 8


def _candidates(observer: Observer, answer: Sequence[Tensor]) -> list[_Candidate]:
    """Learned maps in the order in which they were made; a container replaces the child whose tensor it returns."""
    found: dict[Any, _Candidate] = {}
    last = {(output.module, output.position): order for order, output in enumerate(observer.outputs)}
    for order, output in enumerate(observer.outputs):
        if last[output.module, output.position] != order:
            continue  # the last use is explained
        if output.learned and output.layouts and not _is_answer(output, answer):
            key = (output.edge.node, output.edge.output_nr, output.shape) if output.edge else order
            if output.position or output.wrapped:  # the others that a module returns count where nobody else does
                found.setdefault(key, _Candidate(output, order))
            else:
                found[key] = _Candidate(output, order)
    return list(found.values())


def _is_answer(output: Output, answer: Sequence[Tensor]) -> bool:
    """A segmentation's own logits explain nothing."""
    axis = -1 if output.layouts[0].name == "channels last" else 1
    return any(logits.ndim > 3 and logits.shape[1] == output.shape[axis] for logits in answer)


def _best(candidates: Sequence[_Candidate], looks: _Looks) -> tuple[_Candidate, str, bool] | None:
    """The layer, why, and whether the answer depends on it."""
    felt = _felt(candidates, looks) or (looks.topology.look_behind_the_head() and _felt(candidates, looks))
    if felt:
        return *felt, True
    # Where nothing says that the answer depends on it, cells that hold no place may as well be channels.
    readable = (c for c in _ordered(candidates) if looks.read(c).layout is not None and looks.read(c).seen)
    first = next(readable, None)
    return (
        None
        if first is None
        else (first, "the last of the coarsest maps; no gradient of the answer reached any map", False)
    )


def _felt(candidates: Sequence[_Candidate], looks: _Looks) -> tuple[_Candidate, str] | None:
    topology = looks.topology
    late = candidates[len(candidates) // 2].position
    fewest = min((c.cells for c in candidates if topology.feeds_all(c.output)), default=0)

    def is_neck(c: _Candidate) -> bool:  # an early one counts only if nothing coarser serves all heads, as in a pyramid
        return (c.position >= late or c.cells <= fewest) and topology.is_cut(c.output)

    rules: tuple[tuple[Callable[[_Candidate], bool], str], ...] = (
        (is_neck, "the last of the coarsest maps that every path to the answer goes through"),
        (lambda c: topology.feeds_all(c.output), "the last of the coarsest maps that every head uses"),
        (lambda c: True, "the last of the coarsest maps"),
    )
    for holds, why in rules:
        for candidate in _ordered(candidates):
            if holds(candidate) and looks.is_felt(candidate):
                return _by_share(candidate, why, candidates, looks, is_early=candidate.position < late)
    return None


def _by_share(
    first: _Candidate, why: str, candidates: Sequence[_Candidate], looks: _Looks, *, is_early: bool
) -> tuple[_Candidate, str]:
    """Another map of a classifier than the first, where more of the answer's gradient passes, or some of it later.

    A network with exits has every path through its first stage alone; branches that are joined outside of any module
    are each but a part of what the head reads.
    """
    topology = looks.topology
    is_cut = topology.is_cut(first.output)
    if not topology.is_of_classes or (is_cut and not is_early):
        return first, why
    if is_cut:
        later = [c for c in _ordered(candidates) if c.cells < first.cells and c.position > first.position]
        for candidate in later[:_SHARES_ASKED]:
            share = topology.share(candidate.output)
            if share >= _MUCH and looks.is_felt(candidate):
                return (
                    candidate,
                    f"the last of the coarsest maps; {share:.0%} of the answer's gradient passes through it",
                )
        return first, why
    alike = [c for c in _ordered(candidates) if c.cells == first.cells]
    branches = [
        c for c in alike if not any(topology.feeds(c.output, other.output) for other in alike if other is not c)
    ]
    sizes = {c: topology.strength(c.output) for c in branches if looks.is_felt(c)}
    if len(sizes) < 2:
        return first, why
    largest = max(sizes, key=lambda candidate: sizes[candidate])
    share = sizes[largest] / sum(sizes.values())
    part = f"one of {len(sizes)} branches, which has {share:.0%} of the answer's gradient at them"
    return largest, f"{why}, {part}"


_SHARES_ASKED = 8
_MUCH = 0.1  # of the answer's gradient: of three exits, some convolutions in front of the last dampen a third


def _ordered(candidates: Sequence[_Candidate]) -> list[_Candidate]:
    return sorted(candidates, key=lambda candidate: (candidate.cells, -candidate.position))


def _observe(model: nn.Module, images: Any, *, graph: bool = False) -> tuple[Observer, Any]:
    """A dry forward on two images; on one where that suffices to follow the graph: not where the model squeezes."""
    if not graph:
        return _observe_few(model, first_of(images, 2), graph)
    try:
        observer, answer = _observe_few(model, first_of(images, 1), graph)
    except Exception:  # whatever a foreign forward raises on a single image
        return _observe_few(model, first_of(images, 2), graph)
    rows = {tensor.shape[0] if tensor.ndim else 0 for tensor in answers(answer)[:1]}
    if isinstance(images, list) or not rows - {0, 1}:
        return observer, answer
    return _observe_few(model, first_of(images, 2), graph)


def _observe_few(model: nn.Module, images: Any, graph: bool) -> tuple[Observer, Any]:
    observer = Observer(model, images, graph=graph)
    with isolated(model, images), evaluating(model), torch.set_grad_enabled(graph), observing(observer):
        return observer, call(model, usable_in_autograd(images))


def first_of(images: Any, count: int) -> Any:
    """The first rows of a model's inputs: of every tensor in them, or of a list of images."""
    if isinstance(images, list):
        return images[:count]
    return pytree.tree_map_only(Tensor, lambda tensor: tensor[:count] if tensor.ndim else tensor, images)
