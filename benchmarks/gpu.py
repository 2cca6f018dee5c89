"""What only a GPU can show, in one script of a few minutes: exactness, waits, time and memory.

    python benchmarks/gpu.py --json FILE          on one card; about eight minutes
    python benchmarks/gpu.py --quick              on a CPU, in miniature: the same code, no figure worth keeping

It needs torch, torchvision, Lightning and torchmetrics, downloads nothing, and says what it leaves out. Tables:

* *exact*: the digest of the weights after a short training, plain and with each callback that must not change it, in
  32-bit, bf16-mixed and 16-mixed (with its scaler);
* *waits*: how often an aligned step and a monitored validation batch read a value back from the device;
* *time*: engine, monitored validation, aligned step over the same without them, in turns, by CUDA events;
* *memory*: the peak of each, over the peak without;
* *encoding*: the monitored validation with pictures while they are encoded in the background, over one without.

The network of the time table is ResNet-50 and ViT-B/16 at 224 px, batch 256, in bf16 and channels-last, eager and
compiled; `--quick` takes small ones.
"""

import hashlib
import logging
import tempfile
import time
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torchvision
from _bare import BareClassifier, bare_trainer
from _report import median_and_spread, parser, report
from _waits import counted_waits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from camtrain import explain
from camtrain.callbacks import AttentionAlignment, ExplanationMonitor, RelianceDetector
from camtrain.networks import SmallResNet

Made = Callable[[], list[pl.Callback]]
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--repeats", type=int, default=None, help="turns of each ratio; default 7, quick 1")
    options = made.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    options.repeats = options.repeats or (1 if options.quick else 7)
    tables: dict[str, list[dict[str, Any]]] = {}
    for name, measure in TABLES.items():
        start = time.perf_counter()
        tables[name] = list(survived(measure(options)))
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    rows = [{"table": name, **row} for name, table in tables.items() for row in table]
    report(rows, summary(tables), options, "GPU", tables=tables)


def survived(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows, and in place of those that cannot be had what stood in the way."""
    while True:
        try:
            yield next(rows)
        except StopIteration:
            return
        except (RuntimeError, ImportError) as error:  # out of memory, no compiler
            yield {"what": "left out", "why": f"{type(error).__name__}: {str(error)[:90]}"}
            return


def summary(tables: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    exact = [row["same"] for row in tables["exact"] if "same" in row]
    ratios = {f"{row['what']}, {row['network']}": row["ratio"] for row in tables["time"] if "ratio" in row}
    waits = {f"waits, {row['what']}": row["waits"] for row in tables["waits"] if "waits" in row}
    return {"exact": sum(exact), "compared": len(exact), **waits, **ratios}


def data(count: int, size: int, batch: int, classes: int = 10) -> DataLoader[tuple[Tensor, ...]]:
    """Noise with an object in the middle, held on the host."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(count, size, size)
    masks[:, size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = 1
    images = torch.rand(count, 3, size, size, generator=generator)
    labels = torch.arange(count) % classes
    return DataLoader(TensorDataset(images, labels, masks), batch, pin_memory=torch.cuda.is_available())


def small(options: Namespace) -> nn.Module:
    torch.manual_seed(0)
    return SmallResNet(10, width=4) if options.quick else torchvision.models.resnet18(num_classes=10)


# Exactness.


def exactness(options: Namespace) -> Iterator[dict[str, Any]]:
    count, size = (16, 32) if options.quick else (512, 64)
    loader = data(count, size, 8 if options.quick else 64)
    watching: dict[str, Made] = {
        "ExplanationMonitor": lambda: [ExplanationMonitor()],
        "RelianceDetector": lambda: [RelianceDetector(start_epoch=0)],
        "AttentionAlignment of weight 0": lambda: [AttentionAlignment(weight=0.0, twins=0.0)],
    }
    for precision in PRECISIONS:
        if precision == "16-mixed" and not options.device.startswith("cuda"):
            yield {"what": "16-mixed", "precision": precision, "why": "left out: it needs a GPU"}
            continue
        plain = digest(options, precision, [], loader)
        for name, made in watching.items():
            same = digest(options, precision, made(), loader) == plain
            yield {"what": name, "precision": precision, "same": same}


def digest(options: Namespace, precision: str, callbacks: list[pl.Callback], loader: Any) -> str:
    """Of the weights after two short epochs."""
    torch.manual_seed(0)
    module = BareClassifier(small(options), torch.optim.SGD, lr=1e-2)
    with tempfile.TemporaryDirectory() as folder, deterministic():
        arguments = {"max_epochs": 2, "precision": precision, "default_root_dir": folder, "num_sanity_val_steps": 0}
        bare_trainer(options.device, callbacks, **arguments).fit(module, loader, loader)
    values = (value.detach().cpu() for value in module.state_dict().values())
    return hashlib.sha256(b"".join(value.numpy().tobytes() for value in values)).hexdigest()


def deterministic() -> Any:
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)


# Waits.


class Counting(pl.Callback):
    """Counts the waits of each step of training, in the second epoch, or of each batch of validation."""

    def __init__(self, device: str, stage: str) -> None:
        self.device, self.stage = device, stage
        self.counts: list[dict[str, int]] = []
        self._inside: Any = None
        self._running: Any = None

    def _enter(self) -> None:
        self._inside = counted_waits(self.device)
        self._running = self._inside.__enter__()

    def _leave(self) -> None:
        self._inside.__exit__(None, None, None)
        self.counts.append(dict(self._running))

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.stage == "fit" and trainer.current_epoch == 1:
            self._enter()

    def on_before_optimizer_step(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.stage == "fit" and trainer.current_epoch == 1:
            self._leave()

    def on_validation_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.stage == "validate":
            self._enter()

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.stage == "validate":
            self._leave()


def waits(options: Namespace) -> Iterator[dict[str, Any]]:
    loader = data(32, 32, 8)
    cases: dict[str, tuple[str, Made]] = {
        "plain step": ("fit", list),
        "aligned step": ("fit", lambda: [AttentionAlignment()]),
        "plain validation batch": ("validate", list),
        "monitored validation batch": ("validate", lambda: [ExplanationMonitor(num_probes=0, num_failures=0)]),
    }
    for name, (stage, made) in cases.items():
        counting = Counting(options.device, stage)
        with tempfile.TemporaryDirectory() as folder:
            arguments = {"max_epochs": 2, "default_root_dir": folder, "num_sanity_val_steps": 0}
            trainer = bare_trainer(options.device, [counting, *made()], **arguments)
            module = BareClassifier(small(options), torch.optim.SGD, lr=1e-2)
            if stage == "fit":
                trainer.fit(module, loader)
            else:
                trainer.validate(module, loader, verbose=False)
        typical = sorted(counting.counts, key=lambda each: sum(each.values()))[len(counting.counts) // 2]
        where = ", ".join(f"{count} {each}" for each, count in typical.items())
        yield {"what": name, "waits": sum(typical.values()), "where": where}


# Time and memory.


def networks(options: Namespace) -> Iterator[tuple[str, nn.Module, int, int]]:
    """Name, network, image size, batch."""
    if options.quick:
        yield "small ResNet", small(options), 32, 4
        return
    torch.manual_seed(0)
    yield "ResNet-50", torchvision.models.resnet50(num_classes=10), 224, 256
    yield "ViT-B/16", torchvision.models.vit_b_16(num_classes=10), 224, 256


def seconds(act: Callable[[], object], device: str) -> float:
    """Of one call; by CUDA events where there are."""
    if not device.startswith("cuda"):
        start = time.perf_counter()
        act()
        return time.perf_counter() - start
    before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    before.record()
    act()
    after.record()
    torch.cuda.synchronize()
    return before.elapsed_time(after) / 1000


def peak(device: str) -> float:
    """MiB since the last reset; NaN without a GPU."""
    return torch.cuda.max_memory_allocated() / 2**20 if device.startswith("cuda") else float("nan")


def ratio(plain: Callable[[], object], changed: Callable[[], object], options: Namespace) -> dict[str, Any]:
    """Changed over plain, in turns after a warm-up, and the ratio of their peaks of memory."""
    times: list[float] = []
    peaks = []
    for act in (plain, changed):
        if options.device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats()
        act()
        peaks.append(peak(options.device))
    for repeat in range(options.repeats):
        pair = [(seconds(act, options.device), act is changed) for act in (plain, changed)[:: 1 if repeat % 2 else -1]]
        both = {is_changed: spent for spent, is_changed in pair}
        times.append(both[True] / both[False])
    middle, spread = median_and_spread(times)
    return {"ratio": middle, "spread": spread, "plain MiB": peaks[0], "MiB": peaks[1]}


def timing(options: Namespace) -> Iterator[dict[str, Any]]:
    for name, network, size, batch in networks(options):
        yield from engine(name, network, size, batch, options)
        yield from loops(name, network, size, batch, options)


def engine(name: str, network: nn.Module, size: int, batch: int, options: Namespace) -> Iterator[dict[str, Any]]:
    """One call of `explain`, both methods, over a bare forward without gradients."""
    network = network.to(options.device, memory_format=torch.channels_last).eval()
    images = torch.rand(batch, 3, size, size, device=options.device).to(memory_format=torch.channels_last)
    kind = options.device.partition(":")[0]

    def bare() -> None:
        with torch.no_grad(), torch.autocast(kind, torch.bfloat16):
            network(images)

    def explained() -> None:
        with torch.autocast(kind, torch.bfloat16):
            explain(network, images)

    yield {"what": "explain, both methods", "network": name, **ratio(bare, explained, options)}


def loops(name: str, network: nn.Module, size: int, batch: int, options: Namespace) -> Iterator[dict[str, Any]]:
    """Validation and training loops of Lightning, over the same without the callback."""
    loader = data(2 * batch if options.quick else 6 * batch, size, batch)
    modes = ["eager"] if options.quick else ["eager", "compiled"]

    def looped(stage: str, made: Made, mode: str) -> Callable[[], object]:
        module = BareClassifier(network, torch.optim.SGD, lr=1e-4)
        if mode == "compiled":
            module.net.compile()

        def act() -> None:
            with tempfile.TemporaryDirectory() as folder:
                arguments = {"max_epochs": 1, "default_root_dir": folder, "num_sanity_val_steps": 0}
                trainer = bare_trainer(options.device, made(), precision="bf16-mixed", **arguments)
                if stage == "fit":
                    trainer.fit(module, loader)
                else:
                    trainer.validate(module, loader, verbose=False)

        return act

    cases: dict[str, tuple[str, Made]] = {
        "monitored validation": ("validate", lambda: [ExplanationMonitor(num_probes=0, num_failures=0)]),
        "aligned training": ("fit", lambda: [AttentionAlignment()]),
        "detection round": ("validate", lambda: [RelianceDetector()]),
    }
    for mode in modes:
        for what, (stage, made) in cases.items():
            row = ratio(looped(stage, list, mode), looped(stage, made, mode), options)
            yield {"what": f"{what}, {mode}", "network": name, **row}


def encoding(options: Namespace) -> Iterator[dict[str, Any]]:
    """Pictures encoded beside a GPU that is kept busy."""
    name, network, size, batch = next(networks(options))
    loader = data(4 * batch, size, batch)

    def validated(pictures: int) -> Callable[[], object]:
        module = BareClassifier(network, torch.optim.SGD, lr=1e-4)

        def act() -> None:
            with tempfile.TemporaryDirectory() as folder:
                made = [ExplanationMonitor(num_probes=pictures, num_failures=pictures)]
                trainer = bare_trainer(options.device, made, default_root_dir=folder, precision="bf16-mixed")
                trainer.validate(module, loader, verbose=False)
                with suppress(OSError):  # what is still being written
                    next(Path(folder).iterdir(), None)

        return act

    yield {"what": "validation, pictures over none", "network": name, **ratio(validated(0), validated(8), options)}


TABLES: dict[str, Callable[[Namespace], Iterator[dict[str, Any]]]] = {
    "exact": exactness,
    "waits": waits,
    "time": timing,
    "encoding": encoding,
}

if __name__ == "__main__":
    main()
