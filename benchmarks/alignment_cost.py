"""What a training step costs with alignment, over the same step without: time and memory.

    python benchmarks/alignment_cost.py --quick

Rows: the heatmap penalty; the penalty where the backgrounds of the batch are dealt anew, every image annotated, as by
default; the penalty with counterfactual twins of an eighth of the batch added; and input gradients (RRR).
Every row is timed right after a plain step of the same network on the same batch; ratios are medians over these pairs,
and their spread is the distance between the quartiles. Memory is the peak above what the network and its optimizer
hold: on a GPU as CUDA counts it, on a CPU the bytes that autograd saves for the backward pass, each storage once.
"""

import argparse
import gc
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from _report import write_json
from torch import Tensor, nn

from camtrain.alignment import Alignment, Network, Penalty, Twins
from camtrain.cam import Layer, resolve_layers
from camtrain.data.batches import Batch
from camtrain.losses import InputGradientLoss

Loss = Callable[[], Tensor]


@dataclass(frozen=True)
class Row:
    model: str
    what: str
    image_size: int
    batch_size: int
    seed: int
    milliseconds: float
    plain_milliseconds: float
    time_ratio: float
    time_spread: float
    memory_ratio: float


def make_batch(batch_size: int, size: int, device: torch.device) -> Batch:
    masks = torch.zeros(batch_size, size, size, device=device)
    masks[:, size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = 1
    images = torch.rand(batch_size, 3, size, size, device=device)
    return Batch(images, torch.randint(1000, (batch_size,), device=device), masks)


def plain_loss(net: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(net(batch.images), batch.labels)


def aligned_loss(net: nn.Module, batch: Batch, layers: tuple[Layer, ...], twins: str | None = None) -> Tensor:
    """What AttentionAlignment does in one step, without Lightning around it; its hooks are gone before the backward."""
    term = None if twins is None else Twins(1.0, share=1 / 8, place=twins, memory=0)
    alignment = Alignment(Penalty(1.0), term).attach(net)
    alignment.penalty.proven = True  # looked at in the first step of a training only
    alignment.first_batch_seen, alignment.network = True, Network("", net, layers)
    step = alignment.begin(alignment.read(batch)[0])
    loss = step.add(plain_loss(net, batch))
    alignment.close()
    return loss


def rrr_loss(net: nn.Module, batch: Batch) -> Tensor:
    images = batch.images.clone().requires_grad_()
    logits = net(images)
    return F.cross_entropy(logits, batch.labels) + InputGradientLoss()(images, logits, batch.masks)


def take_step(optimizer: torch.optim.Optimizer, loss: Loss, device: torch.device) -> float:
    """One optimizer step; its milliseconds."""
    synchronize(device)
    start = time.perf_counter()
    optimizer.zero_grad()
    loss().backward()
    optimizer.step()
    synchronize(device)
    return 1000 * (time.perf_counter() - start)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def memory(loss: Loss, device: torch.device) -> int:
    """Bytes that one forward and backward pass needs on top of what is there already."""
    gc.collect()
    if device.type != "cuda":
        return saved_bytes(loss)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    loss().backward()
    return torch.cuda.max_memory_allocated(device) - before


def saved_bytes(loss: Loss) -> int:
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        value = loss()
    del value
    return sum(sizes.values())


def measure(name: str, size: int, batch_size: int, repeats: int, seed: int, device: torch.device) -> list[Row]:
    torch.manual_seed(seed)
    net = torchvision.models.get_model(name).to(device).train()
    batch = make_batch(batch_size, size, device)
    layers = resolve_layers(net, batch.images)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    plain = partial(plain_loss, net, batch)
    losses: dict[str, Loss] = {
        "penalty": partial(aligned_loss, net, batch, layers),
        "penalty, twins exchanged": partial(aligned_loss, net, batch, layers, "exchange"),
        "penalty and twins of 1/8": partial(aligned_loss, net, batch, layers, "add"),
        "input gradients (RRR)": partial(rrr_loss, net, batch),
    }
    plain_memory = memory(plain, device)
    memories = {what: memory(loss, device) / plain_memory for what, loss in losses.items()}
    pairs: dict[str, list[tuple[float, float]]] = {what: [] for what in losses}
    for repeat in range(repeats + 1):
        for what, loss in losses.items():
            pair = take_step(optimizer, plain, device), take_step(optimizer, loss, device)
            if repeat:  # the first round warms up
                pairs[what].append(pair)
    described = partial(Row, name, image_size=size, batch_size=batch_size, seed=seed)
    return [described(what=what, **timing(pairs[what]), memory_ratio=memories[what]) for what in losses]


def timing(pairs: list[tuple[float, float]]) -> dict[str, float]:
    ratios = [changed / plain for plain, changed in pairs]
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0],) * 3
    return {
        "plain_milliseconds": statistics.median(plain for plain, _ in pairs),
        "milliseconds": statistics.median(changed for _, changed in pairs),
        "time_ratio": statistics.median(ratios),
        "time_spread": high - low,
    }


def summarize(rows: list[Row]) -> dict[str, float]:
    penalties = [row for row in rows if row.what == "penalty"]
    summary = {}
    for model in dict.fromkeys(row.model for row in penalties):
        mine = [row for row in penalties if row.model == model]
        summary[f"{model}.time_ratio"] = statistics.median(row.time_ratio for row in mine)
        summary[f"{model}.memory_ratio"] = statistics.median(row.memory_ratio for row in mine)
    return summary


def environment(device: torch.device) -> dict[str, str]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    threads = str(torch.get_num_threads())
    return {"torch": torch.__version__, "python": platform.python_version(), "device": name, "threads": threads}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="ResNet-50 alone and 5 repeats: minutes on 2 cores")
    parser.add_argument("--models", nargs="+", default=["resnet50", "resnet18", "convnext_tiny", "mobilenet_v2"])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=None, help="default: 64 on a GPU, 8 on a CPU")
    parser.add_argument("--repeats", type=int, default=None, help="timed pairs of steps; default 20, quick 5")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    device = torch.device(options.device)
    batch_size = options.batch_size or (64 if device.type == "cuda" else 8)
    rows: list[Row] = []
    print(f"{'model':16}{'what':28}{'ms':>9}{'plain ms':>10}{'time':>7}{'spread':>8}{'memory':>8}")
    for name in ["resnet50"] if options.quick else options.models:
        for seed in range(options.seeds):
            repeats = options.repeats or (5 if options.quick else 20)
            for row in measure(name, options.image_size, batch_size, repeats, seed, device):
                rows.append(row)
                print(
                    f"{row.model:16}{row.what:28}{row.milliseconds:9.1f}{row.plain_milliseconds:10.1f}"
                    f"{row.time_ratio:7.3f}{row.time_spread:8.3f}{row.memory_ratio:8.3f}",
                    flush=True,
                )
    report = {"rows": [asdict(row) for row in rows], "summary": summarize(rows), "environment": environment(device)}
    if options.json:
        write_json(options.json, report)
    print(json.dumps(report["summary"], indent=2))


if __name__ == "__main__":
    main()
