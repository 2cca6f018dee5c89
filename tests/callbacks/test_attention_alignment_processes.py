"""AttentionAlignment over two processes equals one process on the joint batch."""

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from camtrain.callbacks import AttentionAlignment
from tests.processes import forked


class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.ReLU(),
            nn.Conv2d(4, 5, 3),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(5, 3),
        )

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.net(batch["image"]), batch["label"])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5)

    def train_dataloader(self):
        rank, world = self.trainer.global_rank, self.trainer.world_size
        mine = [{key: value.chunk(world)[rank] for key, value in batch.items()} for batch in batches()]
        return DataLoader(mine, batch_size=None)


def batches():
    generator = torch.Generator().manual_seed(0)
    for annotated in ([0, 4, 5, 6], [1], []):  # as 1 + 3, 1 + 0 and 0 + 0 in the two processes
        masks = -torch.ones(8, 8, 8)
        masks[annotated] = 0
        masks[annotated, 2:6, 1:5] = 1
        yield {"image": torch.rand(8, 3, 8, 8, generator=generator), "label": torch.arange(8) % 3, "mask": masks}


def trained(folder, devices, alignment, epochs):
    """The weights, and what was logged."""
    module = Module()
    trainer = pl.Trainer(
        accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", max_epochs=epochs, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        use_distributed_sampler=False, callbacks=[alignment],
    )  # fmt: skip
    trainer.fit(module)
    return module.state_dict(), {name: value.item() for name, value in trainer.callback_metrics.items()}


def test_two_processes__equal_one_on_the_joint_batch(tmp_path):
    alignment = AttentionAlignment(weight=5.0, twins=0.0)
    ((alone, metrics),) = forked(trained, tmp_path, 1, alignment, 1, folder=tmp_path, devices=1)
    (both, metrics_of_both), _ = forked(trained, tmp_path, 2, alignment, 1, folder=tmp_path)
    torch.testing.assert_close(both, alone, rtol=1e-5, atol=1e-6)
    assert metrics_of_both == pytest.approx(metrics, rel=1e-4)
    assert metrics["alignment/penalty"] > 0


def test_two_processes__with_the_defaults_end_with_the_same_network(tmp_path):
    (state, logged), (state_of_other, logged_by_other) = forked(
        trained, tmp_path, 2, AttentionAlignment(), 2, folder=tmp_path
    )
    torch.testing.assert_close(state, state_of_other, rtol=0, atol=0)
    assert logged == logged_by_other
    assert logged["alignment/skipped"] == 0
    assert 0 < logged["alignment/twins"] < 3
