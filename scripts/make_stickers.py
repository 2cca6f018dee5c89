"""The picture of found stickers in the documentation: python scripts/make_stickers.py

Trains the demo's network for a minute on its scenes with a canary's stickers, looks for them without masks, prints the
verdicts and joins the strips of two classes.
"""

import tempfile
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from camtrain.callbacks import RelianceDetector
from camtrain.data import Canary
from camtrain.data.modules import ScenesDataModule
from camtrain.networks import SmallResNet

TARGET = Path(__file__).resolve().parent.parent / "docs" / "images" / "stickers.jpg"
CANARY = Canary("sticker", 4, seed=5)


class Judged(pl.LightningModule):
    """A network to validate."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self(batch[0])


def with_stickers(batches: Any, first_key: int) -> TensorDataset:
    batches = list(batches)
    images, labels = (torch.cat([batch[name] for batch in batches]) for name in ("image", "label"))
    return TensorDataset(CANARY(images, labels, torch.arange(len(labels)) + first_key), labels)


def main() -> None:
    torch.manual_seed(0)
    data = ScenesDataModule(correlation=0.5, train_size=1200, val_size=320)
    data.setup("fit")
    train, val = (with_stickers(*part) for part in ((data.train_dataloader(), 0), (data.val_dataloader(), 10**6)))
    network = SmallResNet(4)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    for _ in range(6):
        for images, labels in DataLoader(train, 32, shuffle=True):
            optimizer.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            optimizer.step()
    with tempfile.TemporaryDirectory() as folder:
        detector = RelianceDetector()
        trainer = pl.Trainer(accelerator="cpu", logger=False, default_root_dir=folder, callbacks=[detector])
        trainer.validate(Judged(network), DataLoader(val, 40), verbose=False)
        found = sorted(Path(folder).rglob("regions/*.jpg"))[:2]
        strips = [Image.open(path).convert("RGB") for path in found]
    for one in detector.verdicts:
        print(one.class_name, one.verdict, one.cue, f"{one.effect:.2f}", one.note, f"{one.flips} of {one.transplants}")
    joined = Image.new("RGB", (max(s.width for s in strips), sum(s.height + 8 for s in strips) - 8), "white")
    for row, strip in enumerate(strips):
        joined.paste(strip, (0, row * (strip.height + 8)))
    joined.save(TARGET, quality=85)
    print(TARGET)


if __name__ == "__main__":
    main()
