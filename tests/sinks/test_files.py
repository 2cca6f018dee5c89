import json
import logging

import cv2
import pytest
import torch

from camtrain.records.formats import slug
from camtrain.sinks import CELLS, FAILURES, HEATMAPS, FilesSink, Panels, Scalars, Sink, SinkGroup, read_history


def test_files_sink__is_read_back_whole(tmp_path, make_pass):
    FilesSink(tmp_path).write(*make_pass(3, 30))
    history = read_history(tmp_path)
    assert history.epochs == [3]
    assert history.scalars["cam/inside_energy/grad_cam"] == {3: 0.2}
    assert history.cells == {3: dict(zip(CELLS, (5, 3, 1, 2), strict=True))}
    assert [item["sample"] for item in history.panels[HEATMAPS][3].items] == ["s0", "s1"]
    assert [row.verdict for row in history.verdicts[3]] == ["reliant", "undecided"]
    assert history.verdicts[3][1].effect != history.verdicts[3][1].effect  # NaN came back
    assert history.examples[3][0]["after"] == 0.11
    assert [item["alike"] for item in history.strips[3]] == [9, 5]
    assert history.verdicts[3][0].box == (0.75, 0.75, 0.25, 0.25)
    assert history.verdicts[3][1].box is None
    assert history.alerts[0]["title"] == "boat leans on its background"


def test_files_sink__writes_pictures_that_look_like_theirs(tmp_path, make_panel):
    smooth = torch.arange(64, dtype=torch.uint8).view(1, 8, 8).expand(3, 8, 8) * torch.tensor([1, 2, 3]).view(3, 1, 1)
    panel = make_panel()
    object.__setattr__(panel, "image", smooth.to(torch.uint8))
    FilesSink(tmp_path, quality=95).write(Panels(HEATMAPS, (panel,), 0, 0))
    item = read_history(tmp_path).panels[HEATMAPS][0].items[0]
    stored = cv2.imread(str(tmp_path / item["image"]))[..., ::-1]
    assert abs(stored.astype(int) - smooth.permute(1, 2, 0).numpy().astype(int)).max() <= 6
    mask = cv2.imread(str(tmp_path / item["mask"]), cv2.IMREAD_GRAYSCALE)
    assert (mask == 255 * panel.mask.numpy()).all()
    assert set(item["overlays"]) == {"grad_cam", "hires_cam"}


def test_files_sink__writes_valid_json_for_nan(tmp_path, make_pass):
    FilesSink(tmp_path).write(*make_pass(0, 0), Scalars({"x": float("nan"), "y": float("inf")}, 0, 0))
    for name in ("scalars.jsonl", "records.jsonl"):
        for line in (tmp_path / name).read_text().splitlines():
            json.loads(line, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))


def test_files_sink__counts_an_epoch_written_twice_once(tmp_path, make_pass):
    for energy in (0.2, 0.6):
        FilesSink(tmp_path).write(*make_pass(1, 10, energy=energy))
    history = read_history(tmp_path)
    assert history.scalars["cam/inside_energy/grad_cam"] == {1: 0.6}
    assert [item["sample"] for item in history.panels[FAILURES][1].items] == ["s0", "s2"]
    assert sum(history.cells[1].values()) == 11
    assert len(history.alerts) == 1


def test_files_sink__joins_the_samples_of_one_pass_and_replaces_those_of_an_earlier_one(tmp_path, make_panel):
    sink = FilesSink(tmp_path)
    for sample, step in (("a", 10), ("b", 20), ("c", 20)):
        sink.write(Panels(FAILURES, (make_panel(sample),), 0, step))
    assert [item["sample"] for item in read_history(tmp_path).panels[FAILURES][0].items] == ["b", "c"]


def test_files_sink__that_starts_takes_back_the_epochs_from_its_first_on(tmp_path):
    for epoch in range(5):
        FilesSink(tmp_path).write(Scalars({"loss": float(epoch)}, epoch, epoch))
    resumed = FilesSink(tmp_path, starts=True)
    resumed.write(Scalars({"loss": 30.0}, 3, 3))
    assert read_history(tmp_path).scalars["loss"] == {0: 0.0, 1: 1.0, 2: 2.0, 3: 30.0}
    resumed.write(Scalars({"loss": 40.0}, 4, 4))
    assert read_history(tmp_path).scalars["loss"] == {0: 0.0, 1: 1.0, 2: 2.0, 3: 30.0, 4: 40.0}


def test_files_sink__goes_on_after_a_line_that_was_cut_short(tmp_path):
    FilesSink(tmp_path).write(Scalars({"loss": 0.0}, 0, 0))
    with (tmp_path / "scalars.jsonl").open("a") as file:
        file.write('{"kind": "scalars", "epo')
    FilesSink(tmp_path).write(Scalars({"loss": 1.0}, 1, 1))
    assert read_history(tmp_path).scalars["loss"] == {0: 0.0, 1: 1.0}


def test_slug__tells_names_apart():
    names = ["a/b", "a-b", "a b", "../../etc/passwd", "..", ".", "x" * 300, "x" * 299, "ä"]
    assert len({slug(name) for name in names}) == len(names)
    assert all("/" not in slug(name) and not slug(name).startswith(".") and len(slug(name)) < 80 for name in names)


class Broken:
    def __init__(self):
        self.calls = 0

    def write(self, *records):
        self.calls += 1
        raise OSError("No space left on device")

    def close(self):
        raise OSError("still full")


def test_sink_group__reports_a_faulty_sink_once_and_goes_on(tmp_path, caplog):
    broken, files = Broken(), FilesSink(tmp_path)
    group = SinkGroup([broken, files])
    with caplog.at_level(logging.WARNING, logger="camtrain"):
        for epoch in range(3):
            group.write(Scalars({"loss": 1.0}, epoch, epoch))
        group.close()
    assert broken.calls == 3
    assert [record.getMessage() for record in caplog.records] == [
        "Broken failed (OSError: No space left on device); training and the other sinks go on, "
        "and further failures are not reported."
    ]
    assert list(read_history(tmp_path).scalars["loss"]) == [0, 1, 2]


def test_sink__is_a_protocol_that_files_and_groups_meet(tmp_path):
    assert isinstance(FilesSink(tmp_path), Sink)
    assert isinstance(SinkGroup(), Sink)
