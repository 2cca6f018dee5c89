"""What monitoring and alignment cost a Lightning training, as ratios to the same training without them.

    python benchmarks/overhead.py --quick

Each repeat runs plain and changed one after the other, on the same data and weights; a ratio is the median over the
repeats, its spread the distance between their quartiles. Validation and training are timed from the first to the last
batch of the Trainer's own loops. Rows:

* validation (of `--images`; the training rows take a quarter of them): every image explained by two methods, metrics
  and no pictures;
* validation with pictures: the probes and failure cases too, in the local files;
* validation, faithfulness: `FaithfulnessMonitor` at its default budget beside the monitor, over a validation of 2,000
  images with the monitor alone; its own share is that of its hooks in the epoch's CPU seconds;
* training step with the heatmap penalty; with twins exchanged for their images; with twins of an eighth of the batch;
* training with everything on: monitor with pictures and report, alignment with the penalty;
* training, monitored: three epochs on `--images`, a quarter of them to validate, with every one of these explained,
  probes, failure cases, Weights & Biases offline and the report at the end, over the same training with that logger.

`--task binary multi_label ...` (or `all`) measures in their place the second validation of a training, by a network on
the same trunk (of clips R3D-18, 4 frames of half the side), every unit explained by two methods: an image, a label, a
region, a box, a word (of a caption three), a clip, a question.

The CPU ratio is that of the process's CPU seconds, all threads together, which other work on the machine disturbs less;
encoding in the background counts there, though training does not wait for it.
"""

import logging
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
import torchvision
from _bare import BareClassifier, bare_trainer
from _overhead_tasks import TASKS, Validated, held_out
from _report import median_and_spread, parser, report
from numpy.typing import NDArray
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from camtrain.callbacks import AttentionAlignment, ExplanationMonitor, FaithfulnessMonitor

LAYER, TRUNK = "net.layer4", "net.features"
Callbacks = Callable[[], list[pl.Callback]]
Seconds = NDArray[np.float64]


def now() -> Seconds:
    return np.array([time.perf_counter(), time.process_time()])


class Clock(pl.Callback):
    """Seconds of a loop, on the wall and of the CPU, from its first batch to its end, with the callbacks' work."""

    def __init__(self) -> None:
        self.seconds = np.zeros(2)
        self._start = np.zeros(2)

    def start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._start = now()

    def stop(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds += now() - self._start

    on_validation_start = start
    on_validation_end = stop


class LastClock(Clock):
    """Knows the last validation alone: the first one looks for layers, and whether a ride gives the same bits."""

    def stop(self, trainer: pl.Trainer, *arguments: Any) -> None:
        self.seconds = np.zeros(2)
        super().stop(trainer, *arguments)

    on_validation_end = stop


class TrainClock(Clock):
    """The same for training."""

    on_validation_start = on_validation_end = pl.Callback.on_validation_start
    on_train_start = Clock.start
    on_fit_end = Clock.stop


def data(images: int, size: int, batch_size: int) -> DataLoader[tuple[Tensor, ...]]:
    masks = torch.zeros(images, size, size)
    masks[:, size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = 1
    return DataLoader(TensorDataset(torch.rand(images, 3, size, size), torch.randint(10, (images,)), masks), batch_size)


def run(
    verb: str,
    loaders: tuple[Any, Any],
    callbacks: list[pl.Callback],
    device: str,
    epochs: int,
    with_wandb: bool = False,
    task: str = "",
) -> Seconds:
    clock = LastClock() if task else Clock() if verb == "validate" else TrainClock()
    folder = Path(tempfile.mkdtemp())
    logger = WandbLogger(project="overhead", save_dir=folder, offline=True) if with_wandb else False
    torch.manual_seed(0)
    module = (
        Validated(task)
        if task
        else BareClassifier(torchvision.models.resnet18(num_classes=10), torch.optim.SGD, lr=1e-3)
    )
    trainer = bare_trainer(
        device,
        [*callbacks, clock],
        logger=logger,
        num_sanity_val_steps=0,
        max_epochs=epochs,
        default_root_dir=folder,
        limit_train_batches=1 if task else 1.0,
    )
    if task:  # in training, without the sheets of all images that a validation alone has
        trainer.fit(module, loaders[1], loaders[1])
    elif verb == "validate":
        trainer.validate(module, loaders[1], verbose=False)
    else:
        trainer.fit(module, loaders[0], loaders[1] if verb == "fit with validation" else None)
    if isinstance(logger, WandbLogger):
        logger.experiment.finish()
    shutil.rmtree(folder, ignore_errors=True)
    return clock.seconds


def monitor(pictures: int) -> Callbacks:
    return lambda: [ExplanationMonitor(layers=LAYER, num_probes=pictures, num_failures=pictures)]


def aligned(twins: float, place: Literal["exchange", "add"] = "add") -> Callbacks:
    return lambda: [AttentionAlignment(layers=LAYER, twins=twins, twins_share=1 / 8, twins_place=place)]


class TimedFaithfulness(FaithfulnessMonitor):
    """Knows the CPU seconds that it took, which other work on the machine and other runs do not blur."""

    own_seconds = 0.0

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        start = time.process_time()
        super().on_validation_batch_end(*args, **kwargs)
        self.own_seconds += time.process_time() - start

    def on_validation_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        start = time.process_time()
        super().on_validation_epoch_end(*args, **kwargs)
        self.own_seconds += time.process_time() - start


def faithful() -> list[pl.Callback]:
    return [*monitor(0)(), TimedFaithfulness(layers=LAYER)]


FAITHFUL, FAITHFUL_IMAGES = "validation, faithfulness", 2000
MONITORED = "training, monitored, W&B offline"
CASES: dict[str, tuple[str, Callbacks, str | None]] = {
    "validation, metrics": ("validate", monitor(0), "validation_ratio"),
    "validation, pictures": ("validate", monitor(8), None),
    FAITHFUL: ("validate", faithful, "validation_ratio_faithfulness"),
    "training, penalty": ("fit", aligned(0.0), "training_ratio"),
    "training, penalty, twins exchanged": ("fit", aligned(1.0, "exchange"), None),
    "training, penalty and twins": ("fit", aligned(1.0), None),
    "training, everything on": (
        "fit with validation",
        lambda: [*monitor(8)(), *aligned(0.0)()],
        "training_ratio_everything_on",
    ),
    MONITORED: ("fit with validation", monitor(8), "training_ratio_monitored"),
}


def compare(
    verb: str,
    callbacks: Callbacks,
    loaders: tuple[Any, Any],
    device: str,
    epochs: int,
    repeats: int,
    with_wandb: bool = False,
    before: Callbacks = list,
    task: str = "",
) -> dict[str, Any]:
    """Plain (with `before`) and changed in turns, the order reversed every time; the first turn warms up."""
    plain: list[Seconds] = []
    changed: list[Seconds] = []
    own: list[float] = []
    for repeat in range(repeats + 1):
        turns = [(before, plain), (callbacks, changed)][:: 1 if repeat % 2 else -1]
        for made, times in turns:
            seconds = run(verb, loaders, entered := made(), device, epochs, with_wandb, task)
            if repeat:
                times.append(seconds)
                own += [one.own_seconds / seconds[1] for one in entered if isinstance(one, TimedFaithfulness)]
    ratios = [a / b for a, b in zip(changed, plain, strict=True)]
    ratio, spread = median_and_spread([one[0] for one in ratios])
    cpu_ratio, cpu_spread = median_and_spread([one[1] for one in ratios])
    seconds = median_and_spread([one[0] for one in plain])[0]
    shares = dict(zip(("own CPU share", "share's spread"), median_and_spread(own), strict=True)) if own else {}
    return {
        **shares,
        "ratio": ratio,
        "spread": spread,
        "CPU ratio": cpu_ratio,
        "its spread": cpu_spread,
        "plain seconds": seconds,
    }


def of_tasks(tasks: Sequence[str], count: int, size: int, batch_size: int, repeats: int, device: str) -> list[Any]:
    """A row for each task: its monitored validation over plain validation."""
    rows = []
    for task in tasks:
        loader = held_out(task, count, size, batch_size)
        named: Any = "auto" if task == "clips" else task
        watched = [lambda named=named: [ExplanationMonitor(layers=TRUNK, num_probes=0, num_failures=0, task=named)]]
        measured = compare("validate", watched[0], (loader, loader), device, 2, repeats, task=task)
        rows.append({"what": task, **measured, "images": count, "image size": size, "repeats": repeats})
        print(
            f"{task}: {measured['ratio']:.3f} (CPU {measured['CPU ratio']:.3f} ± {measured['its spread']:.3f})",
            flush=True,
        )
    return rows


def main() -> None:
    made = parser(__doc__ or "")
    made.add_argument("--image-size", type=int, default=160)
    made.add_argument("--batch-size", type=int, default=None, help="default: 16 on a CPU, 128 on a GPU")
    made.add_argument("--images", type=int, default=None, help="default: 512 on a CPU (quick: 256), 4096 on a GPU")
    made.add_argument("--repeats", type=int, default=None, help="default: 15, quick 7")
    made.add_argument("--epochs", type=int, default=1, help="of the training rows")
    made.add_argument("--only", default="", help="the rows whose name starts so, as 'validation, metrics'")
    made.add_argument(
        "--task", nargs="+", choices=(*TASKS, "all"), default=[], help="these tasks, in place of the rows"
    )
    options = made.parse_args()
    warnings.filterwarnings("ignore")
    os.environ |= {"WANDB_SILENT": "true", "WANDB_MODE": "offline"}
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    on_gpu = options.device.startswith("cuda")
    images = options.images or (4096 if on_gpu else 256 if options.quick else 512)
    repeats = options.repeats or (7 if options.quick else 15)
    torch.manual_seed(0)
    batch_size = options.batch_size or (128 if on_gpu else 16)
    rows, summary = [], {}
    if options.task:
        tasks = TASKS if "all" in options.task else options.task
        rows = of_tasks(tasks, images // 2, options.image_size, batch_size, repeats, options.device)
        summary = {f"{row['what']}.monitored_ratio": row["CPU ratio"] for row in rows}
        report(rows, summary, options, "Monitored validation of each task, over plain validation")
        return
    chosen = {name: case for name, case in CASES.items() if name.startswith(options.only)}
    for name, (verb, callbacks, key) in chosen.items():
        monitored, faithfulness = name == MONITORED, name == FAITHFUL
        count = images if monitored or verb == "validate" else images // 4  # a training step is dearer
        count = FAITHFUL_IMAGES if faithfulness else count
        sizes = count, count // 4 if monitored else count
        loaders = data(sizes[0], options.image_size, batch_size), data(sizes[1], options.image_size, batch_size)
        epochs = max(3, options.epochs) if monitored else options.epochs
        turns = min(3 if monitored else 4, repeats) if monitored or faithfulness else repeats
        before = monitor(0) if faithfulness else list
        measured = compare(verb, callbacks, loaders, options.device, epochs, turns, monitored, before)
        rows.append({"what": name, **measured, "images": count, "image size": options.image_size, "repeats": turns})
        print(f"{name}: {measured['ratio']:.3f} (CPU {measured['CPU ratio']:.3f})", flush=True)
        if key:
            summary[key] = measured["ratio"]
        if faithfulness:
            summary["validation_share_faithfulness"] = measured["own CPU share"]
    report(rows, summary, options, "Overhead on ResNet-18, over the same run without it")


if __name__ == "__main__":
    main()
