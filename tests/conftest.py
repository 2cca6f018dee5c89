"""Fixtures that every area shares: seeds, an offline W&B, a quiet Trainer, the folder of real data."""

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure() -> None:
    os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"  # LightningCLI calls what jsonargparse deprecates
    torch.set_num_threads(1)  # small tensors: more threads only wait for each other


@pytest.fixture(autouse=True)
def seeded() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  the global generator is the one that other people's code reads
    torch.manual_seed(0)


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., pl.Trainer]:
    """`make_trainer(**kwargs)`: a Trainer on the CPU that prints nothing and writes under `tmp_path` only."""

    def make(**kwargs: Any) -> pl.Trainer:
        defaults = {
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "log_every_n_steps": 1,
            "default_root_dir": tmp_path,
        }
        return pl.Trainer(**(defaults | kwargs))

    return make


@pytest.fixture
def wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """W&B writes offline and under this folder only; `WandbLogger(save_dir=wandb_offline, offline=True)`."""
    import wandb

    folder = tmp_path / "wandb_home"
    for name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        (folder / name.lower()).mkdir(parents=True)
        monkeypatch.setenv(name, str(folder / name.lower()))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_CONSOLE", "off")
    wandb.teardown()  # settings are cached between inits
    yield folder
    wandb.finish()
    wandb.teardown()


@pytest.fixture
def read_run() -> Callable[..., dict[str, Any]]:
    """`read_run(run.settings.sync_dir)`: history, summary, config, alerts and tables of an offline run."""
    from tests.wandb_reader import read_run as read

    return read


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets, from CAMTRAIN_DATA or ../shared/data; skips where there is none."""
    folder = Path(os.environ.get("CAMTRAIN_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder}: set CAMTRAIN_DATA")
    return folder
