"""`layers="auto"` on whole libraries of networks: is the map right, refused, or silently wrong, and what does it cost?

    python benchmarks/zoo.py --quick

Networks have random weights. A map is *right* if

* activations and gradients are those of the whole graph in float64;
* places hold: where one of nine (or eight, or four) parts of the image is changed, the map changes there more than its
  other parts do, or more than for changes elsewhere. Where all cells change alike nobody can tell, as in a LeViT with
  random weights, which is judged by the rest; and what a convolution puts out has its places where it has them, however
  much was mixed before;
* nothing is left behind: the network can be deep-copied, its state, modes and hooks and the random state are as before.

It is *refused* where the engine says that it has no map to show, and *silently wrong* otherwise. The cost of "auto" is
what it takes once per network, in forward passes of the same two images: the median of `--repeats` interleaved
measurements.
"""

import copy
import gc
import re
import statistics
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from itertools import product
from typing import Any

import torch
from _report import parser, report
from _zoo_networks import Specimen, specimens
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from camtrain.cam import Layer, capture, evaluating, find_logits, record_activations
from camtrain.cam.layers import forget_choice
from camtrain.errors import CamtrainError

TOLERANCE = 2e-3  # of the largest number, float32 with the graph cut against float64 with the graph whole
HELD = 0.75  # of the places


def main(arguments: Sequence[str] | None = None) -> None:
    made = parser(__doc__)
    made.add_argument("--repeats", type=int, default=3)
    made.add_argument("--only", default="", metavar="REGEX", help="networks whose library/family/name this matches")
    options = made.parse_args(arguments)
    rows = []
    for specimen in specimens(quick=options.quick):
        if re.search(options.only, f"{specimen.library}/{specimen.family}/{specimen.name}"):
            row = examine(specimen, options.repeats)
            rows.append(row)
            print(*row.values(), sep="\t", file=sys.stderr, flush=True)
    judged = [row for row in rows if row["verdict"] != "not built"]
    costs = [row["cost"] for row in judged if row["cost"] is not None]
    counts = {
        verdict: sum(row["verdict"] == verdict for row in judged) for verdict in ("right", "refused", "silent wrong")
    }
    summary = {
        "models": len(judged),
        "right": counts["right"],
        "refused": counts["refused"],
        "silent_wrong": counts["silent wrong"],
        "auto_cost": statistics.median(costs) if costs else None,
    }
    wrong = [row for row in rows if row["verdict"] != "right"]
    report(rows, summary, options, tables={"refused, wrong, or not built": wrong})


def families(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table with a row for each family: its networks, how many are right, and where the map lies."""
    lines = [
        "| library | family | looked at | right | refused | layer | cells | cost |",
        "|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["verdict"] != "not built":
            groups.setdefault((row["library"], row["family"]), []).append(row)
    for (library, family), group in sorted(groups.items()):
        counts = [sum(row["verdict"] == verdict for row in group) for verdict in ("right", "refused")]
        names = ", ".join(dict.fromkeys(f"`{row['name']}`" for row in group))
        layers = ", ".join(dict.fromkeys(f"`{row['layer']}`" for row in group if row["layer"]))
        cells = ", ".join(dict.fromkeys(row["grid"] for row in group if row["grid"]))
        costs = [row["cost"] for row in group if row["cost"] is not None]
        cost = f"{statistics.median(costs):.1f}" if costs else ""
        cells_of_row = [library, f"{family}: {names}", len(group), *counts, layers, cells, cost]
        lines.append(f"| {' | '.join(map(str, cells_of_row))} |")
    return "\n".join(lines)


def examine(specimen: Specimen, repeats: int) -> dict[str, Any]:
    """One network: the verdict on it, the layer, what is wrong, and the cost."""
    row: dict[str, Any] = {
        "library": specimen.library,
        "family": specimen.family,
        "name": specimen.name,
        "size": "x".join(map(str, specimen.size)),
        "verdict": "not built",
        "layer": "",
        "grid": "",
        "cost": None,
        "note": "",
    }
    with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        try:
            inputs = specimen.inputs(2)
            net = awake(specimen, inputs)
            with torch.no_grad():
                net(inputs)
        except Exception as error:  # whatever a foreign constructor or forward raises
            return row | {"note": f"{type(error).__name__}: {error}"[:160].replace("\n", " ")}
        row |= judge(specimen, net, inputs)
        row["cost"] = cost_of_auto(net, inputs, repeats) if row["verdict"] == "right" else None
    gc.collect()
    return row


def awake(specimen: Specimen, inputs: Tensor) -> nn.Module:
    """A network with random weights that shows something and that float32 can compute.

    Where branches are multiplied (StarNet) larger weights explode: the weights are then as its constructor left them.
    """
    for gain in (True, False):
        torch.manual_seed(0)
        net = specimen.build().eval()
        awaken(net, gain)
        if _is_tame(net, inputs):
            break
    return net


def _is_tame(net: nn.Module, inputs: Tensor) -> bool:
    """Does float32 compute what float64 does; yes where that cannot be asked."""
    with torch.no_grad():
        ours = find_logits(net(inputs)).double()
        try:
            truth = find_logits(copy.deepcopy(net).double()(inputs.double()))
        except Exception:  # a foreign network that computes in one precision alone
            return True
    return bool((ours - truth).abs().max() <= TOLERANCE * truth.abs().max())


def awaken(net: nn.Module, gain: bool = True) -> None:
    """Give numbers to heads and gates that start at zero, behind which nothing can be seen, and `gain` to weights."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.numel() > 1 and not parameter.any() and parameter.ndim > 1:
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
            elif parameter.ndim == 1 and parameter.abs().max() <= 1e-4 and parameter.any():
                parameter.fill_(0.1)  # layer scale
        # As small as some start, attention looks at everything alike, and maps underflow.
        for module in net.modules() if gain else ():
            weight = getattr(module, "weight", None)
            if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)) and isinstance(weight, Tensor):
                power = 1.0 if isinstance(module, nn.Linear) else 2.0  # a rectifier halves what goes through
                wanted = (power / weight[0].numel()) ** 0.5
                if weight.std() < 0.5 * wanted:
                    weight.mul_(wanted / weight.std().clamp_min(1e-12))


def judge(specimen: Specimen, net: nn.Module, inputs: Tensor) -> dict[str, Any]:
    before = photograph(net)
    try:
        with torch.no_grad():
            captured = capture(net, inputs)
    except CamtrainError as error:
        return {"verdict": "refused", "note": str(error)[:400]}
    except Exception as error:  # an error that is not ours is a wrong answer too
        return {"verdict": "silent wrong", "note": f"{type(error).__name__}: {error}"[:200].replace("\n", " ")}
    (layer,) = captured.layers
    grid = tuple(captured.activations[0].shape[2:])
    found = {"layer": layer.name, "grid": "x".join(map(str, grid)), "note": layer.reason}
    wrong = [
        *(["something is left behind"] if photograph(net) != before else []),
        *_not_copied(net),
        *_inexact(net, inputs, layer, captured.activations[0], captured.gradients[0]),
        *_misplaced(specimen, net, layer, grid),
    ]
    return found | ({"verdict": "silent wrong", "note": "; ".join(wrong)} if wrong else {"verdict": "right"})


def photograph(net: nn.Module) -> dict[str, Any]:
    return {
        "state": {name: (tensor._version, tensor.double().sum().item()) for name, tensor in net.state_dict().items()},
        "modes": [module.training for module in net.modules()],
        "hooks": [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in net.modules()],
        "names": [sorted(vars(module)) for module in net.modules()],
        "rng": torch.get_rng_state().tolist(),
    }


def _not_copied(net: nn.Module) -> Iterator[str]:
    try:
        copy.deepcopy(net)
    except Exception as error:
        yield f"cannot be deep-copied ({type(error).__name__})"


def _inexact(net: nn.Module, inputs: Tensor, layer: Layer, activations: Tensor, gradients: Tensor) -> Iterator[str]:
    try:
        double = copy.deepcopy(net).double()
        expected = whole(double, inputs.double(), layer, net)
    except Exception as error:
        yield f"no reference ({type(error).__name__}: {error})"[:120]
        return
    for what, ours, truth in zip(("activations", "gradients"), (activations, gradients), expected, strict=True):
        scale = float(truth.abs().max())
        if ours.shape != truth.shape or scale == 0 or not float((ours - truth).abs().max()) <= TOLERANCE * scale:
            yield f"{what} differ from the whole graph's"


def whole(double: nn.Module, inputs: Tensor, layer: Layer, net: nn.Module) -> tuple[Tensor, Tensor]:
    """Activations and gradients of the layer in float64 by autograd on the whole graph: of a zero added to it."""
    added: list[Tensor] = []
    made: list[Tensor] = []
    position = getattr(layer, "position", 0)

    def add(module: nn.Module, args: Any, output: Any) -> None:
        tensors = [t for t in torch.utils._pytree.tree_leaves(output) if isinstance(t, Tensor)]
        tensor = tensors[position]
        made.append(tensor.detach().clone())
        added.append(torch.zeros_like(tensor).requires_grad_())
        tensor.add_(added[-1])

    with torch.enable_grad(), saved_tensors_hooks(lambda saved: saved.detach().clone(), lambda saved: saved):
        module = double.get_submodule(next(n for n, m in net.named_modules() if m is layer.module))
        handle = module.register_forward_hook(add)
        logits = find_logits(double(inputs))
        handle.remove()
        (gradient,) = torch.autograd.grad(logits.amax(dim=1).sum(), [added[-1]])
    return layer.to_map(made[-1]), layer.to_map(gradient)


ALL_MIXING = ("levit",)  # a step down attends to all places with nothing added to: its grid is known by its source
ALIKE = 1e-4  # deviation over mean: with random weights some attention mixes all places to the last digit


def _misplaced(specimen: Specimen, net: nn.Module, layer: Layer, grid: tuple[int, ...]) -> Iterator[str]:
    (rows, columns), (height, width) = grid[-2:], specimen.size[-2:]
    if abs(rows * width - columns * height) > 1.5 * max(height, width):
        yield f"{rows}x{columns} cells are no map of {height}x{width} pixels"
    held, count = places_held(specimen, net, layer, grid)
    if held < HELD * count and not _is_of_a_convolution(layer) and specimen.family not in ALL_MIXING:
        yield f"{held} of {count} places hold"


def _is_of_a_convolution(layer: Layer) -> bool:
    """Whether the map has its channels first as it is, and the last that made it is a convolution, or a batch norm."""
    weighted = [module for module in layer.module.modules() if isinstance(getattr(module, "weight", None), Tensor)]
    spread = [m for m in weighted if m.weight.ndim != 1 or isinstance(m, nn.BatchNorm2d | nn.BatchNorm3d)]
    first = layer.layout is not None and layer.layout.name == "channels first"
    return first and bool(spread) and spread[-1].weight.ndim != 2


def places_held(specimen: Specimen, net: nn.Module, layer: Layer, grid: tuple[int, ...]) -> tuple[int, int]:
    """How many parts of the image, once changed, change their part of the map most, and how many there are."""
    parts = [3 if len(grid) == 2 and min(grid) >= 6 else min(2, cells) for cells in grid]
    parts = [1] * (len(specimen.space) - len(grid)) + parts
    places = list(product(*(range(count) for count in parts)))
    image, rows = specimen.inputs(1), []
    with evaluating(net), torch.no_grad(), record_activations([layer]) as recorded:
        for place in places:
            net(torch.cat([image, disturbed(image, specimen.space, place, parts)]))
            maps = layer.to_map(recorded[-1]).double()
            change = (maps[1] - maps[0]).abs().sum(dim=0)
            rows.append([_part(change, other[-len(grid) :], parts[-len(grid) :]).mean() for other in places])
    table = torch.tensor(rows, dtype=torch.float64).clamp_min(1e-30).log()
    if float(table.std(dim=1).max()) < ALIKE:
        return len(places), len(places)
    centered = table - table.mean(dim=0) - table.mean(dim=1, keepdim=True)
    held = [(t.argmax(dim=1) == torch.arange(len(places))).sum() for t in (table, centered)]
    return int(max(held)), len(places)


def disturbed(image: Tensor, space: Sequence[int], place: Sequence[int], parts: Sequence[int]) -> Tensor:
    changed = image.clone()
    region = changed
    for axis, index, count in zip(space, place, parts, strict=True):
        start, stop = (image.shape[axis] * i // count for i in (index, index + 1))
        region = region.narrow(axis, start, stop - start)
    region.copy_(region.flip(-1) + 2 * torch.arange(region.numel()).sin().reshape(region.shape) + 1)
    return changed


def _part(change: Tensor, place: Sequence[int], parts: Sequence[int]) -> Tensor:
    """The cells whose centers lie in a part of the image."""
    for axis, (index, count) in enumerate(zip(place, parts, strict=True)):
        size = change.shape[axis]
        cells = [cell for cell in range(size) if int((cell + 0.5) / size * count) == index]
        change = change.index_select(axis, torch.tensor(cells))
    return change


def cost_of_auto(net: nn.Module, inputs: Tensor, repeats: int) -> float:
    """The time of an explanation that has to choose, less one that need not, over that of a forward pass."""
    ratios = []
    with torch.no_grad():
        for _ in range(repeats):
            plain = _seconds(lambda: net(inputs))
            known = _seconds(lambda: capture(net, inputs))
            forget_choice(net, inputs)
            ratios.append((_seconds(lambda: capture(net, inputs)) - known) / plain)
    return statistics.median(ratios)


def _seconds(run: Any) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


if __name__ == "__main__":
    main()
