import json
from argparse import Namespace

import pytest
import torch
from torch import nn

from benchmarks import _faithfulness_rows as rows_of
from benchmarks._faithfulness_claims import claims, contest
from benchmarks._faithfulness_data import Photos, pairs, side_by_side
from benchmarks._faithfulness_speed import speed
from benchmarks._faithfulness_table import markdown, summarize, tables
from benchmarks._faithfulness_video import video
from benchmarks.faithfulness import arguments, describe, measure, settings

PROMISED = ("average_drop", "increase", "insertion", "deletion", "occlusion_correlation")
OPTIONS = Namespace(
    chunk=4, max_batch=16, steps=4, percentiles=(50,), window=8, stages=2, samples=2, trust=4, wrong=4, objects=6
)


@pytest.fixture
def net():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    ).eval()


@pytest.fixture
def photos(net):
    images = 3 * torch.randn(6, 3, 24, 24)
    right = net(images).argmax(dim=1).tolist()
    masks = torch.zeros(6, 24, 24)
    masks[:, 4:16, 4:16] = 1
    return Photos(images, tuple(((c,), (c, 9), (5,))[row % 3] for row, c in enumerate(right)), masks)


def test_pairs__join_the_same_kind_and_different_kinds():
    photos = Photos(torch.zeros(4, 3, 2, 2), ((1, 2), (3,), (1, 2), (2, 5)))
    same, different = pairs(photos)
    assert same == [(0, 2), (2, 0)]
    assert different == [(0, 1), (1, 2), (2, 1), (3, 1)]


def test_side_by_side__puts_each_object_on_its_own_half(photos):
    wide, own, other = side_by_side(photos, [0, 1], [2, 3])
    assert torch.equal(wide[..., :24], photos.images[[0, 1]])
    assert torch.equal(own[..., :24], photos.masks[[0, 1]])
    assert torch.equal(other[..., 24:], photos.masks[[2, 3]])
    assert own[..., 24:].sum() == other[..., :24].sum() == 0


def test_photos__are_right_in_any_of_their_classes():
    photos = Photos(torch.zeros(3, 3, 2, 2), ((1, 2), (3,), (4,)))
    right = photos.right(torch.tensor([2, 3, 5]))
    assert right.tolist() == [True, True, False]
    assert photos.where(~right).classes == ((4,),)


def test_faithfulness__gives_the_promised_summary(net, photos):
    methods = ["grad_cam", "grad_cam_plus_plus", *rows_of.CONTROLS]
    sheet = rows_of.faithfulness(net, photos, methods, OPTIONS)
    found = [{"kind": "faithfulness", **row} for row in rows_of.long_rows("toy", sheet)]
    summary = summarize(found)
    for method in methods:
        assert {f"{method}.{metric}" for metric in PROMISED} <= set(summary)
        assert summary[f"toy.{method}.insertion"] == summary[f"{method}.insertion"]
    assert len(claims(sheet)) == 5
    assert [row["method"] for row in tables(found)["toy: faithfulness (6 images)"]] == methods


def test_kinds__measure_every_method_and_leave_out_what_has_no_answer(net, photos):
    methods = ["grad_cam", "random_map"]
    grounded = rows_of.grounding(net, photos, methods, OPTIONS)
    wrong = rows_of.misclassified(net, Photos(photos.images, tuple((row % 4,) for row in range(6))), methods, OPTIONS)
    trusted = rows_of.trust(net, photos, methods, OPTIONS)
    assert len(grounded["grad_cam"]["inside_energy"]) == 4  # every third photograph has a class the net cannot say
    assert 1 <= len(wrong["random_map"]["highest"]) <= 4
    assert trusted["random_map"]["random_weights"].tolist() == pytest.approx([1.0] * 6)


def test_long_rows__are_means_with_intervals_and_shares_in_percent():
    sheet = {"a": {"increase": torch.tensor([1.0, 0.0, torch.nan, 1.0]), "insertion": torch.tensor([0.2, 0.4])}}
    share, area = rows_of.long_rows("toy", sheet)
    assert (share["mean"], share["images"]) == (pytest.approx(200 / 3), 3)
    assert 0 < share["low"] < share["mean"] < share["high"] < 100
    assert (area["mean"], area["images"]) == (pytest.approx(0.3), 2)


@pytest.mark.parametrize(
    ("plus", "verdict"),
    [([0.1, 0.2, 0.15], "holds"), ([0.6, 0.7, 0.65], "the opposite holds"), ([0.2, 0.7, 0.35], "undecided")],
)
def test_claims__are_judged_by_the_difference_on_the_same_images(plus, verdict):
    sheet = {
        "grad_cam": {"average_drop": torch.tensor([0.4, 0.5, 0.45, torch.nan])},
        "grad_cam_plus_plus": {"average_drop": torch.tensor([*plus, 0.1])},
    }
    assert claims(sheet)["Grad-CAM++ drops less than Grad-CAM"].endswith(f": {verdict}")


def test_contest__names_the_best_method_and_whom_it_cannot_be_told_from():
    values = torch.tensor([0.5, 0.6, 0.7, 0.8])
    wobble = torch.tensor([0.2, -0.2, 0.2, -0.3])
    entered = {"a": values, "b": values + wobble, "c": values - 0.6 + wobble / 10, "random_map": values + 0.1}
    assert contest(entered) == "a (0.65); undecided against b"
    assert contest(entered, lower=True) == "c (0.0475)"


def test_claims__name_the_maps_that_do_not_change():
    sheet = {"a": {"random_weights": torch.tensor([0.1, 0.2])}, "b": {"random_weights": torch.tensor([0.9, 0.7])}}
    assert claims(sheet)["Maps that do not change with random weights"] == "b (0.80)"


def test_words__are_explained_and_occluded(tmp_path, monkeypatch):
    words = ["faithfulness.py", "--quick", "--data", str(tmp_path), "--kinds", "answers", "--pictures", "4"]
    monkeypatch.setattr("sys.argv", words)
    options = arguments()
    options.pictures, options.training_steps = 4, 2
    options.words_methods = ["grad_cam", "guided_backpropagation"]
    (planned,) = settings(options)
    run = {"setting": planned, "seconds": 1.0, **measure("answers", "answerer", options)}
    found = describe([planned], "cpu", [run, {"setting": {"kind": "answers"}, "rows": [], "claims": {}}])
    assert -1 <= found["summary"]["grad_cam.answers_occlusion_correlation"] <= 1
    assert {row["method"] for row in found["rows"]} == {*options.words_methods, *rows_of.CONTROLS}
    assert {row["images"] for row in found["rows"] if row["method"] == "center_map"} == {4}
    assert "claim.answerer.Grad-CAM follows occlusion better than guided backpropagation" in found["summary"]


def test_video__measures_maps_in_space_and_time():
    net = nn.Sequential(nn.Conv3d(3, 4, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3))
    options = Namespace(max_batch=8, video_steps=3)
    sheet = video(net.eval(), torch.randn(2, 3, 6, 16, 16), ["grad_cam", *rows_of.CONTROLS], options)
    assert set(sheet["center_map"]) == {"average_drop", "increase", "insertion", "deletion"}
    assert all(values.shape == (2,) for values in sheet["grad_cam"].values())


def test_settings__change_with_what_a_number_depends_on(tmp_path, monkeypatch):
    def planned(*words):
        monkeypatch.setattr("sys.argv", ["faithfulness.py", "--data", str(tmp_path), "--rounds", "0", *words])
        return settings(arguments())

    before, after = planned("--images", "10"), planned("--images", "11")
    differing = [one["kind"] for one, other in zip(before, after, strict=True) if one != other]
    assert differing == ["faithfulness"] * 2  # of two networks
    assert before == json.loads(json.dumps(before))  # as it comes back from the file


def test_markdown__has_a_column_for_each_metric():
    assert markdown([{"method": "a", "x": "1"}, {"method": "b", "y": "2"}]).splitlines() == [
        "| method | x | y |",
        "|---|---|---|",
        "| `a` | 1 |  |",
        "| `b` |  | 2 |",
    ]


def test_speed__compares_equal_numbers(net, photos):
    pytest.importorskip("torchcam")
    found = speed(net, photos.images, steps=4, rounds=2, max_batch=8)
    assert found["difference"] < 1e-5
    assert found["least"] <= found["times_as_fast"] <= found["most"]
    assert found["images"] == 6
