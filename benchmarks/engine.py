"""What an explanation costs, over a bare forward pass without gradients: camtrain beside its peers.

    python benchmarks/engine.py --quick

Each round runs the bare forward and every contender one after the other; a ratio is the median over the rounds of
contender over bare, its spread the distance between the quartiles. The layer is what `layers="auto"` finds, given to
all by name or module; "layers='auto'" pays for the search too. captum needs the class beforehand, so it makes one
forward more. Saved bytes are the distinct tensors that autograd keeps for the backward pass, parameters left out. Peak
memory is the growth of the process over a bare forward, each contender in a process of its own (on a GPU: of the
allocator). The error is that of the Grad-CAM map of camtrain in float32 against autograd on the whole graph in
float64, over its maximum.
"""

import copy
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torchvision
from _contenders import PEERS, Contender, contenders, installed
from _report import median_and_spread, parser, report
from rich.progress import track
from torch import Tensor, nn

from camtrain import explain
from camtrain.cam import Layer, grad_cam, resolve_layers

MODELS = {
    "resnet18": (224, 224),
    "resnet50": (224, 224),
    "mobilenet_v2": (224, 224),
    "convnext_tiny": (224, 224),
    "vit_b_16": (224, 224),
    "swin_t": (224, 224),
    "r3d_18": (8, 112, 112),
}


def build(name: str, batch: int, device: str, seed: int = 0) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(seed)
    source = torchvision.models.video if hasattr(torchvision.models.video, name) else torchvision.models
    model = getattr(source, name)(weights=None).eval()
    if name.startswith("vit"):
        nn.init.normal_(model.heads.head.weight, std=0.02)  # torchvision starts it at zero: no gradient
    return model.to(device), torch.randn(batch, 3, *MODELS[name], device=device)


def seconds(function: Callable[[], Any], device: str) -> float:
    wait = torch.cuda.synchronize if device.startswith("cuda") else (lambda: None)
    wait()
    start = time.perf_counter()
    function()
    wait()
    return time.perf_counter() - start


def bare(model: nn.Module, images: Tensor) -> Contender:
    def forward() -> Any:
        with torch.no_grad():
            return model(images)

    return forward


def time_ratios(model: nn.Module, images: Tensor, runs: dict[str, Contender], rounds: int) -> dict[str, list[float]]:
    plain, device = bare(model, images), str(images.device)
    names, ratios = list(runs), {name: [] for name in runs}
    for turn in range(rounds + 1):
        reference = seconds(plain, device)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            ratio = seconds(runs[name], device) / reference
            if turn:  # the first round warms up
                ratios[name].append(ratio)
        model.zero_grad()  # some peers write .grad
    return ratios


def saved_bytes(model: nn.Module, run: Contender) -> int:
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(kept.values())


def inability(run: Contender) -> str:
    """Why a contender cannot explain this layer; nothing where it can."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run()
    except Exception as error:  # whatever a foreign library raises on a layer it was not made for
        return f"{type(error).__name__}: {str(error)[:80]}"
    return ""


def error_to_float64(model: nn.Module, images: Tensor, layer: Layer) -> float:
    """The largest difference of the Grad-CAM map to that of the whole graph in float64, over the map's maximum."""
    found = explain(model, images, layers=layer.name, methods="grad_cam")
    classes, double, kept = found.logits.argmax(dim=1), copy.deepcopy(model).double(), []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        kept.append(output)
        return output.clone()  # an in-place operation must not reach it

    double.get_submodule(layer.name).register_forward_hook(keep)
    scores = double(images.double()).gather(1, classes[:, None]).sum()
    (gradient,) = torch.autograd.grad(scores, [kept[-1]])
    truth = grad_cam(layer.to_map(kept[-1].detach()), layer.to_map(gradient))
    return float((found.heatmaps["grad_cam"].double() - truth).abs().max() / truth.abs().max())


def peak_bytes(name: str, contender: str, batch: int, device: str) -> int | None:
    """The growth over a bare forward, in a process of its own; None where the contender cannot."""
    command = [sys.executable, __file__, "--device", device, "--batch", str(batch), "--peak-of", name, contender]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(done.stdout.split()[-1]) if done.returncode == 0 else None


def print_peak(name: str, contender: str, batch: int, device: str) -> None:
    model, images = build(name, batch, device)
    (layer,) = resolve_layers(model, images[:1])
    run = contenders(model, images, layer)[contender]
    bare(model, images)()
    if device.startswith("cuda"):
        before = torch.cuda.max_memory_allocated()
    else:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run()
    if device.startswith("cuda"):
        print(torch.cuda.max_memory_allocated() - before)
        return
    unit = 1 if platform.system() == "Darwin" else 1024
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit)


def measure(name: str, options: Any, seed: int) -> list[dict[str, Any]]:
    model, images = build(name, options.batch, options.device, seed)
    (layer,) = resolve_layers(model, images)
    checked = {contender: (run, inability(run)) for contender, run in contenders(model, images, layer).items()}
    able = {contender: run for contender, (run, reason) in checked.items() if not reason}
    ratios = time_ratios(model, images, able, options.rounds)
    error = error_to_float64(model, images[:2], layer)
    rows = []
    for contender, (run, reason) in checked.items():
        row: dict[str, Any] = {"model": name, "contender": contender}
        if not reason:
            row["ratio"], row["spread"] = median_and_spread(ratios[contender])
            row["saved_mib"] = saved_bytes(model, run) / 2**20
            peak = None if options.no_peak or seed else peak_bytes(name, contender, options.batch, options.device)
            row["peak_mib"] = "" if peak is None else peak / 2**20
        row["error"] = error if contender == "camtrain, one method" else ""
        rows.append(row)
        if reason:
            print(f"{name}: {contender} cannot: {reason}")
    return rows


def measured_alone(name: str, options: Any) -> list[dict[str, Any]]:
    """The rows of one model, measured in a process of its own: what peers leave in memory ends with it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        command = [sys.executable, __file__, "--models", name, "--json", str(file), "--device", options.device]
        for option in ("batch", "rounds", "threads", "seeds"):
            command += [f"--{option}", str(getattr(options, option))]
        subprocess.run([*command, *["--no-peak"][: options.no_peak]], check=True, stdout=subprocess.DEVNULL)
        rows: list[dict[str, Any]] = json.loads(file.read_text())["rows"]
        return rows


def summarize(rows: list[dict[str, Any]]) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for name in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == name and "ratio" in row]

        def best(ending: str, key: str, own: list[dict[str, Any]] = own, peers: bool = True) -> float | None:
            by_contender: dict[str, list[float]] = {}
            for row in own:
                if row["contender"].endswith(ending) and row["contender"].startswith("camtrain") != peers:
                    by_contender.setdefault(row["contender"], []).append(row[key])
            return min((statistics.median(values) for values in by_contender.values()), default=None)

        summary |= {
            f"{name}.one_method": best("one method", "ratio", peers=False),
            f"{name}.both_methods": best("both methods", "ratio", peers=False),
            f"{name}.both_methods_auto": best("auto'", "ratio", peers=False),
            f"{name}.fastest_peer_one": best("one method", "ratio"),
            f"{name}.fastest_peer_both": best("both methods", "ratio"),
            f"{name}.fastest_peer_both_on_one_forward": best("one forward", "ratio"),
            f"{name}.pytorch_grad_cam_one": best("pytorch-grad-cam, one method", "ratio"),
            f"{name}.saved_bytes": _bytes(best("both methods", "saved_mib", peers=False)),
            f"{name}.peer_saved_bytes": _bytes(best("one method", "saved_mib")),
            f"{name}.error_to_float64": max(row["error"] for row in own if row["error"] != ""),
        }
    return summary


def _bytes(mebibytes: float | None) -> int | None:
    return None if mebibytes is None else round(mebibytes * 2**20)


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), metavar="NAME")
    made.add_argument("--batch", type=int, default=8)
    made.add_argument("--rounds", type=int, default=15)
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--no-peak", action="store_true", help="leave out peak memory")
    made.add_argument("--peak-of", nargs=2, help="used by the script itself")
    options = made.parse_args()
    torch.set_num_threads(options.threads)
    if options.quick:
        options.batch, options.rounds, options.no_peak = min(options.batch, 2), min(options.rounds, 5), True
    if options.peak_of:
        print_peak(*options.peak_of, options.batch, options.device)
        return
    if len(options.models) > 1:
        rows = [row for name in track(options.models, "models") for row in measured_alone(name, options)]
    else:
        rows = [row for seed in range(options.seeds) for name in options.models for row in measure(name, options, seed)]
    peers = {PEERS[name]: version(PEERS[name]) for name in installed()}
    print(f"batch {options.batch}, {options.threads} thread(s), {options.rounds} rounds; {peers}")
    summary = summarize(rows) | {"batch": options.batch, "rounds": options.rounds, "peers": peers}
    report(rows, summary, options, "Time over a bare forward")


if __name__ == "__main__":
    main()
