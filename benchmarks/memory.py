"""Does a long run with pictures keep its memory: resident megabytes over the epochs of a monitored training.

    python benchmarks/memory.py --quick

A small network is trained on random images, with Weights & Biases offline: without camtrain; and with every
validation image explained, probes and failure cases drawn in every epoch, and the detector's verdicts in every fifth.
Each training is a process of its own. What the allocator keeps for later is given back before memory is read, every
tenth epoch (`malloc_trim`, where the C library has it), so that the figures are what is held. Growth is the slope of a
straight line through the second half of the epochs, in kilobytes an epoch; what Weights & Biases and Lightning grow by
themselves is in the first row.
"""

import argparse
import ctypes
import gc
import logging
import multiprocessing
import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from _bare import BareClassifier, bare_trainer
from _report import parser, report
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from camtrain.callbacks import ExplanationMonitor, RelianceDetector

PAGE = os.sysconf("SC_PAGE_SIZE")
EVERY = 10


def small() -> BareClassifier:
    """Two convolutions."""
    layers = nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU()
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))
    return BareClassifier(net, torch.optim.SGD, lr=1e-2)


class Scale(pl.Callback):
    """The memory of this process, in megabytes, after the first epoch and every tenth."""

    def __init__(self) -> None:
        self.megabytes: dict[int, float] = {}
        self._give_back = getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: None)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        if epoch > 1 and epoch % EVERY:
            return
        gc.collect()
        self._give_back(0)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.megabytes[epoch] = pages * PAGE / 2**20


def batches(images: int, size: int) -> DataLoader[tuple[Tensor, ...]]:
    masks = torch.zeros(images, size, size)
    masks[:, size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = 1
    return DataLoader(TensorDataset(torch.rand(images, 3, size, size), torch.arange(images) % 4, masks), 16)


def train(monitored: bool, epochs: int, size: int) -> dict[int, float]:
    """Megabytes after the epochs that were weighed."""
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    os.environ |= {"WANDB_SILENT": "true", "WANDB_MODE": "offline"}
    torch.set_num_threads(1)
    torch.manual_seed(0)
    scale = Scale()
    callbacks = [ExplanationMonitor(), RelianceDetector(every_n_epochs=5)] if monitored else []
    with tempfile.TemporaryDirectory() as folder:
        logger = WandbLogger(project="memory", save_dir=folder, offline=True)
        trainer = bare_trainer(
            "cpu", [*callbacks, scale], logger=logger, max_epochs=epochs, default_root_dir=folder, log_every_n_steps=1
        )
        trainer.fit(small(), batches(32, size), batches(96, size))
        logger.experiment.finish()
    return scale.megabytes


def growth(megabytes: Mapping[int, float]) -> float:
    """Kilobytes an epoch, over the second half.

    >>> round(growth({1: 9.0, 10: 9.0, 20: 1.0, 30: 11.0}), 3)
    1024.0
    """
    late = {epoch: value for epoch, value in megabytes.items() if 2 * epoch > max(megabytes)}
    return float(np.polyfit(list(late), list(late.values()), 1)[0]) * 1024


def main() -> None:
    made = parser(__doc__ or "")
    made.add_argument("--epochs", type=int, default=200)
    made.add_argument("--image-size", type=int, default=64)
    options: argparse.Namespace = made.parse_args()
    rows, summary = [], {}
    spawn = multiprocessing.get_context("spawn")
    for what, monitored in {"W&B alone": False, "monitored, W&B": True}.items():
        with spawn.Pool(1) as pool:
            found = pool.apply(train, (monitored, options.epochs, options.image_size))
        shown = {f"epoch {epoch}": round(found[epoch], 1) for epoch in found if epoch == 1 or epoch % 50 == 0}
        rows.append({"what": what, **shown, "growth in kB an epoch": growth(found)})
        summary[f"growth_{'monitored' if monitored else 'alone'}_kb_per_epoch"] = growth(found)
    report(rows, summary, options, f"Megabytes over {options.epochs} epochs")


if __name__ == "__main__":
    main()
