"""What Lightning offers, beside our callbacks: the rows of docs/lightning.md, each a training with and without them."""

import math
import re

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    BaseFinetuning,
    BatchSizeFinder,
    DeviceStatsMonitor,
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelCheckpoint,
    ModelPruning,
    StochasticWeightAveraging,
    Timer,
)
from pytorch_lightning.tuner import Tuner
from pytorch_lightning.utilities import CombinedLoader
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from camtrain.callbacks import AttentionAlignment, ExplanationMonitor, FaithfulnessMonitor, RelianceDetector
from tests.layout import ROOT

PAGE = (ROOT / "docs" / "lightning.md").read_text()


def loader(count=36, batch_size=12):
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(count, 16, 16)
    masks[:, :8, :8] = 1
    images = torch.rand(count, 3, 16, 16, generator=generator)
    return DataLoader(TensorDataset(images, torch.arange(count) % 3, masks), batch_size)


class Module(pl.LightningModule):
    """As most are written: a forward of its own, which the steps call."""

    def __init__(self, lr=0.1, batch_size=12):
        super().__init__()
        self.save_hyperparameters()
        torch.manual_seed(1)
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))

    def forward(self, images):
        return self.head(self.backbone(images))

    def training_step(self, batch, batch_idx):
        batch = batch["first"] if isinstance(batch, dict) else batch
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log(
            "val/loss", nn.functional.cross_entropy(self(batch[0]), batch[1]), add_dataloader_idx=dataloader_idx > 0
        )

    def train_dataloader(self):
        return loader(batch_size=self.hparams.batch_size)

    def val_dataloader(self):
        return loader()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.hparams.lr)


class HeadFirst(BaseFinetuning):
    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.backbone)

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.backbone, optimizer)


def averaging(name):
    callback = getattr(pl.callbacks, name, None)
    return [callback()] if callback else pytest.skip(f"no {name} in pytorch-lightning {pl.__version__}")


# What the page calls it: the Trainer's arguments, its other callbacks, and what is done before the fit.
ROWS = {
    "accumulate_grad_batches": {"accumulate_grad_batches": 2},
    "gradient_clip_val": {"gradient_clip_val": 0.1},
    "gradient_clip_algorithm": {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
    "bf16-mixed": {"precision": "bf16-mixed"},
    "bf16-true": {"precision": "bf16-true"},
    "16-true": {"precision": "16-true"},
    "64-true": {"precision": "64-true"},
    "inference_mode": {"inference_mode": False},
    "overfit_batches": {"overfit_batches": 2},
    "limit_val_batches": {"limit_val_batches": 0},
    "reload_dataloaders_every_n_epochs": {"reload_dataloaders_every_n_epochs": 1},
    "detect_anomaly": {"detect_anomaly": True},
    "deterministic": {"deterministic": True},
    "profiler": {"profiler": "simple"},
    "barebones": {"barebones": True},
    "ddp": {"strategy": "ddp"},
    "several dataloaders": {"val": lambda: [loader(), loader(12)]},
    "CombinedLoader": {"val": lambda: CombinedLoader({"first": loader(), "second": loader(12)}, "sequential")},
    "StochasticWeightAveraging": {"others": lambda: [StochasticWeightAveraging(0.05, swa_epoch_start=1)]},
    "WeightAveraging": {"others": lambda: averaging("WeightAveraging")},
    "EMAWeightAveraging": {"others": lambda: averaging("EMAWeightAveraging")},
    "LearningRateFinder": {"others": lambda: [LearningRateFinder(num_training_steps=5)]},
    "BatchSizeFinder": {"others": lambda: [BatchSizeFinder(max_trials=2, steps_per_trial=1)]},
    "Tuner.lr_find": {"before": lambda trainer, module: Tuner(trainer).lr_find(module, num_training=6)},
    "Tuner.scale_batch_size": {
        "before": lambda trainer, module: Tuner(trainer).scale_batch_size(module, max_trials=2, steps_per_trial=1)
    },
    "GradientAccumulationScheduler": {"others": lambda: [GradientAccumulationScheduler({1: 2})]},
    "BaseFinetuning": {"others": lambda: [HeadFirst()]},
    "ModelPruning": {"others": lambda: [ModelPruning("l1_unstructured", amount=0.3)]},
    "EarlyStopping": {"others": lambda: [EarlyStopping("val/loss")]},
    "ModelCheckpoint": {
        "others": lambda: [ModelCheckpoint(monitor="val/loss", save_top_k=2)],
        "enable_checkpointing": True,
    },
    "Timer": {"others": lambda: [Timer("00:00:10:00")]},
    "DeviceStatsMonitor": {"others": lambda: [DeviceStatsMonitor(cpu_stats=True)], "logger": True},
}
QUIET = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")


def train(folder, row, *callbacks):
    """The weights after two epochs and what was logged."""
    options = dict(ROWS[row])
    others, before = options.pop("others", list)(), options.pop("before", None)
    val = options.pop("val", lambda: None)()
    quiet = {} if options.get("barebones") else dict.fromkeys(QUIET, False)
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=[*others, *callbacks],
        **{**quiet, **options},
    )
    torch.manual_seed(7)
    module = Module()
    if before is not None:
        before(trainer, module)
    try:
        trainer.fit(module, module.train_dataloader() if val is not None else None, val)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    weights = torch.cat([tensor.detach().double().flatten() for tensor in module.state_dict().values()])
    return weights, {name: float(value) for name, value in trainer.callback_metrics.items()}


def monitors():
    return [
        ExplanationMonitor(num_probes=0, num_failures=0),
        RelianceDetector(images_per_class=10, max_images=36, looks=(), start_epoch=1, regions=0, num_examples=1),
        FaithfulnessMonitor(methods=["grad_cam"], budget=12),
    ]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("row", ROWS)
def test_row__trains_to_the_same_weights_with_the_monitors_and_aligns(row, tmp_path):
    plain, _ = train(tmp_path / "plain", row)
    watched, numbers = train(tmp_path / "watched", row, *monitors())
    assert torch.equal(plain, watched)
    if row not in ("barebones", "limit_val_batches"):  # neither logs, or there is nothing to look at
        assert math.isfinite(numbers["cam/inside_energy/grad_cam"])
        assert math.isfinite(numbers["cam/average_drop/grad_cam"])
        assert math.isfinite(numbers["reliance/flagged"]) == (row != "overfit_batches")  # too few images to judge
    if row == "limit_val_batches":
        assert not [name for name, value in numbers.items() if name.startswith("cam/") and not math.isnan(value)]
    if row == "barebones":
        assert list((tmp_path / "watched").rglob("report.html"))
    _, numbers = train(tmp_path / "aligned", row, AttentionAlignment())
    if row != "barebones":
        assert math.isfinite(numbers["alignment/penalty"])


def test_page__has_these_rows_and_names_tests_that_exist():
    table = PAGE.split("## Trainer and callbacks")[1].split("\n## ")[0]
    assert re.findall(r"^\| `([^`]+)`", table, flags=re.MULTILINE) == list(ROWS)
    for path, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE):
        assert f"def {name}(" in (ROOT / path).read_text(), name
