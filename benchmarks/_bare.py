"""A module and a Trainer without anything of camtrain, for benchmarks to add to."""

from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BareClassifier(pl.LightningModule):
    """A module that knows nothing of camtrain: cross-entropy on `net`, with the optimizer that is given.

    >>> BareClassifier(nn.Flatten(), torch.optim.SGD, lr=0.1)(torch.zeros(2, 3, 1)).shape
    torch.Size([2, 3])
    """

    def __init__(self, net: nn.Module, optimizer: Callable[..., torch.optim.Optimizer], lr: float) -> None:
        super().__init__()
        self.net, self.optimizer, self.lr = net, optimizer, lr

    def forward(self, images: Tensor) -> Any:
        return self.net(images)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        logits = self(batch[0])
        self.log("val/loss", F.cross_entropy(logits, batch[1]))
        self.log("val/accuracy", (logits.argmax(dim=1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer(self.parameters(), self.lr)


def bare_trainer(device: str, callbacks: Sequence[pl.Callback], **arguments: Any) -> pl.Trainer:
    """A Trainer of one device that prints nothing; it logs and keeps nothing either, unless `arguments` say so."""
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return pl.Trainer(
        accelerator="gpu" if device.startswith("cuda") else "cpu",
        devices=1,
        callbacks=list(callbacks),
        **{**quiet, **arguments},
    )
