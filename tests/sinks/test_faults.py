"""Faults, one at a time, under a real Trainer: training ends, it is said once, and every number is on the disk."""

import json
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from camtrain.sinks import FilesSink, Scalars, SinkGroup, read_history
from camtrain.sinks.base import Background
from camtrain.sinks.files import RESERVE_FILE, Appender
from camtrain.sinks.run import guard

ROOT = Path(__file__).resolve().parents[2]
EPOCHS = 4

TRAINING = f"""
import json, os, signal, sys, warnings
warnings.filterwarnings("ignore")
sys.path.insert(0, {str(ROOT / "tests" / "callbacks")!r})
import torch, pytorch_lightning as pl
from torch.utils.data import DataLoader
from conftest import Foreign, tensors
from camtrain.callbacks import ExplanationMonitor
from camtrain.sinks import read_history

torch.set_num_threads(1)
torch.manual_seed(0)


class Fault(pl.Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            inject(trainer)


def inject(trainer):
    pass


def train(folder, size=16, **options):
    data = DataLoader(tensors(24, size=size), 8)
    trainer = pl.Trainer(accelerator="cpu", max_epochs={EPOCHS}, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, callbacks=[ExplanationMonitor(num_probes=4), Fault()],
        **({{"logger": False}} | options))
    trainer.fit(Foreign(), data, data)
    return trainer


def told(folder):
    print("TOLD" + json.dumps(read_history(folder).scalars))
"""


def run(tmp_path, script, *before, **environment):
    """Run a script after the training's; its standard error, and the scalars that it told."""
    path = tmp_path / "script.py"
    path.write_text(TRAINING + textwrap.dedent(script))
    done = subprocess.run(
        [*before, sys.executable, str(path)], capture_output=True, text=True, cwd=ROOT, timeout=120, check=False,
        env={
            "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HOME": str(tmp_path),
            **environment,
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr, json.loads(done.stdout.split("TOLD")[1].splitlines()[0])


def complete(scalars):
    return {name for name, values in scalars.items() if list(values) == [str(epoch) for epoch in range(EPOCHS)]}


NAMES = {"val/loss", "cam/inside_energy/grad_cam", "cam/empty_maps/grad_cam_plus_plus", "cam/right_grounded"}


def can_mount():
    done = (
        subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False) if shutil.which("unshare") else 1
    )
    return done != 1 and done.returncode == 0


@pytest.mark.skipif(not can_mount(), reason="needs unshare -rm to mount a small disk")
def test_full_disk__costs_pictures_but_no_number(tmp_path):
    (tmp_path / "disk").mkdir()
    script = f"""
    import subprocess
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", {str(tmp_path / "disk")!r}], check=True)
    train({str(tmp_path / "disk")!r}, size=128)
    told({str(tmp_path / "disk" / "camtrain_logs")!r})
    """
    said, scalars = run(tmp_path, script, "unshare", "-rm")
    assert complete(scalars) >= NAMES
    assert said.count("FilesSink failed (OSError: [Errno 28]") == 1


def test_folder_that_cannot_be_written__has_its_numbers_elsewhere(tmp_path, monkeypatch, caplog):
    (tmp_path / "camtrain_logs").write_text("a file where the folder should be")
    (tmp_path / "other").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "other"))
    group = SinkGroup([Background(FilesSink(tmp_path / "camtrain_logs"))])
    for epoch in range(3):
        group.write(Scalars({"val/loss": 0.5}, epoch, epoch))
        group.flush()
    (found,) = (tmp_path / "other").glob("camtrain-*")
    assert read_history(found).scalars["val/loss"] == {0: 0.5, 1: 0.5, 2: 0.5}
    assert [f"numbers go to {found} instead" in record.getMessage() for record in caplog.records] == [True]


def test_dead_wandb_service__is_reported_and_training_ends(tmp_path):
    script = f"""
    from pytorch_lightning.loggers import WandbLogger

    def inject(trainer):
        children = os.popen(f"ps -o pid=,args= --ppid {{os.getpid()}}").read().splitlines()
        for child in children:
            if "wandb-core" in child:
                os.kill(int(child.split()[0]), signal.SIGKILL)

    trainer = train({str(tmp_path)!r}, logger=WandbLogger(project="p", save_dir={str(tmp_path)!r}, offline=True))
    print("ENDED", trainer.current_epoch)
    told(trainer.logger.save_dir + "/p/" + trainer.logger.version + "/camtrain")
    sys.stdout.flush()
    os._exit(0)  # W&B's own goodbye waits for the service
    """
    said, scalars = run(tmp_path, script, WANDB_SILENT="true", WANDB_MODE="offline")
    assert complete(scalars) >= NAMES
    assert said.count("WandbLogger lost its service") == 1
    assert said.count("WandbSink failed") == 1


def test_guard__lets_other_errors_through():
    class Logger:
        def log_metrics(self, metrics):
            raise KeyError("a mistake")

    logger = Logger()
    guard(logger)
    with pytest.raises(KeyError):
        logger.log_metrics({})


def test_appender__takes_back_a_line_that_was_cut_short(tmp_path, monkeypatch):
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    appender = Appender(tmp_path, reserve=0)
    appender.append("a.jsonl", b"x" * 50)
    resource.setrlimit(resource.RLIMIT_FSIZE, (80, before[1]))
    try:
        with pytest.raises(OSError, match="numbers go to"):
            appender.append("a.jsonl", b"y" * 50)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "a.jsonl").read_bytes() == b"x" * 50 + b"\n"
    assert (appender.folder / "a.jsonl").read_bytes() == b"y" * 50 + b"\n"
    shutil.rmtree(appender.folder)


def test_appender__keeps_room_until_the_end(tmp_path):
    appender = Appender(tmp_path, reserve=1000)
    appender.append("a.jsonl", b"{}")
    assert (tmp_path / RESERVE_FILE).stat().st_size == 1000
    appender.release()
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_files_sink__without_room_for_pictures_keeps_verdicts(tmp_path, make_pass):
    (tmp_path / "images").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="images"):
        FilesSink(tmp_path).write(*make_pass(0, 0))
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert sorted(kinds) == ["alert", "cells", "classes", "histograms", "setup", "verdicts"]
