"""Which layers to explain: names, modules and "auto" become `Layer` records in one place."""

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from camtrain.cam.ownership import call, evaluating, isolated, unwrap, usable_in_autograd
from camtrain.errors import LayerError


@dataclass(frozen=True)
class Layout:
    """How a layer's output is read as a map: a name and the function to `(B, K, *S)`."""

    name: str
    to_map: Callable[[Tensor], Tensor]


CHANNELS_FIRST = Layout("channels first", lambda tensor: tensor)


@dataclass(frozen=True)
class Layer:
    """A layer to explain: its dotted name, its module, how its output is read as a map, and why it was chosen."""

    name: str
    module: nn.Module
    reason: str = "given"
    layout: Layout = field(default=CHANNELS_FIRST, repr=False)

    def to_map(self, tensor: Tensor) -> Tensor:
        """The layer's output, or a gradient of the same shape, as `(B, K, *S)`."""
        if tensor.ndim < 3:
            raise LayerError(_unreadable(self.name, tensor))
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
    modules: dict[str, nn.Module] = {_plain(name): module for name, module in model.named_modules() if name}
    if isinstance(spec, nn.Module):
        for name, module in modules.items():
            if module in (spec, getattr(spec, "_orig_mod", None)):
                return Layer(name, module)
        raise LayerError(f"The module {type(spec).__name__} given as a layer is not part of {type(model).__name__}.")
    if not isinstance(spec, str):
        raise TypeError(f"A layer is 'auto', a dotted name or a module, not {type(spec).__name__}: {spec!r}.")
    if _plain(spec) in modules:
        return Layer(_plain(spec), modules[_plain(spec)])
    raise LayerError(f"No layer named {spec!r} in {type(model).__name__}; closest: {_closest(spec, modules)}.")


def _plain(name: str) -> str:
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

    The dry forward runs on the first two images, in evaluation mode and without gradients; the random state and every
    module's mode are restored. `"auto"` takes the last module with parameters whose output is a map of more than one cell.
    Raises LayerError for an unknown layer, one that the forward does not reach, and an output that is not a map.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    >>> [layer.name for layer in resolve_layers(net, torch.zeros(1, 3, 8, 8))]
    ['0']
    """
    model = unwrap(model)
    if isinstance(layers, str) and layers == "auto":
        return (_last_map(model, _dry_outputs(model, images, dict(model.named_modules()))),)
    found = find_layers(model, layers)
    outputs = _dry_outputs(model, images, {layer.name: layer.module for layer in found})
    return tuple(_readable(layer, outputs) for layer in found)


def _readable(layer: Layer, outputs: dict[str, Tensor]) -> Layer:
    if layer.name not in outputs:
        raise LayerError(
            f"Layer {layer.name!r} is not reached by the forward pass, or returns no tensor: name another."
        )
    if not is_map(outputs[layer.name]):
        raise LayerError(_unreadable(layer.name, outputs[layer.name]))
    return layer


def _unreadable(name: str, tensor: Tensor) -> str:
    return f"The output of layer {name!r} has shape {tuple(tensor.shape)}, which cannot be read as a map (B, K, *S) of more than one cell: name an earlier layer."


def is_map(tensor: Tensor) -> bool:
    """Whether a tensor can be read as `(B, K, h, w)` or `(B, K, t, h, w)` with more than one cell in a frame."""
    return tensor.ndim in (4, 5) and tensor.is_floating_point() and tensor.shape[-1] * tensor.shape[-2] > 1


def _last_map(model: nn.Module, outputs: dict[str, Tensor]) -> Layer:
    learned = {name for name, module in model.named_modules() if name and any(True for _ in module.parameters())}
    names = [name for name in outputs if name in learned and is_map(outputs[name])]
    if not names:
        shapes = {name: tuple(tensor.shape) for name, tensor in list(outputs.items())[-5:]}
        raise LayerError(
            f"No layer of {type(model).__name__} has a map of more than one cell; the last outputs were {shapes}. Name a layer, or use larger images."
        )
    last = outputs[names[-1]]
    # A container returns the very tensor of its last child: take the outermost of them.
    chosen = min((name for name in names if outputs[name] is last), key=lambda name: name.count("."))
    shape = "x".join(str(side) for side in last.shape[2:])
    return Layer(
        _plain(chosen), model.get_submodule(chosen), f"the last learned map of the forward pass ({shape} cells)"
    )


def _dry_outputs(model: nn.Module, images: Any, modules: dict[str, nn.Module]) -> dict[str, Tensor]:
    """Each module's output in the order in which the modules finish; a module used twice keeps its last."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            tensor = first_tensor(output)
            if tensor is not None:
                outputs.pop(name, None)
                outputs[name] = tensor

        return hook

    with (
        isolated(model, images),
        evaluating(model),
        torch.no_grad(),
        hooked((module.register_forward_hook(keep(name)) for name, module in modules.items() if name)),
    ):
        call(model, usable_in_autograd(_first_two(images)))
    return outputs


def _first_two(images: Any) -> Any:
    return images[:2] if isinstance(images, Tensor) else images


def first_tensor(output: Any) -> Tensor | None:
    """The tensor in a layer's output: itself, or the first one of a tuple."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor):
        return output[0]
    return None


def replace_first(output: Any, tensor: Tensor) -> Any:
    """The layer's output with its first tensor replaced."""
    if isinstance(output, Tensor):
        return tensor
    return type(output)([tensor, *output[1:]]) if type(output) in (tuple, list) else type(output)(tensor, *output[1:])


@contextmanager
def hooked(handles: Iterable[Any]) -> Iterator[None]:
    """Keep the hooks for the duration of the block, and remove each of them afterwards."""
    registered = []
    try:
        for handle in handles:
            registered.append(handle)  # noqa: PERF402  a failure halfway must remove those before it
        yield
    finally:
        for handle in registered:
            handle.remove()
