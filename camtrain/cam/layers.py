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

from camtrain.cam.choices import Choices
from camtrain.cam.layouts import Layout, channels_first
from camtrain.cam.observation import Observer, Output, Topology, is_image, observing, record_first
from camtrain.cam.outputs import answers
from camtrain.cam.ownership import call, evaluating, isolated, unwrap, usable_in_autograd
from camtrain.errors import LayerError

_log = logging.getLogger("camtrain")


@dataclass(frozen=True)
class Layer:
    """A layer to explain: its dotted name, its module, why it was chosen, and how its output is read as a map.

    `layout` is None as long as no forward pass has shown the output; `resolve_layers` and `capture` fill it in.
    """

    name: str
    module: nn.Module
    reason: str = "given"
    layout: Layout | None = field(default=None, repr=False)

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
    uses = [output for output in observer.outputs if output.module is layer.module]
    if not uses:
        raise LayerError(
            f"Layer {layer.name!r} is not reached by the forward pass, or returns no tensor: name another."
        )
    found = uses[-1].layouts
    if len(found) > 1 and observer.only is not None:  # the modules that were not looked at may tell
        return with_uses(read_layer(layer, model, images, _observe(model, images)[0]), len(uses))
    if not found:
        raise LayerError(_unreadable(layer.name, uses[-1].shape))
    known = [layout for layout in found if layer.layout is not None and layout.name == layer.layout.name]
    layout = (known or found)[0] if known or len(found) == 1 else probe(model, images, layer.module, found)
    return with_uses(dataclasses.replace(layer, layout=layout), len(uses))


def with_uses(layer: Layer, uses: int) -> Layer:
    """The layer, with a word on which use is meant where the forward pass uses it several times."""
    told = f"used {uses} times, the last use is explained"
    return layer if uses < 2 or told in layer.reason else dataclasses.replace(layer, reason=f"{layer.reason}; {told}")


def _unreadable(name: str, shape: tuple[int, ...]) -> str:
    return (
        f"The output of layer {name!r} has shape {shape}, which cannot be read as a map (B, K, *S) of more than one "
        "cell: name an earlier layer."
    )


@dataclass(frozen=True)
class _Candidate:
    output: Output
    position: int

    @property
    def cells(self) -> int:
        return min(math.prod(layout.grid) for layout in self.output.layouts)


_choices = Choices()


def _chosen_before(model: nn.Module, images: Any) -> Layer | None:
    known = _choices.recall(model, images)
    if known is None:
        return None
    name, reason, layout = known
    return Layer(plain(name), model.get_submodule(name), reason, layout)


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
            "a layer, or use larger images."
        )
    chosen, why, felt = _best(candidates, Topology(observer, answer))
    module, layouts = chosen.output.module, chosen.output.layouts
    layout = layouts[0] if len(layouts) == 1 else probe(model, images, module, layouts)
    grid = "x".join(str(side) for side in layout.grid)
    layer = Layer(plain(chosen.output.name), module, f"{why} ({grid} cells, {layout.name})", layout)
    layer = with_uses(layer, observer.uses(module))
    if felt and layer.name:
        _choices.remember(model, images, (chosen.output.name, layer.reason, layout))
    _log.info("layers='auto' chose %r of %s: %s", layer.name, type(model).__name__, layer.reason)
    return layer


def _candidates(observer: Observer, answer: Sequence[Tensor]) -> list[_Candidate]:
    """Learned maps in the order in which they were made; a container replaces the child whose tensor it returns."""
    found: dict[Any, _Candidate] = {}
    for position, output in enumerate(observer.outputs):
        if output.learned and output.layouts and not _is_answer(output, answer):
            key = (output.edge.node, output.edge.output_nr, output.shape) if output.edge else position
            found[key] = _Candidate(output, position)
    return list(found.values())


def _is_answer(output: Output, answer: Sequence[Tensor]) -> bool:
    """A segmentation's own logits explain nothing."""
    axis = -1 if output.layouts[0].name == "channels last" else 1
    return any(logits.ndim > 3 and logits.shape[1] == output.shape[axis] for logits in answer)


def _best(candidates: Sequence[_Candidate], topology: Topology) -> tuple[_Candidate, str, bool]:
    """The layer, why, and whether the answer depends on it."""
    felt = _felt(candidates, topology) or (topology.look_behind_the_head() and _felt(candidates, topology))
    if felt:
        return *felt, True
    return _ordered(candidates)[0], "the last of the coarsest maps; no gradient of the answer reached any map", False


def _felt(candidates: Sequence[_Candidate], topology: Topology) -> tuple[_Candidate, str] | None:
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
            if holds(candidate) and topology.is_felt(candidate.output, candidate.output.layouts[0]):
                return candidate, why
    return None


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


def probe(model: nn.Module, images: Any, module: nn.Module, layouts: Sequence[Layout]) -> Layout:
    """The first reading, unless a change of the image's first quarter stays in that of the map under another."""
    few = first_of(images, 1)
    with isolated(model, images), evaluating(model), torch.no_grad():
        before, after = (record_first(model, module, usable_in_autograd(i)) for i in (few, _quarter_changed(few)))
    change = (after - before).abs().float()
    shares = [_share_of_first_quarter(layout.to_map(change)) for layout in layouts]
    return layouts[shares.index(max(shares))] if max(shares) > 1.5 * shares[0] else layouts[0]


def _share_of_first_quarter(change: Tensor) -> float:
    """The share of a change `(B, K, *S)` in the first half of its last two axes, over the share of the area."""
    rows, columns = (-(-side // 2) for side in change.shape[-2:])
    share = change[..., :rows, :columns].sum() / change.sum().clamp_min(1e-30)
    return float(share) * change.shape[-2] * change.shape[-1] / (rows * columns)


def _quarter_changed(images: Any) -> Any:
    def change(tensor: Any) -> Any:
        if not is_image(tensor):
            return tensor
        changed, (rows, columns) = tensor.clone(), (side // 2 for side in tensor.shape[-2:])
        quarter = changed[..., :rows, :columns]
        quarter.copy_(quarter.flip(-1) + tensor.std() + 1)
        return changed

    return pytree.tree_map(change, images)


def first_of(images: Any, count: int) -> Any:
    """The first rows of a model's inputs: of every tensor in them, or of a list of images."""
    if isinstance(images, list):
        return images[:count]
    return pytree.tree_map_only(Tensor, lambda tensor: tensor[:count] if tensor.ndim else tensor, images)
