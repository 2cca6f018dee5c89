"""The task that docs/tasks.md writes, in all three callbacks."""

import re

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from camtrain.callbacks import AttentionAlignment, ExplanationMonitor, RelianceDetector
from tests.layout import ROOT
from tests.tasks.test_foreign_modules import Module, Net, Rows, world

SOURCE = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "tasks.md").read_text(), re.DOTALL).group(1)


def grade():
    names = {}
    exec(SOURCE, names)
    return names["Grade"]()


def test_own_task__is_short_and_knows_its_loss():
    assert len([line for line in SOURCE.splitlines() if line.strip()]) <= 25
    logits = torch.tensor([[2.0, -1.0], [0.5, 0.2]])
    high = logits.sigmoid()
    expected = -torch.stack([(high[0, 0] - high[0, 1]).log(), high[1, 1].log()])
    torch.testing.assert_close(grade().losses(logits, torch.tensor([1, 2])), expected)
    assert grade().losses(logits, torch.tensor([1, -1]))[1] == 0


@pytest.mark.filterwarnings("ignore::Warning")
def test_own_task__is_monitored_judged_and_aligned(tmp_path):
    _, data = world("single label")
    images, labels, masks = data.rows
    module = Module(Net(2), lambda z, y: F.binary_cross_entropy_with_logits(z, (y[:, None] > torch.arange(2)).float()))
    callbacks = [each(task=grade()) for each in (ExplanationMonitor, RelianceDetector, AttentionAlignment)]
    trainer = pl.Trainer(
        max_epochs=2, logger=False, callbacks=callbacks, accelerator="cpu", enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, default_root_dir=tmp_path,
    )  # fmt: skip
    loader = DataLoader(Rows(images, labels * 2, masks), 12)
    trainer.fit(module, loader, loader)
    metrics = trainer.callback_metrics
    assert metrics["alignment/penalty"] >= 0
    assert metrics["alignment/skipped"] == 0
    assert metrics["reliance/flagged"] >= 0
    assert len(callbacks[1].verdicts) == 2
    assert sum(metrics[f"cam/{a}_{b}"] for a in ("right", "wrong") for b in ("grounded", "ungrounded")) == 1
