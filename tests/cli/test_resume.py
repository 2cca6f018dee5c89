"""A training that was killed goes on: in the same run, with the same images, each epoch counted once."""

import importlib
import json
import multiprocessing
import os
import sys
import warnings
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import wandb
import yaml
from jsonargparse import Namespace
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.demos.boring_classes import BoringModel
from torch import nn
from torch.utils.data import DataLoader

from camtrain.callbacks import RunSummary
from camtrain.cli import main
from camtrain.cli.lightning import Continued, continue_run, find_continued, locate_last
from camtrain.errors import ConfigurationError
from camtrain.sinks import FAILURES, HEATMAPS, read_history
from tests.layout import ROOT

SCRIPT = """
import os, signal, sys, time, warnings
warnings.filterwarnings("ignore")
import torch
import pytorch_lightning as pl
from torch.utils.data import DataLoader


class Rows(pl.LightningDataModule):
    class_names = ["land", "water"]

    def train_dataloader(self):
        generator = torch.Generator().manual_seed(0)
        mask = torch.zeros(16, 16)
        mask[:8] = 1
        return DataLoader([(torch.rand(3, 16, 16, generator=generator), i % 2, mask) for i in range(12)], batch_size=4)

    val_dataloader = train_dataloader


class Killer(pl.Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if "KILL" in os.environ and trainer.current_epoch == 2 and batch_idx == 1:
            time.sleep(2)  # what was handed over is written
            os.kill(os.getpid(), signal.SIGKILL)
"""


def configuration(folder):
    callbacks = [
        {"class_path": "camtrain.callbacks.ExplanationMonitor", "init_args": {"num_probes": 3, "num_failures": 2}},
        {"class_path": "pytorch_lightning.callbacks.ModelCheckpoint", "init_args": {"save_last": True}},
        {"class_path": "camtrain.callbacks.RunSummary"},
        {"class_path": "script.Killer"},
    ]
    init = {"offline": True, "project": "p", "save_dir": str(folder)}
    return {
        "seed_everything": 0,
        "trainer": {
            "max_epochs": 4, "accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False,
            "logger": {"class_path": "pytorch_lightning.loggers.WandbLogger", "init_args": init},
            "callbacks": callbacks,
        },
        "model": {
            "class_path": "camtrain.module.ImageClassifier",
            "init_args": {"model": "camtrain.networks.SmallResNet", "model_kwargs": {"width": 4}},
        },
        "data": {"class_path": "script.Rows"},
    }  # fmt: skip


def fit(folder, *words, **environment):
    """The exit code of a training in a process of its own, forked from this one, which has everything imported."""
    process = multiprocessing.get_context("fork").Process(target=_fit, args=(folder, words, environment))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside pytest's own threads
        process.start()
    process.join(200)
    return process.exitcode


def _fit(folder, words, environment):
    environment |= {"HOME": str(folder), "WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_DIR": str(folder)}
    os.environ.update(environment)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # as in `processes.forked`
    main(["fit", "--config", "config.yaml", *words])
    wandb.finish()


def test_fit__goes_on_after_kill_9_where_it_was(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(configuration(tmp_path)))
    assert fit(tmp_path, KILL="1") == -9
    (run,) = (tmp_path / "p").iterdir()
    before = read_history(run / "camtrain")
    assert list(before.panels[HEATMAPS]) == [0, 1]

    assert fit(tmp_path, "--ckpt_path", "last") == 0
    assert [path.name for path in (tmp_path / "p").iterdir()] == [run.name]
    assert {path.name.rpartition("-")[2] for path in (tmp_path / "wandb").glob("offline-run-*")} == {run.name}

    after = read_history(run / "camtrain")
    assert list(after.panels[HEATMAPS]) == list(after.panels[FAILURES]) == [0, 1, 2, 3]
    assert list(after.scalars["cam/inside_energy/grad_cam"]) == [0, 1, 2, 3]
    assert list(after.classes) == [0, 1, 2, 3]
    assert all(sum(row["images"] for row in one["rows"]) == 12 for one in after.classes.values())
    probes = [[item["sample"] for item in one.items] for one in after.panels[HEATMAPS].values()]
    assert probes == [["val-0", "val-6", "val-11"]] * 4
    assert after.panels[HEATMAPS][2].items[0]["since_first"] is not None  # of the run that was killed
    assert before.scalars["val/accuracy"].items() <= after.scalars["val/accuracy"].items()
    assert "epoch 0 to 3" in " ".join((run / "camtrain" / "report.html").read_text().split())
    json.dumps(after.setup)


@pytest.fixture
def runs(tmp_path):
    for version in ("abc", "def"):
        (tmp_path / "p" / version / "checkpoints").mkdir(parents=True)
        torch.save({}, tmp_path / "p" / version / "checkpoints" / "last.ckpt")
    return tmp_path / "p"


def test_find_continued__takes_the_newest_checkpoint_for_last(runs):
    newest = runs / "abc" / "checkpoints" / "epoch=3.ckpt"
    torch.save({}, newest)
    os.utime(newest, ns=(2**62, 2**62))
    assert find_continued("last", runs) == Continued(newest, "abc")


def test_find_continued__knows_the_run_of_a_file(runs, tmp_path):
    assert find_continued(str(runs / "def" / "checkpoints" / "last.ckpt"), runs).version == "def"
    assert find_continued(str(tmp_path / "elsewhere.ckpt"), runs) is None


def test_find_continued__says_where_it_looked_for_the_last_one(tmp_path):
    with pytest.raises(ConfigurationError, match=r"no run in .* has a checkpoint"):
        find_continued("last", tmp_path)


@pytest.mark.parametrize(("kind", "key", "name"), [("WandbLogger", "id", "project"), ("CSVLogger", "version", "name")])
def test_continue_run__points_a_logger_at_the_same_run(runs, kind, key, name):
    options = Namespace({"save_dir": str(runs.parent), name: "p", key: None})
    logger = Namespace(class_path=f"pytorch_lightning.loggers.{kind}", init_args=options)
    config = Namespace(ckpt_path="last", trainer=Namespace(logger=logger, default_root_dir=None))
    found = continue_run(config)
    assert options[key] == found.version
    assert config.ckpt_path == str(found.checkpoint)


@pytest.mark.parametrize(
    ("written", "kind"), [("events.out.tfevents.1", "TensorBoardLogger"), ("metrics.csv", "CSVLogger")]
)
def test_continue_run__goes_on_in_the_folder_of_a_logger_that_nobody_named(tmp_path, written, kind):
    run = tmp_path / "lightning_logs" / "version_3"
    (run / "checkpoints").mkdir(parents=True)
    torch.save({}, run / "checkpoints" / "last.ckpt")
    (run / written).touch()
    config = Namespace(ckpt_path="last", trainer=Namespace(logger=None, default_root_dir=str(tmp_path)))
    assert continue_run(config).version == "version_3"
    assert config.ckpt_path == str(run / "checkpoints" / "last.ckpt")
    assert config.trainer.logger.class_path.endswith(kind)
    module = importlib.import_module("pytorch_lightning.loggers")
    if kind == "CSVLogger":
        logger = module.CSVLogger(**vars(config.trainer.logger.init_args))
        assert Path(logger.log_dir).resolve() == run.resolve()


def test_continue_run__without_a_logger_or_a_checkpoint_changes_nothing(tmp_path):
    for logger, asked in ((False, "last"), (None, None)):
        config = Namespace(ckpt_path=asked, trainer=Namespace(logger=logger, default_root_dir=str(tmp_path)))
        assert continue_run(config) is None
        assert config.trainer.logger is logger


def test_locate_last__names_the_newest_checkpoint(runs):
    options = Namespace(save_dir=str(runs.parent), project="p")
    logger = Namespace(class_path="pytorch_lightning.loggers.WandbLogger", init_args=options)
    config = Namespace(ckpt_path="last", trainer=Namespace(logger=logger, default_root_dir=None))
    os.utime(runs / "abc" / "checkpoints" / "last.ckpt", ns=(2**62, 2**62))
    locate_last(config)
    assert config.ckpt_path == str(runs / "abc" / "checkpoints" / "last.ckpt")
    assert "id" not in options


def test_continue_run__leaves_a_run_that_is_named_alone(runs):
    options = Namespace(save_dir=str(runs.parent), project="p", id="mine")
    logger = Namespace(class_path="WandbLogger", init_args=options)
    config = Namespace(ckpt_path="last", trainer=Namespace(logger=[logger], default_root_dir=None))
    assert continue_run(config) is None
    assert options.id == "mine"


class Level(pl.LightningModule):
    """Its metrics never get better."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).sum()

    def validation_step(self, batch, batch_idx):
        self.log_dict({"val/accuracy": 0.5, "val/worst_group_accuracy": 0.0})

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["demo.yaml", "image_folder.yaml", "decoy_fashion_mnist.yaml", "finetune.yaml"])
def test_configurations__save_every_epoch_to_go_on_from(name, make_trainer, tmp_path):
    given = yaml.safe_load((ROOT / "configs" / name).read_text())["trainer"].get("callbacks", [])
    folder = tmp_path / "run" / "checkpoints"
    savers = [
        ModelCheckpoint(folder, **one.get("init_args", {}))
        for one in given
        if one["class_path"].endswith("ModelCheckpoint")
    ]
    rows = DataLoader([torch.ones(1)] * 2)
    make_trainer(max_epochs=3, callbacks=savers, enable_checkpointing=True).fit(Level(), rows, rows)
    found = find_continued("last", tmp_path).checkpoint
    assert torch.load(found, weights_only=True)["epoch"] == 2
    assert len(list(folder.iterdir())) == len(savers) + sum(bool(saver.save_last) for saver in savers)


def test_checkpoint__that_was_cut_short_is_named_and_the_one_before_it_offered(tmp_path):
    folder = tmp_path / "runs" / "version_0" / "checkpoints"
    folder.mkdir(parents=True)
    for age, name in ((2, "a.ckpt"), (1, "b.ckpt")):
        torch.save({"weight": torch.rand(100)}, folder / name)
        os.utime(folder / name, (10 - age, 10 - age))
    cut = folder / "b.ckpt"
    cut.write_bytes(cut.read_bytes()[:500])
    for asked in ("last", str(cut)):
        with pytest.raises(ConfigurationError, match=r"b\.ckpt is cut short at 500 bytes .* before it, .*a\.ckpt"):
            find_continued(asked, tmp_path / "runs")
    with pytest.warns(UserWarning, match=r"b\.ckpt is cut short"), pytest.raises((OSError, RuntimeError)):
        pl.Trainer(
            callbacks=[RunSummary()], max_epochs=1, accelerator="cpu", logger=False, default_root_dir=tmp_path
        ).fit(BoringModel(), ckpt_path=cut)
