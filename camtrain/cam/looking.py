"""Where in the image a layer's cells look, asked of the network: places of the image are changed, one after the other.

A count of tokens is no grid: latents, pooling queries and slots come in squares too, and the tokens of patches in other
orders than row by row. So a quarter of the image is changed, and the layer is read in the order in which the cells of
that quarter change most.
"""

import functools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from camtrain.cam.hooks import hooked, tensor_at
from camtrain.cam.layouts import Layout, Size
from camtrain.cam.ownership import call, evaluating, isolated, usable_in_autograd
from camtrain.cam.spatial import disturbed

Place = tuple[tuple[float, float], ...]
HELD = 0.9  # of pairs of a cell inside and one outside the place, in which the one inside changes more
HELD_ALL = 0.8  # the same where every place was changed
HELD_MORE = 0.03  # by which an unlikely reading must hold better than the likely one
ALIKE = 1e-3  # deviation over mean of the changes of all cells: nothing to tell them apart by
CONTRAST = 1.5  # change inside over change outside that is beyond chance
FEW = 9  # cells; fewer hold their places by chance more often
CONTRAST_OF_FEW = 3.0


HELD_WELL = 0.97  # nothing else is asked for then, and what an unlikely reading must reach
HELD_WEAKLY = 0.65  # this, and a map of the grid that became these cells


@dataclass(frozen=True)
class Interpretation:
    """How an output is read, None where no reading holds, the words on what was seen, and whether places were held."""

    layout: Layout | None
    words: str = ""
    seen: bool = True


def places_of(axes: int) -> tuple[Place, ...]:
    """The places to change, the most telling ones first: quarters of a signal or a picture, four octants of a clip.

    >>> places_of(1)[:2]
    (((0.0, 0.25),), ((0.5, 0.75),))
    """
    if axes == 1:
        return tuple(((i / 4, (i + 1) / 4),) for i in (0, 2, 1, 3))
    corners = ((0, 0), (0, 1), (1, 0), (1, 1)) if axes == 2 else ((0, 0, 0), (1, 0, 1), (0, 1, 1), (1, 1, 0))
    return tuple(tuple((half / 2, (half + 1) / 2) for half in corner) for corner in corners)


@functools.lru_cache(maxsize=1024)
def inside_and_outside(grid: Size, place: Place) -> tuple[Tensor, Tensor]:
    """Which cells of a grid lie in a place and which lie outside, `(*S)` both; those on its border are neither.

    An axis of one cell lies in every place.

    >>> inside, outside = inside_and_outside((1, 3), ((0.0, 0.5), (0.0, 0.5)))
    >>> inside.tolist(), outside.tolist()
    ([[True, False, False]], [[False, False, True]])
    """
    shares = torch.ones(grid)
    for axis, (cells, (start, stop)) in enumerate(zip(grid, place[-len(grid) :], strict=True)):
        edges = torch.arange(cells + 1) / cells
        covered = (edges[1:].clamp(max=stop) - edges[:-1].clamp(min=start)).clamp(min=0) * cells
        covered = torch.ones(1) if cells == 1 else covered
        shares = torch.minimum(shares, covered.reshape([-1 if i == axis else 1 for i in range(len(grid))]))
    return shares > 0.75, shares < 0.25


@dataclass(frozen=True)
class Held:
    """How well changes hold the places that were changed.

    `score` is the share of pairs of a cell inside the place and one outside in which the one inside changed more: 1
    perfectly, 0.5 not at all. `contrast` is the change inside over that outside, 0 where nothing changed. `alike` says
    that all cells changed by the same amount.
    """

    score: float
    contrast: float
    alike: bool

    def __str__(self) -> str:
        if self.contrast == 0:
            return "none of them changed"
        if self.alike:
            return "all changed alike"
        return f"cells there changed more than others in {self.score:.0%} of pairs, {self.contrast:.2g} times as much"


def hold(changes: Tensor, places: Sequence[Place]) -> Held:
    """How well changes `(P, *S)` hold the places: as they are, or against what other places did to the same cell.

    The second takes out cells that are loud by themselves.
    """
    if not bool(torch.isfinite(changes).all()) or not bool((changes > 0).any()):
        return Held(0.5, 0.0, True)
    logarithms = changes.clamp_min(changes.max() * 1e-12).log()
    relative = logarithms - logarithms.mean(dim=0)
    regions = [inside_and_outside(tuple(changes.shape[1:]), place) for place in places]
    useful = [i for i, (inside, outside) in enumerate(regions) if inside.any() and outside.any()]
    if not useful:
        return Held(0.5, 1.0, True)
    scores = [sum(_ranked(rows[i], *regions[i]) for i in useful) / len(useful) for rows in (logarithms, relative)]
    ratios = [
        float(changes[i][regions[i][0]].mean() / changes[i][regions[i][1]].mean().clamp_min(1e-30)) for i in useful
    ]
    flat = changes.flatten(1)
    alike = bool((flat.std(dim=1) <= ALIKE * flat.mean(dim=1)).all())
    return Held(max(scores), sorted(ratios)[len(ratios) // 2], alike)


def _ranked(changed: Tensor, inside: Tensor, outside: Tensor) -> float:
    inner, outer = changed[inside], changed[outside].sort().values
    lower = torch.searchsorted(outer, inner - _TIE) + torch.searchsorted(outer, inner + _TIE, right=True)
    return float(lower.float().mean()) / (2 * len(outer))


_TIE = 1e-5


class Looker:
    """Forward passes with the image changed in places, and the changes of some modules' outputs in them."""

    def __init__(self, model: nn.Module, images: Any, size: Size | None) -> None:
        self.model, self.images, self.size = model, images, size
        self._seen: dict[tuple[nn.Module, int, int], list[Tensor]] = {}

    @property
    def places(self) -> tuple[Place, ...]:
        """The places to change."""
        return places_of(min(len(self.size), 3) if self.size else 2)

    def held(self, module: nn.Module, position: int, layout: Layout, count: int) -> Held:
        """How well a module's output holds the first places, read in this way."""
        maps = torch.cat([layout.to_map(output) for output in self._seen[(module, position, count)]])
        return hold((maps[1:] - maps[:1]).abs().double().sum(dim=1), self.places[:count])

    def look(self, modules: Sequence[tuple[nn.Module, int]], count: int) -> bool:
        """Change so many places, unless that was done, and keep these modules' outputs (at a position).

        Whether the first of them was reached.
        """
        wanted = [key for key in modules if (*key, count) not in self._seen]
        if (*modules[0], count) not in self._seen:
            self._look(wanted, count)
        return len(self._seen[(*modules[0], count)]) > 0

    def _look(self, wanted: Sequence[tuple[nn.Module, int]], count: int) -> None:
        variants = [self.images, *(disturbed(self.images, place, self.size) for place in self.places[:count])]
        try:
            runs = [self._run(stacked(variants), wanted)]
        except Exception:  # whatever a foreign forward raises on another number of images
            runs = [self._run(variant, wanted) for variant in variants]
        for key in wanted:
            self._seen[(*key, count)] = [run[key] for run in runs if key in run]

    def _run(self, images: Any, wanted: Sequence[tuple[nn.Module, int]]) -> dict[tuple[nn.Module, int], Tensor]:
        outputs: dict[tuple[nn.Module, int], Tensor] = {}

        def keeper(position: int) -> Any:
            def keep(module: nn.Module, inputs: Any, output: Any) -> None:
                tensor = tensor_at(output, position)
                if tensor is not None:
                    outputs[module, position] = tensor.clone()  # of several uses the last

            return keep

        handles = (module.register_forward_hook(keeper(position)) for module, position in wanted)
        with isolated(self.model, images), evaluating(self.model), torch.no_grad(), hooked(handles):
            call(self.model, usable_in_autograd(images))
        return outputs


def stacked(variants: Sequence[Any]) -> Any:
    """Inputs for one image each as inputs for all of them."""
    if isinstance(variants[0], list):
        return [image for variant in variants for image in variant]
    leaves = [pytree.tree_flatten(variant)[0] for variant in variants]
    structure = pytree.tree_flatten(variants[0])[1]
    joined = [
        torch.cat(values) if isinstance(values[0], Tensor) and values[0].ndim else values[0]
        for values in zip(*leaves, strict=True)
    ]
    return pytree.tree_unflatten(joined, structure)


def read_by_looking(
    looker: Looker,
    wanted: Sequence[tuple[nn.Module, int]],
    likely: Sequence[Layout],
    others: Sequence[Layout],
    laid_out_on: Callable[[Size], bool],
) -> Interpretation:
    """Read the output of the first of the wanted modules; the others are looked at in the same passes.

    A reading is taken if the places hold in it, without a doubt where no map of its grid is known to have become these
    rows (`laid_out_on`): latents may hold a place by chance. Where the changes tell nothing, such a map decides.
    """
    every = len(looker.places)
    best, verdict = likely[0], Held(0.0, 1.0, True)
    for count in (2, every):
        if not looker.look(wanted if count == 2 else wanted[:1], count):
            return Interpretation(None, "it is not reached for other images")
        verdicts = {layout: looker.held(*wanted[0], layout, count) for layout in likely}
        best = max(verdicts, key=lambda layout: verdicts[layout].score)
        if verdicts[best].score < HELD_WELL:
            verdicts |= {layout: looker.held(*wanted[0], layout, count) for layout in others}
            best = max(verdicts, key=lambda layout: verdicts[layout].score - HELD_MORE * (layout not in likely))
        verdict = verdicts[best]
        usual = best in likely
        needed = HELD_WELL if not usual else HELD if count < every else HELD_ALL
        if verdict.alike or verdict.score < needed:
            continue
        beyond_chance = best.grid == likely[0].grid and verdict.contrast >= (
            CONTRAST if best.cells >= FEW else CONTRAST_OF_FEW
        )
        if beyond_chance or laid_out_on(best.grid):
            return Interpretation(best, "" if usual else "an order found by changing parts of the image")
    weakly = verdict.alike or (best is likely[0] and verdict.score >= HELD_WEAKLY)
    if weakly and verdict.contrast > 0 and laid_out_on(likely[0].grid):
        return Interpretation(likely[0], "changes spread over all cells; a map of that grid became them", False)
    return Interpretation(
        None,
        f"its {likely[0].cells} cells do not hold their places: where a part of the image was changed, {verdict}",
    )


Choice = tuple[str, str, Layout, int]  # name, reason, layout, which of the tensors that the module returns


class Choices:
    """Choices by model, which is not kept alive, and by its modules and the shapes of its inputs.

    A network that has gained, lost or exchanged a module is another one, and so is the same one on images of another
    size.

    >>> from camtrain.cam.layouts import channels_first
    >>> choices, net = Choices(), nn.Conv2d(1, 1, 1)
    >>> choices.remember(net, net.weight, ("layer", "the last map", channels_first((2, 1, 4, 4)), 0))
    >>> choices.recall(net, net.weight)[0], choices.recall(nn.Conv2d(1, 1, 1), net.weight)
    ('layer', None)
    """

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[nn.Module, dict[Hashable, Choice]] = WeakKeyDictionary()

    def recall(self, model: nn.Module, images: Any, asked: str = "auto") -> Choice | None:
        """What was chosen for this model on such images when asked for this layer, if anything was."""
        return self._known.get(model, {}).get((_signature(model, images), asked))

    def remember(self, model: nn.Module, images: Any, choice: Choice, asked: str = "auto") -> None:
        """Keep it; of one model on several sizes of images the last few."""
        known = self._known.setdefault(model, {})
        known[_signature(model, images), asked] = choice
        while len(known) > _KEPT:
            del known[next(iter(known))]

    def forget(self, model: nn.Module, images: Any, asked: str = "auto") -> bool:
        """Drop it; whether there was anything."""
        return self._known.get(model, {}).pop((_signature(model, images), asked), None) is not None


_KEPT = 32


def _signature(model: nn.Module, images: Any) -> Hashable:
    leaves, structure = pytree.tree_flatten(images)
    shapes = tuple((leaf.shape[1:], leaf.dtype) if isinstance(leaf, Tensor) else type(leaf) for leaf in leaves)
    return tuple(map(id, model.modules())), shapes, str(structure)
