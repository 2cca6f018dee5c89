"""The monitor's part in the local files, under a Trainer whose numbers are planned."""

import os

import pytest
import pytorch_lightning as pl
import torch

from camtrain.callbacks._reporting import Reporter
from camtrain.sinks import read_history
from camtrain.sinks.loggers import flush_sinks

PLAN = [
    {"val/accuracy": 0.5, "cam/inside_energy/grad_cam": 0.6, "cam/empty_maps/grad_cam": 0.0},
    {"val/accuracy": 0.7, "cam/inside_energy/grad_cam": 0.3, "cam/empty_maps/grad_cam": 0.0},
    {"val/accuracy": 0.8, "cam/inside_energy/grad_cam": 0.2, "cam/empty_maps/grad_cam": 0.9},
]


@pytest.fixture
def trainer(make_trainer, monkeypatch):
    """`trainer(epoch)`: in that epoch of the plan."""
    made = make_trainer()
    made.state.fn = "fit"

    def at(epoch):
        values = {name: torch.tensor(value) for name, value in PLAN[epoch].items()}
        monkeypatch.setattr(pl.Trainer, "callback_metrics", property(lambda self: values))
        made.fit_loop.epoch_progress.current.completed = epoch
        return made

    return at


def titles(made, folder):
    flush_sinks(made)
    return [(alert["epoch"], alert["title"]) for alert in read_history(folder / "camtrain").alerts]


def test_reporter__alerts_once_for_each_trouble(trainer, tmp_path):
    reporter = Reporter()
    for epoch in range(3):
        reporter.watch(trainer(epoch))
    assert titles(trainer(2), tmp_path) == [
        (1, "accuracy rises while evidence leaves the object"),
        (2, "heatmaps are dying"),
    ]


def test_reporter__does_not_repeat_an_alert_after_a_resume(trainer, tmp_path):
    first, second = Reporter(), Reporter()
    for epoch in range(2):
        first.watch(trainer(epoch))
    second.load_state_dict(first.state_dict())
    second.watch(trainer(2))
    assert len(titles(trainer(2), tmp_path)) == 2


def test_reporter__writes_the_report_anew_only_where_something_was_recorded(trainer, tmp_path):
    reporter, made = Reporter(), trainer(0)
    reporter.keep_scalars(made)
    reporter.finish(made)
    report = tmp_path / "camtrain" / "report.html"
    for path in report.parent.rglob("*"):
        os.utime(path, (100, 100))
    os.utime(report, (200, 200))
    reporter.finish(made)
    assert report.stat().st_mtime == 200
    reporter.keep_scalars(made)
    reporter.finish(made)
    assert report.stat().st_mtime > 200
