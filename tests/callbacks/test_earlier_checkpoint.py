"""`earlier.ckpt` was written by the version before the callbacks were one file each: a run goes on from it."""

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from camtrain.callbacks import AttentionAlignment, ExplanationMonitor, RelianceDetector

EARLIER = Path(__file__).parent / "earlier.ckpt"


class Small(pl.LightningModule):
    def __init__(self):
        super().__init__()
        layers = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
        self.net = nn.Sequential(*layers)

    def forward(self, images):
        return self.net(images)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.05)


def squares():
    """Two classes told by the redness of what lies around a square in the middle."""
    generator = torch.Generator().manual_seed(0)
    labels, masks = torch.arange(48) % 2, torch.zeros(48, 12, 12)
    masks[:, 3:9, 3:9] = 1
    images = torch.rand(48, 3, 12, 12, generator=generator) * 0.5
    images[:, 0] += 0.5 * (labels == 1).view(-1, 1, 1) * (1 - masks)
    return DataLoader(TensorDataset(images, labels, masks), 12)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_earlier_checkpoint__goes_on_with_every_callback(tmp_path):
    monitor, detector, alignment = ExplanationMonitor(num_probes=2), RelianceDetector(), AttentionAlignment()
    written = torch.load(EARLIER, weights_only=False)["callbacks"]
    trainer = pl.Trainer(
        max_epochs=3, logger=False, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=tmp_path, callbacks=[monitor, detector, alignment],
    )  # fmt: skip
    trainer.fit(Small(), squares(), squares(), ckpt_path=EARLIER, weights_only=False)
    assert trainer.current_epoch == 3
    earlier = written["AttentionAlignment"]
    state = alignment.state_dict()
    assert state.keys() >= earlier.keys()
    assert state["steps"] == earlier["steps"] + 4 == 12  # four batches an epoch
    assert state["network"] == earlier["network"]
    assert detector.state_dict()["rounds"] == written[detector.state_key]["rounds"] + 1
    probes = [written[monitor.state_key]["seen"][stage]["probes"] for stage in written[monitor.state_key]["seen"]]
    assert [seen["probes"] for seen in monitor.state_dict()["seen"].values()] == probes
