"""What a forward pass shows: which modules ran, in which order, with which shapes, and who depends on whom."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils import _pytree as pytree

from camtrain.cam.hooks import hooked, replace_at, tensor_at, tensors_of
from camtrain.cam.layouts import Layout, Size, other_readings, readings
from camtrain.cam.outputs import answers
from camtrain.cam.spatial import batch_and_frame, frame_seen, is_image


@dataclass(frozen=True, eq=False)
class Output:
    """One tensor of one call of a module: its position in the output, the ways to read it, its place in the graph."""

    name: str
    module: nn.Module
    shape: Size
    learned: bool
    whole: bool  # it has no modules inside
    layouts: tuple[Layout, ...] = ()
    position: int = 0
    wrapped: bool = False  # in a mapping, as transformers' outputs are
    edge: GradientEdge | None = field(repr=False, default=None)


class Observer:
    """Hooks on every module that write down its calls. With `graph` they also see to it that there is a graph to
    follow; with `only` they are on the modules named and on convolutions, which suffices to read a layer that is known.

    `frame` is the size of the image as the first convolution sees it, else that of the images given; `grids` are those
    of the maps seen so far, `stem` is the first map, and `head_input` what went into the last layer with parameters.
    """

    def __init__(
        self, model: nn.Module, images: Any, *, graph: bool = False, only: Collection[nn.Module] | None = None
    ) -> None:
        self.model = model
        self.graph = graph
        self.only = only
        self.batch, self.frame = batch_and_frame(images)
        self.shape = next((tuple(leaf.shape) for leaf in pytree.tree_leaves(images) if is_image(leaf)), None)
        if isinstance(images, list) and self.shape is not None:
            self.shape = (len(images), *self.shape)
        self.outputs: list[Output] = []
        self.grids: list[Size] = []
        self.stem: Output | None = None
        self.head_input: Tensor | None = None
        self._frame_seen = False
        self._orders: dict[Size, set[str]] = {}  # of each shape, where layers of known order had its channels

    def handles(self) -> Iterator[Any]:
        """Register the hooks, one after the other."""
        learned = _with_parameters(self.model) if self.only is None else ()
        for name, module in self.model.named_modules():
            if name and (self.only is None or module in self.only or _is_convolution(module)):
                hook = self._hook(name, name in learned or bool(module._parameters), not module._modules)
                yield module.register_forward_hook(hook)

    def uses(self, module: nn.Module) -> int:
        """How often a module was called."""
        return sum(output.module is module and output.position == 0 for output in self.outputs)

    def _hook(self, name: str, learned: bool, whole: bool) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            given = tensor_at(inputs)
            if learned and whole and given is not None and given.is_floating_point():
                self._look_at_input(module, given)
            wrapped = isinstance(output, Mapping)
            for position, tensor in enumerate(tensors_of(output)):
                layouts = self._read(module, tensor)
                handed = self.graph and learned and any(tensor is other for other in tensors_of(inputs))
                joined = self._joined(tensor, learned and bool(layouts), handed)
                edge = get_gradient_edge(joined) if self.graph and joined.requires_grad else None
                shape = tuple(tensor.shape)
                self._write_down(Output(name, module, shape, learned, whole, layouts, position, wrapped, edge))
                output = replace_at(output, joined, position) if joined is not tensor else output
            return output

        return hook

    def _look_at_input(self, module: nn.Module, tensor: Tensor) -> None:
        if not self._frame_seen and tensor.ndim in (4, 5) and _is_convolution(module):
            seen = frame_seen(self.shape or tuple(tensor.shape), tuple(tensor.shape))
            self.frame, self._frame_seen = seen or self.frame, seen is not None
        if self.graph and tensor.requires_grad:
            self.head_input = tensor

    def other_readings(self, output: Output) -> tuple[Layout, ...]:
        """The less likely ways to read an output."""
        return other_readings(output.shape, self.frame, tuple(self.grids), self.batch)

    def _read(self, module: nn.Module, tensor: Tensor) -> tuple[Layout, ...]:
        shape = tuple(tensor.shape)
        if not tensor.is_floating_point() or not tensor.ndim:
            return ()
        found, own = readings(shape, self.frame, tuple(self.grids), self.batch), channel_order(module, shape)
        if own:
            self._orders.setdefault(shape, set()).add(own)
        told = {own} if own else self._told(shape)
        if own or (len(found) > 1 and len(told) == 1):
            found = tuple(replace(each, sure=True) for each in found if each.name.partition(",")[0] in told)
        if len(shape) == 3 and _is_convolution(module):  # of a signal, or of tokens laid out behind each other
            found = tuple(replace(layout, sure=layout.name == "channels first") for layout in found)
        is_map = len(shape) > 3 or (self.frame is not None and len(self.frame) == 1)
        if is_map and len(found) == 1 and found[0].sure and found[0].grid not in self.grids:
            self.grids.append(found[0].grid)
        return found

    def _told(self, shape: Size) -> set[str]:
        """Where the channels were in outputs of this shape, else in all; not known where only some are looked at."""
        if self.only is not None:
            return set()
        return self._orders.get(shape) or set().union(*self._orders.values())

    def _joined(self, tensor: Tensor, is_map: bool, handed: bool) -> Tensor:
        """The tensor as part of a graph: where there is none the first map is made a leaf, and `no_grad` is left.

        A map that is handed through gets a node of its own, so that this use of it can be told from earlier ones.
        """
        if not self.graph:
            return tensor
        torch._C._set_grad_enabled(True)
        if handed and is_map and tensor.requires_grad:
            return tensor.view_as(tensor)
        if self.stem is not None or not is_map or tensor.requires_grad:
            return tensor
        return tensor.detach().requires_grad_().clone()

    def _write_down(self, output: Output) -> None:
        self.outputs.append(output)
        if self.stem is None and output.learned and output.layouts:
            self.stem = output


@contextmanager
def observing(observer: Observer) -> Iterator[Observer]:
    """The observer's hooks, for the duration of the block."""
    with hooked(observer.handles()):
        yield observer


def _with_parameters(model: nn.Module) -> set[str]:
    """The names of the modules that have parameters, in themselves or in modules inside."""
    found: set[str] = set()
    for name, module in model.named_modules():
        if module._parameters:
            parts = name.split(".")
            found.update(".".join(parts[:end]) for end in range(1, len(parts) + 1))
    return found


def _is_convolution(module: nn.Module) -> bool:
    return any(parameter is not None and parameter.ndim > 2 for parameter in module._parameters.values())


def channel_order(module: nn.Module, shape: Size) -> str | None:
    """Where a convolution, a linear layer or a norm has its channels, by the shape of its weight.

    >>> channel_order(nn.Conv2d(3, 2, 1), (1, 2, 2, 2)), channel_order(nn.Linear(3, 2), (1, 2, 2, 2))
    ('channels first', 'channels last')
    """
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim == 0 or len(shape) < 4:
        return None
    if weight.ndim == len(shape):
        return "channels first"
    first, last = shape[1] == weight.shape[0], shape[-1] == weight.shape[0]
    if weight.ndim == 2 and last:
        return "channels last"
    return None if first == last else "channels first" if first else "channels last"


class Topology:
    """The autograd graph of an observed forward pass, asked about its modules' outputs."""

    def __init__(self, observer: Observer, answer: Any) -> None:
        self.outputs = [output for output in observer.outputs if output.edge is not None and output.learned]
        self.stem = observer.stem
        self._stem = observer.stem.edge.node if observer.stem and observer.stem.edge else None
        self._scored = [tensor for tensor in answers(answer) if tensor.requires_grad]
        self._head_input = observer.head_input
        self._roots = [get_gradient_edge(tensor).node for tensor in self._scored]
        self._heads = self._find_heads()
        self._gradients: dict[Output, Tensor | None] = {}

    def is_cut(self, output: Output) -> bool:
        """Whether every path from the image to the answer goes through the output."""
        if output.edge is None or self._stem is None or output.edge.node not in ancestors(self._roots):
            return False
        return output.edge.node is self._stem or self._stem not in ancestors(self._roots, without=output.edge.node)

    def feeds_all(self, output: Output) -> bool:
        """Whether every head (a layer with parameters that no other such layer uses) depends on the output."""
        return output.edge is not None and all(output.edge.node in above for above in self._heads)

    def is_felt(self, output: Output, layout: Layout) -> bool:
        """Whether the answer for every image changes with the output's map: its gradient is not zero everywhere."""
        if not self._scored:
            return True
        if output not in self._gradients:  # one at first, as it mostly suffices; then all that are left in one pass
            asked = (
                [output] if not self._gradients else [other for other in self.outputs if other not in self._gradients]
            )
            self._gradients.update(zip(asked, self._differentiate(asked), strict=True))
        gradient = self._gradients[output]
        return gradient is not None and bool((layout.to_map(gradient) != 0).flatten(1).any(dim=1).all())

    @property
    def is_of_classes(self) -> bool:
        """Whether the answer is one score for each class."""
        return len(self._scored) == 1 and self._scored[0].ndim == 2

    def feeds(self, output: Output, other: Output) -> bool:
        """Whether another output was computed from this one."""
        if output.edge is None or other.edge is None or output.edge.node is other.edge.node:
            return False
        return output.edge.node in ancestors([other.edge.node])

    def share(self, output: Output) -> float:
        """How much of the answer's gradient at the first map passes through the output, against what passes it by."""
        stem = self.stem.edge if self.stem is not None else None
        if output.edge is None or stem is None:
            return 0.0
        with torch.inference_mode(False), torch.enable_grad():
            score = _projected(self._scored[0])
            whole, here = torch.autograd.grad(score, [stem, output.edge], retain_graph=True, allow_unused=True)
            if whole is None or here is None:
                return 0.0
            if output.edge.node is stem.node:
                return 1.0
            (through,) = torch.autograd.grad([output.edge], [stem], [here], retain_graph=True, allow_unused=True)
        if through is None:
            return 0.0
        passing, rest = float(through.norm()), float((whole - through).norm())
        return passing / max(passing + rest, 1e-30)

    def strength(self, output: Output) -> float:
        """The sum of the magnitudes of the answer's gradient at the output."""
        (gradient,) = self._differentiate([output])
        return 0.0 if gradient is None else float(gradient.abs().sum())

    def laid_out_on(self, output: Output, grid: Size) -> bool:
        """Whether a map of this grid became the rows of the output, followed through attention by its queries alone."""
        waiting, found = [output.edge.node] if output.edge is not None else [], set()
        while waiting:
            node = waiting.pop()
            if node in found:
                continue
            found.add(node)
            if _takes_from_grid(node, grid):
                return True
            below = [each for each, _ in node.next_functions]
            waiting.extend(each for each in below[: _factors_with_its_rows(node)] if each is not None)
        return False

    def look_behind_the_head(self) -> bool:
        """Ask about the input of the last learned layer instead: a head that starts at zero hides all else."""
        if self._head_input is None or not self._head_input.requires_grad:
            return False
        self._scored, self._gradients = [self._head_input], {}
        return True

    def _differentiate(self, outputs: Sequence[Output]) -> Sequence[Tensor | None]:
        edges = [output.edge for output in outputs if output.edge is not None]
        with torch.inference_mode(False), torch.enable_grad():
            score = sum((_projected(tensor) for tensor in self._scored), torch.zeros(()))
            return torch.autograd.grad(score, edges, retain_graph=True, allow_unused=True)

    def _find_heads(self) -> list[set[Any]]:
        used: set[Any] = set()
        heads = []
        for output in reversed(self.outputs):
            node = output.edge.node if output.edge and output.whole else None
            if node is None or node in used:
                continue
            above = ancestors([node])
            used |= above
            if self._stem in above:
                heads.append(above)
        return heads


def ancestors(nodes: Iterable[Any], without: Any = None) -> set[Any]:
    """All nodes of the graph that the given ones were computed from, themselves included; none beyond `without`."""
    found: set[Any] = set()
    waiting = [node for node in nodes if node is not without]
    while waiting:
        node = waiting.pop()
        if node in found:
            continue
        found.add(node)
        waiting.extend(below for below, _ in node.next_functions if below is not None and below is not without)
    return found


def _factors_with_its_rows(node: Any) -> int | None:
    """How many of the first operands of a node have the rows of its result; None for all.

    A product has those of its first factor: attention times values, queries times keys.
    """
    name = node.name().lower()
    return 2 if "baddbmm" in name else 1 if "bmm" in name or "scaleddotproduct" in name else None


def _takes_from_grid(node: Any, grid: Size) -> bool:
    """Whether a node lays a map of this grid, its channels first or last, out in another shape."""
    if not any(word in node.name() for word in ("View", "Reshape")):
        return False
    size = tuple(getattr(node, "_saved_self_sym_sizes", ()))
    return len(size) > len(grid) + 1 and grid in (size[-len(grid) :], size[1 : len(grid) + 1])


def _projected(answer: Tensor) -> Tensor:
    """A fixed projection, so that sums that cannot change (probabilities) do not hide a gradient."""
    flat = answer.flatten().float()
    return (flat * torch.arange(flat.numel(), device=flat.device).cos()).sum().cpu()
