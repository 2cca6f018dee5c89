import json
import sys

import _zoo_bases
import _zoo_specimens
import pytest
import reliance
import torch
from _zoo_bases import Scenes, enlarged, marked
from _zoo_masks import pool_with, sloppy
from _zoo_specimens import Specimen, canary_of, is_reliant, plan, planted, truth_of
from _zoo_table import auroc, row_of, summarize

from camtrain.data.canary import KINDS

CLASSES = 3


def drawn(count=60, side=16, seed=0):
    """Gray canvases with a square each, whose color is the class."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    images = 0.5 + 0.05 * torch.randn(count, 3, side, side, generator=g)
    masks = torch.zeros(count, side, side)
    masks[:, 5:11, 5:11] = 1
    images[:, :, 5:11, 5:11] = torch.eye(3)[labels].view(count, 3, 1, 1)
    return Scenes(images.clamp(0, 1), labels, masks, torch.arange(count))


def reads_object(images):
    return images[:, :, 6:10, 6:10].mean(dim=(2, 3))


def test_plan__has_every_kind_for_all_classes_and_for_two_and_controls():
    specimens = plan(0, ("fashion",))
    assert {(one.kind, one.cued) for one in specimens if one.kind in KINDS} == {(k, n) for k in KINDS for n in (0, 2)}
    assert sum(one.kind not in KINDS for one in specimens) == 8
    assert len({one.number for one in plan(0) + plan(1)}) == len(plan(0)) * 2


def test_enlarged__objects_fill_the_frame_and_keep_their_colors():
    found = enlarged(drawn())
    assert found.masks.shape == (60, 16, 16)
    assert 0.6 < found.masks.mean() < 0.9
    assert torch.equal(reads_object(found.images).argmax(dim=1), found.labels)
    assert found.masks[:, 0].sum() == 0  # 0.85 of the side


def test_marked__changes_objects_only_each_class_in_its_color():
    data = drawn()
    found = marked(data, seed=3)
    changed = (found.images != data.images).any(dim=1)
    assert changed.flatten(1).any(dim=1).all()
    assert not changed[data.masks == 0].any()
    colors = {
        label: found.images[data.labels == label].permute(1, 0, 2, 3)[:, changed[data.labels == label]]
        for label in range(3)
    }
    assert all(bool((seen == seen[:, :1]).all()) for seen in colors.values())
    assert len({tuple(seen[:, 0].tolist()) for seen in colors.values()}) == 3


def test_canary_of__two_classes_has_two():
    canary = canary_of(Specimen("fashion", "small", "corner", 0.9, 2, 0), 8)
    assert len(canary.cued) == 2
    assert canary_of(Specimen("fashion", "small", "none", 1.0, 0, 0), 8) is None


def test_truth_of__a_network_that_reads_the_object_owes_nothing():
    canary = canary_of(Specimen("fashion", "small", "frame", 1.0, 0, 0), CLASSES)
    assert {is_reliant(truth) for truth in truth_of(reads_object, drawn(), canary)} == {False}


def test_truth_of__a_network_that_reads_the_frame_owes_it_everything():
    canary = canary_of(Specimen("fashion", "small", "frame", 1.0, 0, 0), CLASSES)
    data = drawn()
    colors = planted(data, canary).images[:CLASSES, :, 0, 0]  # the first of each class

    def reads_frame(images):
        return -(images[:, None, :, 0, 0] - colors).square().sum(dim=2)

    truths = truth_of(reads_frame, data, canary)
    assert {is_reliant(truth) for truth in truths} == {True}
    assert all(truth["win"] == pytest.approx(2 / 3, abs=0.15) for truth in truths)  # a random cue is right in a third


def test_is_reliant__leaves_a_gap():
    assert [is_reliant({"cost": cost, "win": 0.0}) for cost in (0.05, 0.03, 0.01)] == [True, None, False]


def unit(reliant, verdict, score, cue="background", kind="corner"):
    return {"kind": kind, "reliant": reliant, "verdict": verdict, "cue": cue, "score": score, "energy": 0.5, "drop": 0}


def test_row_of__counts_power_false_alarms_and_names():
    units = [unit(True, "reliant", 9.0), unit(True, "undecided", 2.0), unit(False, "not reliant", 1.0)]
    units += [unit(False, "reliant", 3.0), unit(None, "reliant", 9.0)]
    row = row_of("all", units)
    assert (row["reliant"], row["found %"], row["not reliant"], row["false alarms %"]) == (2, 50, 2, 50)
    assert row["cue named"] == 100
    assert row["AUROC interventions"] == 0.75
    assert row["AUROC heatmap energy"] == 0.5


def test_row_of__expects_a_tint_to_be_named():
    row = row_of(
        "tint", [unit(True, "reliant", 9.0, kind="tint"), unit(True, "reliant", 9.0, "background tint", "tint")]
    )
    assert row["cue named"] == 50
    assert row["false alarms %"] == ""


def test_row_of__suspects_are_neither_found_nor_false_alarms():
    row = row_of("all", [unit(True, "suspect", 1.0), unit(False, "suspect", 1.0), unit(False, "no evidence", 0.0)])
    assert (row["found %"], row["suspect"], row["false alarms %"], row["suspect, not reliant"]) == (0, 1, 0, 1)
    assert row["cleared %"] == 50


def test_summarize__counts_stickers_apart_without_masks():
    units = [unit(True, "undecided", 1.0, kind="sticker"), unit(True, "reliant", 9.0), unit(False, "no evidence", 0.0)]
    found = summarize(units, "none")
    assert (found["power_no_masks"], found["power_no_masks_stickers"], found["false_alarms_no_masks"]) == (100, 0, 0)
    assert summarize(units, "exact")["power_masks"] == 50


@pytest.mark.parametrize(("kind", "area"), [("exact", 9), ("boxes", 9), ("eroded", 0), ("dilated", 49), ("missing", 9)])
def test_sloppy__changes_masks_by_what_it_says(kind, area):
    masks = torch.zeros(50, 12, 12)
    masks[:, 4:7, 4:7] = 1
    changed = sloppy(masks, kind, seed=0)
    left_out = (changed < 0).flatten(1).all(dim=1)
    assert changed[~left_out].sum(dim=(1, 2)).unique().tolist() == [area]
    assert (left_out.float().mean() > 0.05) == (kind == "missing")


def test_pool_with__of_no_masks_guesses_them():
    data = drawn(12, side=32)
    data.images[:] = 0.5
    data.images[:, :, 8:24, 8:24] = 0.9
    pool = pool_with(data, "none", "cpu", 0)
    assert len(pool.labels) == 12
    assert pool.masks[:, 10:22, 10:22].min() == 1


def test_auroc__of_one_sort_is_empty():
    assert auroc([], [{"score": 1.0}], "score") == ""


def test_reliance__trains_judges_writes_and_skips_what_is_finished(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(_zoo_specimens, "scenes", lambda base, root, split, count, size, seed: drawn(count, seed=seed))
    monkeypatch.setitem(_zoo_specimens.COUNTS, "fashion", (192, 45, 30))
    monkeypatch.setattr(
        _zoo_specimens,
        "plain_network",
        lambda classes: torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(16, classes)
        ),
    )
    file = tmp_path / "reliance.json"
    monkeypatch.setattr(
        sys,
        "argv",
        (
            f"reliance --device cpu --data {tmp_path} --seeds 1 --bases fashion --kinds corner none --images 12"
            f" --masks exact none --json {file}"
        ).split(),
    )
    reliance.main()
    written = json.loads(file.read_text())
    assert len(written["runs"]) == 8
    assert {run["setting"]["masks"] for run in written["runs"]} == {"exact", "none"}
    assert all(len(run["units"]) == CLASSES for run in written["runs"])
    assert [row["cue"] for row in written["rows"]] == 2 * ["corner", "none", "all"]
    assert {"power_masks", "false_alarms_no_masks", "auroc_no_masks"} <= set(written["summary"])
    monkeypatch.setattr(reliance, "raise_specimen", None)
    reliance.main()
    assert json.loads(file.read_text())["runs"] == written["runs"]
    assert "AUROC" in capsys.readouterr().out


def test_fashion__keeps_its_splits_apart_and_its_masks_on_the_garments(shared_data):
    train, val = (_zoo_bases.scenes("fashion", shared_data, split, 40, 40, 0) for split in ("train", "val"))
    assert set(train.labels.tolist()) <= set(range(8))
    inside = train.masks.flatten(1).mean(dim=1)
    assert inside.min() > 0.05
    assert inside.max() < 0.5
    assert not set(train.keys.tolist()) & set(val.keys.tolist())
    assert len({image.numpy().tobytes() for image in (*train.images, *val.images)}) == 80
