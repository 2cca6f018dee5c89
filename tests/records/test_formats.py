"""Each format: what is written is read back, and what was written before is read still.

`earlier_run` was written by the version before records had a room of their own.
"""

import json
import math
import shutil
from dataclasses import astuple
from pathlib import Path

import pytest
import torch

from camtrain.cli.compare import find_run
from camtrain.records import (
    CELLS,
    FAILURES,
    HEATMAPS,
    Alert,
    Calibration,
    Classes,
    ClassRow,
    ConfidenceBin,
    Curve,
    Document,
    FourCells,
    Gallery,
    Histograms,
    History,
    MetricRow,
    Metrics,
    Panels,
    Record,
    Scalars,
    Setup,
    Verdict,
    Verdicts,
    read_history,
)
from camtrain.records.folder import read_run_info, read_verdicts, write_run_info, write_verdicts
from camtrain.records.formats import READERS, WRITERS, line_of, read_line
from camtrain.report import write_report
from camtrain.report.comparison import comparison_of, read_run
from camtrain.report.summary import measures
from camtrain.sinks import FilesSink

EARLIER = Path(__file__).parent / "earlier_run"
CURVE = Curve("insertion", "grad_cam", (0.0, 1.0), (0.1, 0.9), (0.0, 0.8), (0.2, 1.0))
METRICS = Metrics((MetricRow("insertion", "grad_cam", 0.6, 0.5, 0.7, 9),), (CURVE,), 1, 20)


class Store:
    """Keeps nothing, names everything."""

    def picture(self, stem, image):
        return f"{stem}.jpg"

    def mask(self, stem, mask):
        return f"{stem}.png"

    def moment(self, epoch, step):
        return f"{epoch:04d}"


def back(record):
    """The history of one record that went through text."""
    history = History()
    read_line(history, json.loads(json.dumps(line_of(record, Store()))))
    return history


def test_formats__have_a_writer_and_a_reader_for_each_kind_of_record():
    kinds = set(Record.__args__) - {Document}  # a document is files of its own
    assert set(WRITERS) == kinds
    assert {kind for kind, _ in WRITERS.values()} == set(READERS)


def test_scalars__come_back():
    scalars = back(Scalars({"a": 0.1, "b": math.nan, "c": math.inf}, 3, 30)).scalars
    assert scalars["a"] == {3: 0.1}
    assert math.isnan(scalars["b"][3])
    assert math.isnan(scalars["c"][3])


def test_cells__come_back():
    counts = dict(zip(CELLS, (5, 3, 1, 2), strict=True))
    assert back(FourCells(counts, 3, 30)).cells == {3: counts}


def test_verdicts__come_back():
    rows = (
        Verdict(0, "boat", "reliant", 0.41, 0.35, 0.47, 0.02, 1e-12, 64, flips=2, box=(0.1, 0.2, 0.3, 0.4)),
        Verdict(1, "car", "undecided", math.nan, math.nan, math.nan, 0.0, math.nan, 2, note="too few"),
    )
    found = back(Verdicts(rows, 3, 30)).verdicts[3]
    assert repr([astuple(row) for row in found]) == repr([astuple(row) for row in rows])


def test_alerts__come_back_once():
    history = back(Alert("boat", "effect 0.41", 3, 30))
    read_line(history, line_of(Alert("boat", "effect 0.41", 3, 30), Store()))
    assert [(line["title"], line["text"], line["epoch"]) for line in history.alerts] == [("boat", "effect 0.41", 3)]


def test_histograms__come_back():
    assert back(Histograms({"h": [4, 0, 3]}, 3, 30)).histograms == {3: {"h": [4, 0, 3]}}


def test_classes__come_back():
    row = ClassRow("boat", 8, 6, math.nan, {CELLS[0]: 4})
    classes = back(Classes((row,), (("boat", "car", 2),), 3, 30)).classes[3]
    assert classes["rows"] == [
        {"class_name": "boat", "images": 8, "right": 6, "inside_energy": None, "cells": {CELLS[0]: 4}}
    ]
    assert classes["confusion"] == [["boat", "car", 2]]


def test_calibration__comes_back():
    bins = (ConfidenceBin(0.9, 1.0, 4, 0.95, 0.5), ConfidenceBin(0.8, 0.9, 0, math.nan, math.nan))
    line = back(Calibration(4, 0.5, 0.2, 0.8, 0.95, 0.45, bins, 3, 30)).calibrations[3]
    assert (line["images"], line["error"], line["bins"][0]["accuracy"]) == (4, 0.45, 0.5)
    assert line["bins"][1]["confidence"] is None


def test_gallery__comes_back_with_names_of_its_sheets():
    columns = {"sample": ["a", "b"], "true": ["boat", None]}
    line = back(Gallery(columns, (torch.zeros(3, 2, 40, dtype=torch.uint8),), 2, 9, 3, 30)).galleries[3]
    assert line["columns"] == columns
    assert line["sheets"] == ["cam/gallery/0003-000.jpg"]
    assert (line["side"], line["images"]) == (2, 9)


def test_metrics__come_back():
    metrics = back(METRICS).metrics[1]
    assert metrics["rows"][0]["mean"] == 0.6
    assert metrics["curves"][0]["fractions"] == [0.0, 1.0]


def test_setup__comes_back():
    assert back(Setup({"layers": {"net.4": "the last map"}}, 0, 0)).setup == {"layers": {"net.4": "the last map"}}


def test_panels__come_back_with_names_of_their_pictures(make_panel):
    (item,) = back(Panels(FAILURES, (make_panel("a/b"),), 3, 30)).panels[FAILURES][3].items
    assert item["image"].startswith("cam/failures/a-b-")
    assert item["overlays"]["grad_cam"].endswith("-grad_cam-0003.jpg")
    assert item["mask"].endswith(".png")
    assert item["since_last"] == {"rank_correlation": 0.75, "shift": 0.125}
    assert item["since_first"] == {"rank_correlation": None, "shift": 0.25}
    assert (item["label"], item["predicted_name"]) == (0, "car")
    assert item["inside_energy"] == {"grad_cam": 0.2, "hires_cam": 0.2}


def test_verdicts_file__comes_back(tmp_path):
    rows = [Verdict(1, "car", "undecided", math.nan, math.nan, math.nan, 0.0, math.nan, 2, box=(0.1, 0.2, 0.3, 0.4))]
    write_verdicts(tmp_path, rows)
    assert repr(read_verdicts(tmp_path)) == repr(rows)
    assert read_verdicts(tmp_path / "elsewhere") == []


def test_run_file__comes_back(tmp_path):
    write_run_info(tmp_path, {"model": {"width": 16}, "kind": Path("a")}, title="boats")
    info = read_run_info(tmp_path)
    assert (info["title"], info["configuration"]) == ("boats", {"model": {"width": 16}, "kind": "a"})


def test_a_line_of_a_later_version__is_left_out():
    history = History()
    read_line(history, {"kind": "hologram", "epoch": 0})
    assert history == History()


@pytest.fixture
def same_pass(tmp_path, make_pass):
    """What wrote the earlier run, written now."""
    sink = FilesSink(tmp_path, starts=True)
    sink.write(Scalars({"train/loss": 1.5, "alignment/weight": 0.0, "x": math.nan}, 0, 10))
    sink.write(*make_pass(0, 10))
    sink.write(Scalars({"train/loss": 0.5, "alignment/weight": 1.0}, 1, 20))
    sink.write(*make_pass(1, 20, verdict="not reliant", energy=0.6), METRICS)
    sink.close()
    return tmp_path


@pytest.mark.parametrize("name", ["scalars.jsonl", "records.jsonl"])
def test_lines__are_those_of_earlier_versions(same_pass, name):
    assert (same_pass / name).read_text() == (EARLIER / name).read_text()


def test_pictures__are_where_earlier_versions_had_them(same_pass):
    files = [{str(path.relative_to(place)) for path in place.rglob("images/**/*")} for place in (same_pass, EARLIER)]
    assert files[0] == files[1]


def test_earlier_run__is_read_whole(make_pass):
    history = read_history(EARLIER)
    assert history.epochs == [0, 1]
    assert history.scalars["val/accuracy"] == {0: 0.8, 1: 0.8}
    assert history.scalars["cam/inside_energy/grad_cam"] == {0: 0.2, 1: 0.6}
    assert [row.verdict for row in history.verdicts[1]] == ["not reliant", "undecided"]
    assert repr(history.verdicts[1]) == repr(read_verdicts(EARLIER))
    assert repr(history.verdicts[0][0]) == repr(make_pass(0, 10)[4].rows[0])  # holds a NaN, equal to none on 3.13
    assert [item["sample"] for item in history.panels[HEATMAPS][1].items] == ["s0", "s1"]
    assert (EARLIER / history.panels[HEATMAPS][1].items[0]["overlays"]["grad_cam"]).is_file()
    assert history.metrics[1]["rows"][0]["mean"] == 0.6
    assert read_run_info(EARLIER)["title"] == "before"


def test_earlier_run__is_reported_and_compared(tmp_path):
    folder = shutil.copytree(EARLIER, tmp_path / "run")
    page = write_report(folder).read_text()
    assert "Before alignment, 1 of 2 classes leaned on its background: boat." in page
    run = read_run(find_run(tmp_path))
    assert run.title == "before"
    assert comparison_of([run])["Inside energy, grad_cam"] == [0.6]


def test_history__keeps_the_passes_of_one_epoch_apart(tmp_path, make_pass):
    sink = FilesSink(tmp_path)
    for epoch, step, energy in ((0, 2, 0.2), (0, 4, 0.3), (0, 8, 0.4), (1, 16, 0.5)):
        sink.write(*make_pass(epoch, step, energy=energy))
    history = read_history(tmp_path)
    assert history.scalars["cam/inside_energy/grad_cam"] == {-0.75: 0.2, -0.5: 0.3, 0: 0.4, 1: 0.5}
    assert [str(epoch) for epoch in history.epochs] == ["0 at 25 %", "0 at 50 %", "0", "1"]
    frames = [one.items[0]["overlays"]["grad_cam"] for one in history.panels[HEATMAPS].values()]
    assert len(set(frames)) == 4
    assert all((tmp_path / frame).is_file() for frame in frames)
    page = write_report(tmp_path).read_text()
    assert '<th class="">epoch 0 at 25 %</th>' in page
    assert "epoch 0 at 25 % to 1" in page


def test_history__of_one_long_epoch_tells_its_beginning_from_its_end(tmp_path, make_pass):
    for step, energy in ((2, 0.2), (8, 0.4)):
        FilesSink(tmp_path).write(*make_pass(0, step, energy=energy))
    assert comparison_of([read_run(tmp_path)])["Inside energy, grad_cam"] == [0.4]
    (measure,) = [one for one in measures(read_history(tmp_path)) if one.label == "Inside energy, grad_cam"]
    assert (measure.before, measure.after) == (0.2, 0.4)
