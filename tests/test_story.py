"""One run with everything on: a shortcut is learned, flagged and corrected, and W&B's offline run tells it all."""

import json
import warnings
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import WandbLogger

from camtrain.callbacks import AttentionAlignment, ExplanationMonitor, RelianceDetector, RunSummary
from camtrain.sinks.run import Run
from tests.callbacks.test_reliance_detector import Net, loaders


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """The offline run of six epochs, read back, and the folder of its own files."""
    import wandb

    from tests.wandb_reader import read_run

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.filterwarnings("ignore")
        home = tmp_path_factory.mktemp("story")
        for name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
            patch.setenv(name, str(home))
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        wandb.teardown()
        torch.manual_seed(3)
        logger = WandbLogger(save_dir=str(home), project="story", offline=True)
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=6,
            logger=logger,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=home,
            callbacks=[
                ExplanationMonitor(layers="net.2", num_probes=4),
                RelianceDetector(images_per_class=30),
                AttentionAlignment(layers="net.2", weight=3.0, twins=1.0, start_when="reliance/flagged"),
                RunSummary(),
            ],
        )
        trainer.fit(Net(), *loaders("background"))
        folder = Run.of(trainer).folder
        sync_dir = logger.experiment.settings.sync_dir
        wandb.finish()
        read = read_run(sync_dir)
        wandb.teardown()
    return SimpleNamespace(run=read, folder=folder, metrics=trainer.callback_metrics)


def test_story__flags_the_shortcut_and_starts_alignment(story):
    scalars = [json.loads(line) for line in (story.folder / "scalars.jsonl").read_text().splitlines()]
    text = json.dumps(scalars)
    assert "reliance/flagged" in text
    assert "alignment/weight" in text
    assert any(line.get("values", line).get("reliance/flagged", 0) > 0 for line in scalars)
    assert story.metrics["alignment/weight"] > 0


@pytest.mark.parametrize(
    "name",
    [
        "val_loss",
        "cam/inside_energy/grad_cam",
        "cam/inside_energy/grad_cam_plus_plus",
        "cam/pointing_game/grad_cam",
        "cam/empty_maps/grad_cam",
        "cam/right_ungrounded",
        "reliance/flagged",
        "reliance/effect",
        "alignment/weight",
        "alignment/penalty",
        "alignment/dead_maps",
    ],
)
def test_story__logs_each_scalar(story, name):
    values = [row[name] for row in story.run["history"] if name in row]
    assert values
    assert all(isinstance(value, float | int | str) for value in values)


def test_story__logs_panels_of_the_same_probes_each_epoch(story):
    passes = [row["cam/heatmaps"] for row in story.run["history"] if "cam/heatmaps" in row]
    assert len(passes) == 6
    assert all(images["count"] == 4 for images in passes)
    assert all(images["format"] == "jpg" for images in passes)
    assert "inside energy" in passes[0]["captions"][0]


def test_story__logs_tables_of_failures_and_verdicts(story):
    names = " ".join(story.run["tables"])
    assert "failures_table" in names
    assert "verdicts" in names
    columns = {column for tables in story.run["tables"].values() for table in tables for column in table["columns"]}
    assert {"verdict", "effect"} <= columns


def test_story__alerts_once_at_the_first_flag(story):
    assert len(story.run["alerts"]) == 1


def test_story__ends_in_one_report_that_opens_without_a_network(story):
    page = (story.folder / "report.html").read_text()
    assert "reliant" in page
    assert 'src="http' not in page
    assert 'href="http' not in page
