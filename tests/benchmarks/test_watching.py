import pytest
import torch
import watching
from _zoo_bases import Scenes


def drawn(base, root, split, count, size, seed):
    """Gray canvases with a square each, whose brightness tells the class in training and validation alike."""
    g = torch.Generator().manual_seed(seed + len(split))
    labels = torch.arange(count) % watching.CLASSES
    images = 0.4 + 0.05 * torch.randn(count, 3, 16, 16, generator=g)
    masks = torch.zeros(count, 16, 16)
    masks[:, 5:11, 5:11] = 1
    images[:, :, 5:11, 5:11] = (labels / 4).view(-1, 1, 1, 1)
    return Scenes(images.clamp(0, 1), labels, masks, torch.arange(count))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_watched__judges_every_epoch_and_leaves_no_files(monkeypatch, tmp_path):
    monkeypatch.setattr(watching, "scenes", drawn)
    monkeypatch.chdir(tmp_path)
    found = watching.watched("none", "plain", 0, 2, 80, tmp_path, "cpu")
    assert len(found["verdicts"]) == watching.CLASSES
    assert found["flagged"] == {}
    assert list(tmp_path.iterdir()) == []


def test_tabulate__counts_a_run_once_however_often_it_was_flagged():
    runs = [
        {
            "setting": {"cue": "none", "network": name},
            "flagged": flagged,
            "verdicts": ["undecided", "not reliant"],
            "accuracy": 50.0,
        }
        for name, flagged in (("plain", {"a": 3, "b": 4}), ("plain", {}), ("small", {}))
    ]
    rows = {row["network"]: row for row in watching.tabulate(runs)}
    assert (rows["plain"]["runs"], rows["plain"]["flagged"]) == (2, 1)
    assert rows["all"]["flagged %"] == pytest.approx(100 / 3)
    assert rows["all"]["low %"] < 100 / 3 < rows["all"]["high %"]
    assert rows["small"]["not reliant"] == 1


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_watched__plants_the_cue_in_training_and_validation(monkeypatch, tmp_path):
    given = []
    monkeypatch.setattr(watching, "scenes", drawn)
    monkeypatch.setattr(watching, "planted", lambda part, canary: given.append(canary) or part)
    watched = {"network": "plain", "seed": 3, "epochs": 1, "images": 80, "root": tmp_path, "device": "cpu"}
    watching.watched("corner", **watched)
    watching.watched("none", **watched)
    assert [canary and canary.kind for canary in given] == ["corner", "corner", None, None]
    assert given[0] == given[1]


def test_delays__count_from_one_and_never_where_nothing_was_found():
    runs = [
        {"setting": {"cue": "corner", "network": "plain"}, "flagged": flagged, "accuracy": 90.0}
        for flagged in ({"a": 0, "b": 1, "c": 1, "d": 4}, {"a": 3}, {})
    ]
    (row,) = watching.delays(runs)
    assert (row["first class"], row["latest"], row["median class"]) == ("4", "never", "never")
    assert row["runs by epoch 3"] == 1
    assert row["classes flagged %"] == pytest.approx(100 * 5 / 12)
