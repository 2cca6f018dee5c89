"""Modules written without camtrain in mind, one for each task: every callback answers honestly, or refuses in words.

Honest is: a number that means something, or NaN or nothing where nothing was measured; never 0 flagged where nobody
looked, never another library's error.
"""

import math
import warnings

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

from camtrain.callbacks import AttentionAlignment, ExplanationMonitor, RelianceDetector
from camtrain.errors import CamtrainError

COUNT, SIDE = 48, 16


class Net(nn.Module):
    """A small convolutional network; `form` makes of its features what the task wants."""

    def __init__(self, out, form="classes", channels=3, clips=False):
        super().__init__()
        conv = nn.Conv3d if clips else nn.Conv2d
        self.features = nn.Sequential(conv(channels, 8, 3, padding=1), nn.ReLU(), conv(8, 8, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(8, out) if form != "map" else nn.Conv2d(8, out, 1)
        self.form = form

    def forward(self, x):
        maps = self.features(x)
        if self.form == "map":
            return self.head(maps)
        out = self.head(maps.flatten(2).mean(2))
        return out.squeeze(-1) if self.form == "flat" else out


class Module(pl.LightningModule):
    def __init__(self, net, loss):
        super().__init__()
        self.net, self.loss = net, loss

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return self.loss(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.loss(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-2)


class Rows(Dataset):
    def __init__(self, images, labels, masks):
        self.rows = images, labels, masks

    def __len__(self):
        return len(self.rows[0])

    def __getitem__(self, index):
        return tuple(each[index] for each in self.rows)


def binary_loss(answer, labels):
    return F.binary_cross_entropy_with_logits(answer.reshape(-1), labels.reshape(-1).float())


def world(task):
    """Images with an object on the left half whose brightness is what the task is about; masks of it; the network."""
    generator = torch.Generator().manual_seed(0)
    bright = torch.rand(COUNT, generator=generator)
    yes = (bright > 0.5).long()
    masks = torch.zeros(COUNT, SIDE, SIDE)
    masks[:, 4:12, 2:8] = 1
    images = 0.3 * torch.rand(COUNT, 3, SIDE, SIDE, generator=generator)
    images = images * (1 - masks[:, None]) + masks[:, None] * bright.view(-1, 1, 1, 1)
    if task == "binary, integers":
        return Module(Net(1), binary_loss), Rows(images, yes, masks)
    if task == "binary, floats":
        return Module(Net(1), binary_loss), Rows(images, yes.float().unsqueeze(1), masks)
    if task == "binary, flat":
        return Module(Net(1, "flat"), binary_loss), Rows(images, yes.float(), masks)
    if task == "multi label":
        labels = torch.stack([yes, 1 - yes, torch.arange(COUNT) % 2], dim=1).float()
        return Module(Net(3), F.binary_cross_entropy_with_logits), Rows(images, labels, masks)
    if task == "multi label, a mask each":
        labels = torch.stack([yes, 1 - yes, torch.arange(COUNT) % 2], dim=1).float()
        each = masks.unsqueeze(1).expand(-1, 3, -1, -1).contiguous()
        return Module(Net(3), F.binary_cross_entropy_with_logits), Rows(images, labels, each)
    if task == "regression":
        return Module(Net(1), lambda y, t: F.mse_loss(y.reshape(-1), t)), Rows(images, 30 * bright, masks)
    if task == "segmentation":
        labels = masks.long() * (1 + yes.view(-1, 1, 1))
        return Module(Net(3, "map"), F.cross_entropy), Rows(images, labels, masks)
    if task == "clips":
        clips = images.unsqueeze(2).repeat(1, 1, 4, 1, 1)
        return Module(Net(2, clips=True), F.cross_entropy), Rows(clips, yes, masks.unsqueeze(1).repeat(1, 4, 1, 1))
    assert task == "single label"
    return Module(Net(2), F.cross_entropy), Rows(images, yes, masks)


TASKS = [
    "single label", "binary, integers", "binary, floats", "binary, flat", "multi label", "multi label, a mask each",
    "regression", "segmentation", "clips",
]  # fmt: skip


def fitted(task, callback, tmp_path, epochs=2):
    """The trainer, the error it refused with, and what was reported as failed."""
    pl.seed_everything(0, verbose=False)
    module, data = world(task)
    loader = DataLoader(data, 12)
    trainer = pl.Trainer(
        max_epochs=epochs, logger=False, callbacks=[callback], accelerator="cpu", enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, default_root_dir=tmp_path,
    )  # fmt: skip
    refusal = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            trainer.fit(module, loader, loader)
        except CamtrainError as error:
            refusal = str(error)
    return trainer, refusal, [str(each.message) for each in caught if "failed in" in str(each.message)]


@pytest.mark.parametrize("task", TASKS)
def test_monitor__explains_with_numbers_that_mean_something(task, tmp_path):
    monitor = ExplanationMonitor(methods=["grad_cam"])
    trainer, refusal, failures = fitted(task, monitor, tmp_path)
    assert (refusal, failures) == (None, [])
    energy, empty = (
        trainer.callback_metrics[f"cam/{name}/grad_cam"].item() for name in ("inside_energy", "empty_maps")
    )
    assert empty == 1 if math.isnan(energy) else 0 <= energy <= 1
    cells = [trainer.callback_metrics[f"cam/{cell}"].item() for cell in CELLS]
    assert sum(cells) == pytest.approx(1) or (empty == 1 and all(map(math.isnan, cells)))  # no evidence, no cell
    assert monitor.images is not None


CELLS = ("right_grounded", "right_ungrounded", "wrong_grounded", "wrong_ungrounded")


@pytest.mark.parametrize("task", TASKS)
def test_detector__says_nothing_that_it_did_not_measure(task, tmp_path):
    detector = RelianceDetector(start_epoch=0, every_n_epochs=1)
    trainer, refusal, failures = fitted(task, detector, tmp_path)
    flagged = trainer.callback_metrics.get("reliance/flagged", torch.tensor(math.nan)).item()
    measured = [verdict for verdict in detector.verdicts if not math.isnan(verdict.effect)]
    if not measured:
        assert math.isnan(flagged)
        assert refusal or failures or detector.verdicts
    assert not any(verdict.verdict == "not reliant" and math.isnan(verdict.effect) for verdict in detector.verdicts)


@pytest.mark.parametrize("task", TASKS)
def test_alignment__trains_on_a_penalty_or_refuses_at_the_first_step(task, tmp_path):
    trainer, refusal, failures = fitted(task, AttentionAlignment(), tmp_path)
    assert not failures
    if refusal is not None:
        assert trainer.global_step == 0
        return
    assert 0 <= trainer.callback_metrics["alignment/penalty"] <= 1
    assert trainer.callback_metrics["alignment/weight"] > 0
    assert trainer.callback_metrics["alignment/skipped"] == 0
