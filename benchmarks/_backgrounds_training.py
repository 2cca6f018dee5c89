"""One training of the backgrounds benchmark, and what the network answers then."""

import time
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from _backgrounds_groups import equally_often
from _backgrounds_rows import Network, Row
from _bare import bare_trainer
from _composites import CLASSES, CONFLICTING, GROUPS, Composites, batches
from torch import Tensor, nn

from camtrain import explain
from camtrain.cam import true_class
from camtrain.losses import make_twins
from camtrain.metrics import group_accuracy, inside_energy
from camtrain.module import ImageClassifier


class StepClock(pl.Callback):
    """Seconds of a training step with all that belongs to it, after the first few."""

    warm_up = 3

    def __init__(self) -> None:
        self.marks: list[float] = []

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._mark(trainer)

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._mark(trainer)

    def _mark(self, trainer: pl.Trainer) -> None:
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
            self.marks.append(time.perf_counter())
        else:
            self.marks.append(time.process_time())

    @property
    def seconds(self) -> float:
        marks = self.marks[min(self.warm_up, len(self.marks) - 2) :]
        return (marks[-1] - marks[0]) / (len(marks) - 1)


def fit(
    recipe: Row,
    network: Network,
    train: Composites,
    root: Path,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    device: str,
) -> tuple[ImageClassifier, StepClock]:
    torch.manual_seed(seed)
    module = recipe.module(
        network.model,
        num_classes=len(CLASSES),
        weights=None if network.weights is None else str(root / network.weights),
        optimizer=partial(torch.optim.AdamW, lr=network.lr),
    ).to(memory_format=torch.channels_last)  # almost twice as fast on a CPU
    generator = torch.Generator().manual_seed(seed)
    order: dict[str, Any] = {"shuffle": True}
    if recipe.balanced_batches:
        order = {"sampler": equally_often(train.groups, generator)}
    loader = batches(train, batch_size, flip=True, drop_last=True, generator=generator, **order)
    clock = StepClock()
    trainer = bare_trainer(device, [*recipe.callbacks(network, train), clock], max_epochs=epochs)
    trainer.fit(module, loader)
    return module, clock


def answers(network: nn.Module, dataset: Composites, device: str) -> tuple[Tensor, float]:
    """The predicted classes, and the mean inside energy in %."""
    predicted: list[Tensor] = []
    energies: list[Tensor] = []
    layers: Any = "auto"
    for batch in batches(dataset):
        images, labels, masks = (batch[key].to(device) for key in ("image", "label", "mask"))
        found = explain(network, images, layers=layers, methods="grad_cam", target=true_class, labels=labels)
        layers = found.layers
        predicted.append(found.logits.argmax(dim=1).cpu())
        energies.append(inside_energy(found.heatmaps["grad_cam"], masks).cpu())
    return torch.cat(predicted), 100 * float(torch.cat(energies).nanmean())


def on_twins(network: nn.Module, dataset: Composites, device: str) -> float:
    """Accuracy in % on twins of the images: what masks tell of a network where every image is biased."""
    correct, generator = [], torch.Generator().manual_seed(0)
    with torch.no_grad():
        for batch in batches(dataset, shuffle=True, generator=generator):
            twins, index = make_twins(batch["image"], batch["mask"], batch["label"], generator=generator)
            correct.append(network(twins.to(device)).argmax(dim=1).cpu() == batch["label"][index])
    return percent(torch.cat(correct))


def accuracies(correct: Tensor, groups: Tensor) -> dict[str, Any]:
    """Of a test set in which all groups are equally large."""
    by_group = 100 * group_accuracy(correct, groups, GROUPS)
    return {
        "mean": float(by_group.mean()),
        "conflicting": float(by_group[CONFLICTING].mean()),
        "worst": float(by_group.min()),
        "groups": by_group.tolist(),
    }


def percent(correct: Tensor) -> float:
    return 100 * float(correct.float().mean())
