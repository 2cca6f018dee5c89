"""One training of the decoy benchmark, what it is judged by, and what a step of it costs."""

import tempfile
import time
from typing import Any

import pytorch_lightning as pl
import torch
from _bare import bare_trainer
from _decoy_data import Batches, Split
from _decoy_rows import ROWS, Classifier, Row
from _report import median_and_spread
from torch import Tensor

from camtrain.cam import capture, contribution_cam, grad_cam
from camtrain.metrics import inside_energy

BATCH_SIZE = 256
WARM_UP, TIMED_STEPS, ROUNDS = 11, 11, 5  # the automatic weight measures in each of the first ten steps
MAPS = {"contribution": contribution_cam, "grad_cam": grad_cam}


def fit(
    row: Row,
    weight: float,
    split: Split,
    seed: int,
    device: str,
    *,
    watch: list[pl.Callback] | None = None,
    **limits: Any,
) -> Classifier:
    """The trained network, on the device and in evaluation mode."""
    torch.manual_seed(seed)
    module, callbacks = row.build(weight)
    if not device.startswith("cuda"):
        module = module.to(memory_format=torch.channels_last)  # a quarter faster there
    with tempfile.TemporaryDirectory() as folder:
        trainer = bare_trainer(device, [*callbacks, *(watch or [])], default_root_dir=folder, **limits)
        trainer.fit(module, Batches(split.to(device), BATCH_SIZE, seed))
    return module.to(device).eval()


@torch.no_grad()
def accuracy(net: Classifier, split: Split) -> float:
    """In percent."""
    right = [net(batch["image"]).argmax(dim=1) == batch["label"] for batch in split.batches(1000)]
    return 100 * torch.cat(right).float().mean().item()


class LateAccuracy(pl.Callback):
    """Accuracy in percent after each epoch of the second half: their mean is less a matter of where training ended."""

    def __init__(self, split: Split) -> None:
        self.split = split
        self.found: list[float] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if 2 * (trainer.current_epoch + 1) > (trainer.max_epochs or 0) and isinstance(pl_module, Classifier):
            pl_module.eval()
            self.found.append(accuracy(pl_module, self.split))
            pl_module.train()


def energies(net: Classifier, split: Split) -> dict[str, float]:
    """Percent of the energy of each of `MAPS`, for the predicted class's logit, that lies off the patch."""
    found: dict[str, list[Tensor]] = {name: [] for name in MAPS}
    for batch in split.batches(1000):
        seen = capture(net.net, batch["image"], net.net[4])
        for name, method in MAPS.items():
            found[name].append(inside_energy(method(seen.activations[0], seen.gradients[0]), batch["mask"]))
    return {name: 100 * torch.cat(values).nanmean().item() for name, values in found.items()}


class Stopwatch(pl.Callback):
    """The seconds from each step's start to the next one's; on a CPU of its work alone, whatever else runs there."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.starts: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()
        self.starts.append(time.perf_counter() if self.device.startswith("cuda") else time.process_time())

    @property
    def seconds(self) -> float:
        """The median after the first steps, which find layers and warm up."""
        pairs = zip(self.starts[WARM_UP:-1], self.starts[WARM_UP + 1 :], strict=True)
        return median_and_spread([after - before for before, after in pairs])[0]


def time_step(name: str, weight: float, split: Split, device: str) -> dict[str, float]:
    """The row's time per step over that of the plain network: the median over rounds in which both take turns."""
    plain: list[float] = []
    changed: list[float] = []
    for turn in range(ROUNDS):
        for row, times in [("vanilla", plain), (name, changed)][:: 1 if turn % 2 else -1]:
            watch = Stopwatch(device)
            fit(ROWS[row], weight, split, 0, device, watch=[watch], max_steps=WARM_UP + TIMED_STEPS, max_epochs=-1)
            times.append(watch.seconds)
    ratio, spread = median_and_spread([slow / fast for slow, fast in zip(changed, plain, strict=True)])
    return {"ratio": ratio, "spread": spread, "plain_milliseconds": 1000 * median_and_spread(plain)[0]}
