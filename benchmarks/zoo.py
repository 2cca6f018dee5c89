"""`layers="auto"` on whole libraries of networks: is the map right, refused, or silently wrong, and what does it cost?

    python benchmarks/zoo.py --quick

Networks have random weights: larger ones than a constructor gives (else attention looks at everything alike and maps
underflow), and where places do not hold in these the constructor's own. A map is *right* if

* activations and gradients are those of the whole graph in float64. Where the graph itself differs between float32 and
  float64 by more than that (what is multiplied explodes, a rectifier flips), they must be the whole graph's in float32,
  and those of an explanation in float64 the whole graph's in float64;
* places hold: where one of nine (or eight, or four) parts of the image is changed, the map changes there more than its
  other parts, or more than for changes elsewhere;
* nothing is left behind: parameters, buffers, caches, modes, hooks, the random state and logits are as before to the
  last bit, and the network can be deep-copied, saved, averaged and (some of them, it takes long) compiled.

It is *exempt* where all but the places is right and these tell nothing: all cells change alike to four digits, or the
map is one of a convolution or of a LeViT that mixed all places before. It is *refused* where the engine says that it
has no map to show, *too slow* where it takes longer than `--limit`, *not built* where the network could not be made,
and *silently wrong* otherwise. The cost of "auto" is what it takes once per network, in forward passes of the same two
images: the median of `--repeats` interleaved measurements.

Without --quick the smallest network of every module of timm (with --more N of them), every type of transformers and
the further libraries that are installed are looked at, which takes hours. With --json each row is written as it is
made, and what the file holds already is not run again.
"""

import copy
import gc
import importlib.util
import json
import re
import signal
import statistics
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from itertools import product
from typing import Any

import torch
from _report import environment, parser, report, write_json
from _zoo_libraries import LIBRARIES
from _zoo_networks import Specimen, specimens
from _zoo_traces import failures, photograph, traces
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from camtrain.cam import Capture, Layer, capture, evaluating, find_logits, record_activations
from camtrain.cam.layers import forget_choice
from camtrain.errors import CamtrainError

TOLERANCE = 2e-3  # of the largest number, float32 with the graph cut against float64 with the graph whole
SINGLE, DOUBLE = 1e-5, 1e-9  # the same with both in one precision
HELD = 0.75  # of the places
PLACES = r"\d+ of \d+ places hold"


COUNTED = ("right", "exempt", "refused", "silent wrong")


def main(arguments: Sequence[str] | None = None) -> None:
    made = parser(__doc__)
    made.add_argument("--repeats", type=int, default=3)
    made.add_argument(
        "--only", default="", metavar="REGEX", help="networks whose library/family/name/size this matches"
    )
    made.add_argument("--more", type=int, default=1, metavar="N", help="networks of each module of timm (default 1)")
    made.add_argument("--limit", type=int, default=300, metavar="SECONDS", help="for a network (default 300)")
    options = made.parse_args(arguments)
    there = options.json is not None and options.json.is_file()
    earlier = {_key(row): row for row in (json.loads(options.json.read_text())["rows"] if there else ())}
    known = {key for key, row in earlier.items() if row["verdict"] in COUNTED}
    asked = (s for s in chosen(options.quick, options.more) if re.search(options.only, "/".join(s.key)))
    waiting = [specimen for specimen in asked if specimen.key not in known]
    for specimen in track(waiting, "networks", console=Console(file=sys.stderr)):
        earlier[specimen.key] = examine(specimen, options.repeats, options.limit)
        rows = list(earlier.values())
        if options.json is not None:
            write_json(
                options.json,
                {"rows": rows, "summary": summarized(rows), "environment": environment(options.device)},
            )
    rows = list(earlier.values())
    others = [row for row in rows if row["verdict"] != "right"]
    report(rows, summarized(rows), options, tables={"all that are not right": others})


def _key(row: Mapping[str, Any]) -> tuple[str, ...]:
    return row["library"], row["family"], row["name"], row["size"]


def summarized(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many networks were looked at, and how many there are of each verdict."""
    counts = {
        verdict: sum(row["verdict"] == verdict for row in rows) for verdict in (*COUNTED, "too slow", "not built")
    }
    costs = [row["cost"] for row in rows if row["cost"] is not None]
    return {
        "models": sum(counts[verdict] for verdict in COUNTED),
        **{verdict.replace(" ", "_"): count for verdict, count in counts.items()},
        "auto_cost": statistics.median(costs) if costs else None,
    }


def chosen(quick: bool, more: int = 1) -> Iterator[Specimen]:
    """The networks of the libraries that are installed."""
    yield from specimens(quick=quick, more=more)
    for library, made in () if quick else LIBRARIES.items():
        if importlib.util.find_spec(library) is not None:
            yield from made()


def families(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table with a row for each family: its networks, how many are right, and where the map lies."""
    lines = [
        "| library | family | looked at | right | exempt | refused | layer | cells | cost |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["verdict"] in COUNTED:
            groups.setdefault((row["library"], row["family"]), []).append(row)
    for (library, family), group in sorted(groups.items()):
        counts = [sum(row["verdict"] == verdict for row in group) for verdict in ("right", "exempt", "refused")]
        names = ", ".join(dict.fromkeys(f"`{row['name']}`" for row in group))
        layers = ", ".join(dict.fromkeys(f"`{row['layer']}`" for row in group if row["layer"]))
        cells = ", ".join(dict.fromkeys(row["grid"] for row in group if row["grid"]))
        costs = [row["cost"] for row in group if row["cost"] is not None]
        cost = f"{statistics.median(costs):.1f}" if costs else ""
        cells_of_row = [library, f"{family}: {names}", len(group), *counts, layers, cells, cost]
        lines.append(f"| {' | '.join(map(str, cells_of_row))} |")
    return "\n".join(lines)


def examine(specimen: Specimen, repeats: int, limit: int = 300) -> dict[str, Any]:
    """One network: the verdict on it, the layer, what is wrong, and the cost."""
    row: dict[str, Any] = {
        **dict(zip(("library", "family", "name", "size"), specimen.key, strict=True)),
        "verdict": "not built",
        "layer": "",
        "grid": "",
        "cost": None,
        "note": "",
    }
    with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        try:
            with _limited(limit):
                row |= _judged(specimen, repeats)
        except TooLong:
            row |= {"verdict": "too slow", "note": f"longer than {limit} seconds"}
        except Exception as error:  # whatever a foreign constructor or forward raises
            row |= {"note": f"{type(error).__name__}: {error}"[:160].replace("\n", " ")}
    gc.collect()
    return row


class TooLong(BaseException):
    """A network's time is over; not an Exception, which a foreign forward may catch."""


@contextmanager
def _limited(seconds: int) -> Iterator[None]:
    def end(*_: Any) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _judged(specimen: Specimen, repeats: int) -> dict[str, Any]:
    """With larger weights, and with the constructor's own where places do not hold in these: what mixes all places in
    one of the two says nothing of the reading, where it is the same. Where it is another, the first is not shown
    right."""
    inputs, verdicts = specimen.inputs(2), []
    for weights in ("larger", "as built"):
        torch.manual_seed(0)
        net = specimen.build().eval()
        awaken(net, weights == "larger")
        with torch.no_grad():
            logits = find_logits(copy.deepcopy(net)(inputs))  # if it can be run at all
        if weights == "larger" and not torch.isfinite(logits).all():
            continue
        verdict = {"weights": weights} | judge(specimen, net, inputs)
        if verdict["verdict"] == "right" and verdicts and verdict["layer"] != verdicts[0]["layer"]:
            return verdicts[0] | {"note": f"{verdicts[0]['note']}; {verdict['layer']} is right in weights as built"}
        if verdict["verdict"] == "right":
            return verdict | {"cost": cost_of_auto(net, inputs, repeats)}
        verdicts.append(verdict)
        if not re.fullmatch(PLACES, verdict["note"]) and verdict["verdict"] == "silent wrong":
            break
    return verdicts[0]


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
    twin = copy.deepcopy(net)
    before = photograph(net)
    try:
        with torch.no_grad():
            captured = capture(net, inputs)
    except CamtrainError as error:
        return {"verdict": "refused", "note": str(error)[:400]}
    except Exception as error:  # an error that is not ours is a wrong answer too
        return {"verdict": "silent wrong", "note": f"{type(error).__name__}: {error}"[:200].replace("\n", " ")}
    same = photograph(net) == before
    (layer,) = captured.layers
    grid = tuple(captured.activations[0].shape[2:])
    left = traces(net, twin, inputs, "/".join(specimen.key))
    reference, inexact = _exact(net, inputs, captured)
    misplaced, untold = _misplaced(specimen, net, layer, grid)
    wrong = [*([] if same else ["something is left behind"]), *failures(left), *inexact, *misplaced]
    verdict = "silent wrong" if wrong else "exempt" if untold else "right"
    return {
        "verdict": verdict,
        "layer": layer.name,
        "grid": "x".join(map(str, grid)),
        "note": "; ".join(wrong) or untold or layer.reason,
        "reference": reference,
        "unchanged": same,
        **left,
    }


def _exact(net: nn.Module, inputs: Tensor, captured: Capture) -> tuple[str, list[str]]:
    """By which reference activations and gradients were judged, and what differs from it."""
    (layer,) = captured.layers
    ours = (captured.activations[0], captured.gradients[0])
    try:
        double = copy.deepcopy(net).double()
        truth = whole(double, inputs.double(), layer, net)
    except Exception as error:
        single = whole(copy.deepcopy(net), inputs, layer, net)
        why = f"float32, as float64 fails ({type(error).__name__})"
        return why, [f"{what} differ from the whole graph's" for what in differing(ours, single, SINGLE)]
    if not (differences := differing(ours, truth, TOLERANCE)):
        return "float64", []
    single = whole(copy.deepcopy(net), inputs, layer, net)
    if differing(ours, single, SINGLE) or not differing(single, truth, TOLERANCE):
        return "float64", [f"{what} differ from the whole graph's" for what in differences]
    again = capture(copy.deepcopy(double), inputs.double(), layer.name)
    differences = differing((again.activations[0], again.gradients[0]), truth, DOUBLE)
    return "each in its precision", [f"{what} differ from the whole graph's in float64" for what in differences]


def differing(ours: Sequence[Tensor], truth: Sequence[Tensor], tolerance: float) -> list[str]:
    """Which of activations and gradients differ, or are nothing but zeros."""

    def differs(a: Tensor, b: Tensor) -> bool:
        scale = float(b.abs().max())
        return a.shape != b.shape or scale == 0 or not float((a - b).abs().max()) <= tolerance * scale

    return [what for what, a, b in zip(("activations", "gradients"), ours, truth, strict=True) if differs(a, b)]


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
        score = logits.gather(1, logits.argmax(dim=1, keepdim=True)).sum()
        (gradient,) = torch.autograd.grad(score, [added[-1]])
    return layer.to_map(made[-1]), layer.to_map(gradient)


ALL_MIXING = ("levit",)  # a step down attends to all places with nothing added to: its grid is known by its source
ALIKE = 1e-4  # deviation over mean: with random weights some attention mixes all places to the last digit


def _misplaced(specimen: Specimen, net: nn.Module, layer: Layer, grid: tuple[int, ...]) -> tuple[list[str], str]:
    """What is wrong with the places, and why they tell nothing if they do not."""
    (rows, columns), (height, width) = grid[-2:], specimen.size[-2:]
    if abs(rows * width - columns * height) > 1.5 * max(height, width):
        return [f"{rows}x{columns} cells are no map of {height}x{width} pixels"], ""
    held, count = places_held(specimen, net, layer, grid)
    if held < HELD * count:  # one image may be loud in a place by itself
        held, count = places_held(specimen, net, layer, grid, 4)
    if count == 0:
        return [], "all cells change alike"
    if held >= HELD * count:
        return [], ""
    if _is_of_a_convolution(layer) or specimen.family in ALL_MIXING:
        return [], f"{held} of {count} places hold, of a map that has its places by its making"
    return [f"{held} of {count} places hold"], ""


def _is_of_a_convolution(layer: Layer) -> bool:
    """Whether the map has its channels first as it is, and the last that made it is a convolution, or a batch norm."""
    weighted = [module for module in layer.module.modules() if isinstance(getattr(module, "weight", None), Tensor)]
    spread = [m for m in weighted if m.weight.ndim != 1 or isinstance(m, nn.BatchNorm2d | nn.BatchNorm3d)]
    first = layer.layout is not None and layer.layout.name == "channels first"
    return first and bool(spread) and spread[-1].weight.ndim != 2


def places_held(
    specimen: Specimen, net: nn.Module, layer: Layer, grid: tuple[int, ...], images: int = 1
) -> tuple[int, int]:
    """How many parts of an image, once changed, change their part of the map most, and how many there are.

    Of several images the mean. (0, 0) where all cells change alike.
    """
    parts = [3 if len(grid) == 2 and min(grid) >= 6 else min(2, cells) for cells in grid]
    parts = [1] * (len(specimen.space) - len(grid)) + parts
    places = list(product(*(range(count) for count in parts)))
    tables = [_changes(specimen, net, layer, image, places, parts) for image in specimen.inputs(images).split(1)]
    if max(float(table.std(dim=1).max()) for table in tables) < ALIKE:
        return 0, 0
    table = torch.stack(tables).mean(dim=0)
    centered = table - table.mean(dim=0) - table.mean(dim=1, keepdim=True)
    held = [(t.argmax(dim=1) == torch.arange(len(places))).sum() for t in (table, centered)]
    return int(max(held)), len(places)


def _changes(
    specimen: Specimen,
    net: nn.Module,
    layer: Layer,
    image: Tensor,
    places: Sequence[tuple[int, ...]],
    parts: Sequence[int],
) -> Tensor:
    """Logarithms of how much each part of the map changes (columns) where each part of the image is (rows)."""
    rows = []
    with evaluating(net), torch.no_grad(), record_activations([layer]) as recorded:
        for place in places:
            net(torch.cat([image, disturbed(image, specimen.space, place, parts)]))
            maps = layer.to_map(recorded[-1]).double()
            change = (maps[1] - maps[0]).abs().sum(dim=0)
            axes = change.ndim
            rows.append([_part(change, other[-axes:], parts[-axes:]).mean() for other in places])
    return torch.tensor(rows, dtype=torch.float64).clamp_min(1e-30).log()


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
