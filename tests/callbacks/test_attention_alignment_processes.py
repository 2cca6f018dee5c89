"""AttentionAlignment over two processes equals one process on the joint batch."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = """
import sys
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from camtrain.callbacks import AttentionAlignment


class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
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


if __name__ == "__main__":
    out, devices = sys.argv[1], int(sys.argv[2])
    module = Module()
    trainer = pl.Trainer(
        accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", max_epochs=1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=out,
        use_distributed_sampler=False, callbacks=[AttentionAlignment(weight=5.0, twins=0.0)],
    )
    trainer.fit(module)
    if trainer.is_global_zero:
        metrics = {key: value.item() for key, value in trainer.callback_metrics.items()}
        torch.save((module.state_dict(), metrics), f"{out}/{devices}.pt")

    default = Module()
    trainer = pl.Trainer(
        accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", max_epochs=2, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=out,
        use_distributed_sampler=False, callbacks=[AttentionAlignment()],
    )
    trainer.fit(default)
    torch.save(
        (default.state_dict(), {key: value.item() for key, value in trainer.callback_metrics.items()}),
        f"{out}/default-{devices}-{trainer.global_rank}.pt",
    )
"""


@pytest.mark.slow
def test_two_processes__equal_one_on_the_joint_batch(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    root = Path(__file__).resolve().parents[2]
    environment = {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    runs = [
        subprocess.Popen([sys.executable, script, tmp_path, str(devices)], env=environment, stderr=subprocess.PIPE)
        for devices in (1, 2)
    ]
    for run in runs:
        _, errors = run.communicate(timeout=120)
        assert run.returncode == 0, errors.decode()[-2000:]
    (one, metrics), (two, metrics_of_two) = (torch.load(tmp_path / f"{devices}.pt") for devices in (1, 2))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-5, atol=1e-6)
    assert metrics_of_two == pytest.approx(metrics, rel=1e-4)
    assert metrics["alignment/penalty"] > 0
    (state, logged), (state_of_other, logged_by_other) = (torch.load(tmp_path / f"default-2-{i}.pt") for i in range(2))
    torch.testing.assert_close(state, state_of_other, rtol=0, atol=0)
    assert logged == logged_by_other
    assert logged["alignment/skipped"] == 0
    assert 0 < logged["alignment/twins"] < 3
