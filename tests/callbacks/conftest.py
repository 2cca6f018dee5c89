"""A module that knows nothing of camtrain, and data for it."""

from collections.abc import Callable

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Foreign(pl.LightningModule):
    """Somebody else's module: `(x, y)` batches, its own loss, no forward method."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Dropout(0.3),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
        )  # fmt: skip

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val/loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    test_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.fixture
def foreign() -> Callable[[], Foreign]:
    """`foreign()`: the module, always with the same weights."""

    def make() -> Foreign:
        torch.manual_seed(1)
        return Foreign()

    return make


def tensors(count: int = 20, *, masks: bool = True, size: int = 16) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, size, size, generator=generator)
    labels = torch.randint(3, (count,), generator=generator)
    inside = torch.zeros(count, size, size)
    inside[:, : size // 2, : size // 2] = 1
    return TensorDataset(images, labels, inside) if masks else TensorDataset(images, labels)


@pytest.fixture
def loader() -> Callable[..., DataLoader[tuple[Tensor, ...]]]:
    """`loader(count=20, masks=True)`: batches of eight `(images, labels[, masks])`."""
    return lambda count=20, masks=True: DataLoader(tensors(count, masks=masks), 8)
