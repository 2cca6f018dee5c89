import json
import sys
from types import SimpleNamespace

import _decoy_table
import _decoy_training
import decoy
import pytest
import torch
from _decoy_data import Batches, Split, balanced_subset, boxes, dilated_patch, ink, swap_patches
from _decoy_rows import Counterexamples, other_images, signed_grad_cam

from camtrain.cam import grad_cam
from camtrain.data.decoy import plant_decoys


def digits(originals, corner=0):
    """What the annotations read of a data set: every image with a patch in one corner."""
    corners = torch.full((len(originals),), corner)
    images, masks = plant_decoys(originals, torch.zeros(len(originals), dtype=torch.long), corners)
    return SimpleNamespace(originals=originals, pictures=SimpleNamespace(images=images[:, None], masks=masks))


def blank(*inked):
    image = torch.zeros(1, 28, 28, dtype=torch.uint8)
    for row, column in inked:
        image[0, row, column] = 200
    return image


@pytest.mark.parametrize("corner", range(4))
def test_dilated_patch__ignores_six_by_six_pixels_around_the_patch(corner):
    data = digits(blank(), corner)
    ignored = 1 - dilated_patch(data)
    assert ignored.sum() == 36
    assert (ignored >= 1 - data.pictures.masks).all()


def test_boxes__are_tight():
    found = boxes(digits(blank((5, 9), (20, 12))))
    assert found.sum() == 16 * 4
    assert found[0, 5:21, 9:13].all()


def test_boxes__of_an_image_without_ink_are_empty():
    assert not boxes(digits(blank())).any()


def test_ink__leaves_out_what_the_patch_hides():
    assert ink(digits(blank((0, 0), (10, 10)))).nonzero().tolist() == [[0, 10, 10]]


def test_balanced_subset__takes_as_many_of_every_class_and_nests():
    labels = torch.arange(1000) % 10
    few, more = balanced_subset(labels, 0.01, seed=3), balanced_subset(labels, 0.05, seed=3)
    assert labels[few].bincount().tolist() == [1] * 10
    assert labels[more].bincount().tolist() == [5] * 10
    assert (more | ~few).all()
    assert balanced_subset(labels, 1.0).all()


def split(count=40):
    images = torch.randint(0, 256, (count, 1, 28, 28), dtype=torch.uint8)
    masks = torch.ones(count, 28, 28, dtype=torch.int8)
    masks[:, :4, :4] = 0
    return Split(images, torch.arange(count) % 10, masks, masks, 0.0, 1.0)


def test_swap_patches__changes_the_patch_alone():
    before = split()
    after = swap_patches(before)
    allowed = before.allowed[:, None].bool()
    assert torch.equal(before.images[allowed], after.images[allowed])
    assert sorted(before.images[:, 0, 0, 0].tolist()) == sorted(after.images[:, 0, 0, 0].tolist())
    assert not torch.equal(before.images, after.images)


def test_batches__hold_every_item_once_an_epoch_in_another_order_each_time():
    batches = Batches(split(), 16, seed=0)
    epochs = [torch.cat([batch["image"].mean((1, 2, 3)) for batch in batches]) for _ in range(2)]
    assert len(batches) == 3
    assert not torch.equal(*epochs)
    torch.testing.assert_close(*(epoch.sort().values for epoch in epochs))


def test_signed_grad_cam__is_grad_cam_before_its_relu():
    activations, gradients = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(signed_grad_cam(activations, gradients).relu(), grad_cam(activations, gradients))


def test_counterexamples__without_any_annotation_train_as_plain():
    module = Counterexamples(100.0, other_images)
    batch = split().batch(torch.arange(8))
    batch["mask"] = -torch.ones_like(batch["mask"])
    plain = torch.nn.functional.cross_entropy(module(batch["image"]), batch["label"])
    torch.testing.assert_close(module.training_step(batch, 0), plain)


def test_choose__takes_the_largest_weight_within_a_standard_error_of_the_best_on_swapped_patches():
    accuracies = {0.1: (99, 70), 1: (92, 80), 10: (90, 79.2), 100: (88, 78.8)}  # one standard error: 0.8
    runs = [
        {"setting": {"weight": weight}, "val": val, "val_swapped": swapped, "val_images": 2500}
        for weight, (val, swapped) in accuracies.items()
    ]
    assert _decoy_table.choose(runs) == 10


def test_beside_ceiling__compares_seed_by_seed_and_tells_how_sure_the_mean_is():
    def of(accuracies):
        return [{"setting": {"seed": seed}, "accuracy": accuracy} for seed, accuracy in accuracies.items()]

    plain = of({0: 90.0, 1: 92.0, 2: 91.0, 3: 80.0})
    found = _decoy_table.beside_ceiling(of({2: 90.0, 0: 90.0, 1: 90.0}), plain)
    assert found["above no decoy"] == pytest.approx(-1.0)
    assert found["its error"] == pytest.approx(1 / 3**0.5)
    assert _decoy_table.beside_ceiling(of({7: 90.0}), plain) == {"above no decoy": "", "its error": ""}


def test_summarize__names_the_best_row_of_the_others():
    accuracies = {"no_decoy": 90.0, "vanilla": 60.0, "rrr": 80.0, "hires_energy": 70.0, "ours": 89.0}
    rows = [{"data set": "mnist", "row": name, "test accuracy %": value} for name, value in accuracies.items()]
    summary = _decoy_table.summarize([*rows, {"data set": "mnist", "row": "RBR", "published": "99"}])
    assert summary == {
        "mnist.no_decoy": 90.0,
        "mnist.vanilla": 60.0,
        "mnist.ours": 89.0,
        "mnist.best_other": 80.0,
        "mnist.best_other_row": "rrr",
    }


def test_decoy__tunes_trains_times_writes_and_skips_what_is_finished(tmp_path, monkeypatch, capsys):
    file = tmp_path / "decoy.json"
    monkeypatch.setattr(decoy, "load", lambda *_, **__: split())
    monkeypatch.setattr(_decoy_table, "CANDIDATES", (1.0,))
    monkeypatch.setattr(decoy, "CANDIDATES", (1.0,))
    for name in ("WARM_UP", "TIMED_STEPS", "ROUNDS"):
        monkeypatch.setattr(_decoy_training, name, 2)
    scale = "--epochs 1 --first-seed 3 --seeds 2 --datasets mnist --rows vanilla rrr"
    arguments = f"decoy --device cpu --data {tmp_path} {scale} --json {file}"
    monkeypatch.setattr(sys, "argv", arguments.split())
    decoy.main()
    written = json.loads(file.read_text())
    assert written["weights"] == {"mnist": {"rrr": 1.0}}
    assert {row["row"] for row in written["rows"] if row.get("seeds") == 2} == {"vanilla", "rrr"}
    assert {"mnist.vanilla", "mnist.best_other"} <= set(written["summary"])
    assert len(written["runs"]) == 1 + 2 * 2 + 2
    assert {run["setting"]["seed"] for run in written["runs"] if run["setting"]["kind"] == "test"} == {3, 4}
    assert all(run["late"] == run["accuracy"] for run in written["runs"] if run["setting"]["kind"] == "test")
    monkeypatch.setattr(decoy, "fit", None)
    decoy.main()
    assert json.loads(file.read_text())["runs"] == written["runs"]
    assert "(recalled)" in capsys.readouterr().out


def test_tune__tells_a_row_no_more_than_it_is_told_later(monkeypatch):
    told = []
    monkeypatch.setattr(decoy, "load", lambda *_, **options: told.append(options.get("share", 1.0)) or split())
    monkeypatch.setattr(decoy, "fit", lambda *_, **__: None)
    for name in ("accuracy", "swap_patches"):
        monkeypatch.setattr(decoy, name, lambda *_: 0.0)
    options = SimpleNamespace(data=None, device="cpu", tuning_images=20, tuning_epochs=1)
    decoy.tune(options, "mnist", "counterexamples_5pct", 1.0)
    assert told == [0.05, 1.0]  # to train on, to judge on
