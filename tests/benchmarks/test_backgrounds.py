import json
import math
import sys

import _backgrounds_groups
import backgrounds
import numpy as np
import pytest
import torch
from _backgrounds_groups import GroupDRO, balanced_subset, retrain_last_layer
from _backgrounds_table import shown, summarize, tabulate
from _backgrounds_training import accuracies
from _composites import (
    ALIGNED,
    BALANCED,
    CLASSES,
    CONFLICTING,
    GROUPS,
    PLACES,
    Composites,
    annotated_by_class,
    assign_places,
    crop,
    paste,
    read_sources,
)
from PIL import Image


def setting(row, seed=0, correlation=100.0):
    return {"row": row, "correlation": correlation, "seed": seed}


def run(row, worst, seed=0, correlation=100.0, seconds=1.0):
    numbers = {"mean": 50.0, "conflicting": 40.0, "worst": worst, "inside_energy": 10.0, "step_seconds": seconds}
    return {"setting": setting(row, seed, correlation), **numbers}


def test_assign_places__is_exact_and_even_elsewhere():
    labels = torch.arange(400) % len(CLASSES)
    groups = (labels * 4 + assign_places(labels, 0.94, seed=3)).bincount(minlength=GROUPS).view(4, 4)
    assert groups.tolist() == [[94 if row == column else 2 for column in range(4)] for row in range(4)]


def test_assign_places__of_full_correlation_leaves_twelve_groups_empty():
    labels = torch.arange(40) % len(CLASSES)
    groups = (labels * 4 + assign_places(labels, 1.0, seed=0)).bincount(minlength=GROUPS)
    assert groups[ALIGNED].tolist() == [10] * 4
    assert not groups[CONFLICTING].any()


def test_annotated_by_class__takes_as_many_of_every_class_and_nests():
    labels = torch.arange(3000) % len(CLASSES)
    few, more = annotated_by_class(labels, 0.01, seed=1), annotated_by_class(labels, 0.05, seed=1)
    assert labels[few].bincount().tolist() == [8] * 4
    assert (more | ~few).all()
    assert annotated_by_class(labels, 1.0, seed=1).all()


def test_paste__covers_what_its_mask_says():
    cutout = Image.new("RGBA", (40, 20), (255, 0, 0, 255))
    canvas, mask = paste(cutout, 32, np.random.default_rng(0))
    rows, columns = np.nonzero(mask)
    assert 16 <= np.ptp(columns) + 1 <= 26  # half to eight tenths of the side
    assert np.ptp(rows) + 1 == pytest.approx((np.ptp(columns) + 1) / 2, abs=1)
    assert (np.asarray(canvas)[mask][:, :3] == (255, 0, 0)).all()


def test_crop__keeps_to_the_photograph():
    shown = np.asarray(crop(Image.new("RGB", (60, 30), (1, 2, 3)), 16, np.random.default_rng(0)))
    assert shown.shape == (16, 16, 3)
    assert (shown == (1, 2, 3)).all()


def test_read_sources__splits_share_no_photograph(shared_data):
    splits = [read_sources(shared_data, split, seed=1) for split in ("train", "val", "test")]
    pools = [[image for pools in (one.objects, one.places) for pool in pools for image in pool] for one in splits]
    assert len({id(image) for pool in pools for image in pool}) == sum(map(len, pools))
    assert all(len(pool) > 30 for one in splits for pool in (*one.objects, *one.places))


def test_composites__differ_only_in_their_places(shared_data):
    biased, fair = (Composites(shared_data, "test", 16, correlation, 48, seed=0) for correlation in (1.0, BALANCED))
    assert biased.pictures.masks.equal(fair.pictures.masks)
    moved = biased.places != fair.places
    assert moved.any()
    different = (biased.pictures.images != fair.pictures.images).flatten(1).any(dim=1)
    assert different[moved].all()
    assert not different[~moved].any()


def test_group_dro__raises_the_share_of_the_worst_group():
    module = GroupDRO("camtrain.networks.SmallResNet", num_classes=4)
    with torch.no_grad():
        module.network.head.weight.zero_()
        module.network.head.bias.copy_(torch.tensor([9.0, 0.0, 0.0, 0.0]))
    batch = {"image": torch.rand(2, 3, 16, 16), "label": torch.tensor([0, 1]), "group": torch.tensor([0, 5])}
    module.training_step(batch, 0)
    others = 1 / (GROUPS - 1 + math.exp(0.01 * 9))  # the loss of group 5 is 9, that of the others 0
    assert module.shares.sum() == pytest.approx(1)
    assert module.shares[1].item() == pytest.approx(others, rel=1e-3)
    assert module.shares[5].item() == pytest.approx(others * math.exp(0.01 * 9), rel=1e-3)


def test_balanced_subset__takes_the_smallest_group_whole():
    groups = torch.cat([torch.arange(GROUPS), torch.arange(GROUPS), torch.zeros(50, dtype=torch.long)])
    subset = balanced_subset(groups, torch.Generator().manual_seed(0))
    assert subset.shape == (GROUPS, 2)
    assert (groups[subset] == torch.arange(GROUPS).unsqueeze(1)).all()


def test_retrain_last_layer__forgets_a_head_that_reads_the_place(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    labels, places = torch.arange(800) % 4, torch.arange(800) // 4 % 4
    features = torch.cat([torch.eye(4)[labels], torch.eye(4)[places]], dim=1)
    features += 0.1 * torch.randn(features.shape, generator=generator)
    network = torch.nn.Sequential(torch.nn.Linear(8, 4))
    with torch.no_grad():
        network[0].weight.copy_(torch.eye(8)[4:])  # the class is read from the place
    data = Composites("", "train", 800, BALANCED, 8, 0)
    data.labels, data.groups = labels, labels * 4 + places
    monkeypatch.setattr(_backgrounds_groups, "batches", lambda dataset: [{"image": features}])
    retrain_last_layer(network, "0", data, seed=0)
    assert (network(features).argmax(dim=1) == labels).float().mean() > 0.99


def test_summarize__measures_the_gap_between_erm_and_no_correlation():
    runs = [run("erm", 10.0), run("unbiased", 90.0), run("ours", 82.0), run("ours_5", 50.0)]
    summary = summarize(tabulate(runs))
    assert summary["gap_closed"] == pytest.approx(0.9)
    assert summary["gap_closed_5pct"] == pytest.approx(0.5)
    assert (summary["erm_worst"], summary["ours_mean"], summary["ours_5pct_worst"]) == (10.0, 50.0, 50.0)


def test_summarize__prefixes_other_correlations():
    summary = summarize(tabulate([run("erm", 60.0, correlation=95.0)]))
    assert summary == {"95.erm_mean": 50.0, "95.erm_worst": 60.0}


def test_tabulate__averages_seeds_and_compares_the_time_of_each_with_its_own_erm():
    runs = [run("erm", 0.0), run("erm", 2.0, seed=1, seconds=2.0)]
    runs += [run("ours", 60.0, seconds=1.5), run("ours", 62.0, seed=1, seconds=3.0)]
    erm, ours = tabulate(runs)
    assert (erm["worst"], erm["worst_sd"]) == (1.0, pytest.approx(math.sqrt(2)))
    assert (ours["time"], ours["time_sd"], ours["seeds"]) == (1.5, 0.0, 2)


def test_tabulate__measures_the_closed_gap_of_each_seed_and_averages_these():
    runs = [run("erm", 0.0), run("unbiased", 80.0), run("ours", 80.0)]
    runs += [
        run("erm", 40.0, seed=1),
        run("unbiased", 60.0, seed=1),
        run("ours", 50.0, seed=1),
        run("ours", 9.0, seed=2),
    ]
    erm, unbiased, ours = tabulate(runs)
    assert (ours["gap"], ours["gap_sd"]) == (75.0, pytest.approx(math.sqrt(1250)))
    assert "gap" not in {**erm, **unbiased}
    assert (ours["behind"], ours["behind_sd"], erm["behind"]) == (5.0, pytest.approx(math.sqrt(50)), 50.0)
    assert "behind" not in unbiased
    assert shown(ours)["gap closed"] == "75.0 ± 35.4"


def test_tabulate__home_advantage_is_what_the_own_place_adds():
    groups = torch.arange(16).repeat_interleave(4)
    correct = (groups // 4 == groups % 4) | (torch.arange(64) % 4 == 0)  # all at home, a quarter elsewhere
    (row,) = tabulate([{**run("ours", 0.0), **accuracies(correct, groups)}])
    assert row["home_advantage"] == pytest.approx(75.0)


def test_tabulate__says_why_a_row_is_missing():
    (row,) = tabulate([{"setting": setting("dfr"), "note": "no balanced subset"}])
    assert shown(row)["mean"] == "no balanced subset"
    assert "mean" not in summarize([row])


def draw_sources(root, count=20, side=40):
    """Discs, squares and so on of one color each, and skies of another, in the layout of the data."""
    rng = np.random.default_rng(0)
    shapes, weather = root / "sysu_shapes", root / "backgrounds_weather"
    for folder in (shapes / "images", shapes / "masks", weather / "images"):
        folder.mkdir(parents=True)
    objects, places = ["file,label,n_objects"], ["file,label"]
    for kind, (name, place) in enumerate(zip(CLASSES, PLACES, strict=True)):
        for number in range(count):
            file = f"{name}_{number}.png"
            mask = np.zeros((side, side), np.uint8)
            mask[8 + kind : 30, 10 : 30 + kind] = 1
            Image.fromarray(rng.integers(40 * kind, 40 * kind + 60, (side, side, 3), np.uint8)).save(
                shapes / "images" / file
            )
            Image.fromarray(mask).save(shapes / "masks" / file)
            objects.append(f"{file},{name},1")
            sky = f"images/{place}_{number}.png"
            Image.fromarray(rng.integers(100, 140 + 30 * kind, (side, side, 3), np.uint8)).save(weather / sky)
            places.append(f"{sky},{place}")
    (shapes / "index.csv").write_text("\n".join(objects))
    (weather / "index.csv").write_text("\n".join(places))


def test_backgrounds__trains_writes_and_skips_what_is_finished(tmp_path, monkeypatch, capsys):
    draw_sources(tmp_path)
    file, picture = tmp_path / "backgrounds.json", tmp_path / "sheet.png"
    arguments = (
        "backgrounds --from-scratch --device cpu --epochs 1 --images 64 --size 32 --batch-size 16 --seeds 1 "
        f"--correlation 95 100 --rows erm unbiased dfr given_10 --data {tmp_path} --json {file} --sheet {picture}"
    )
    monkeypatch.setattr(sys, "argv", arguments.split())
    backgrounds.main()
    written = json.loads(file.read_text())
    assert len(written["runs"]) == 2 * 4
    assert {"95.erm_worst", "unbiased_mean"} <= set(written["summary"])
    fair = [run for run in written["runs"] if run["setting"]["row"] == "unbiased"]
    assert fair[0]["step_seconds"] == fair[1]["step_seconds"]  # trained once
    assert all(0 <= run["worst"] <= run["mean"] <= 100 for run in written["runs"] if "mean" in run)
    (missing,) = {run["note"] for run in written["runs"] if run["setting"]["correlation"] == 100 and "note" in run}
    assert missing == "no balanced subset: 12 of 16 groups are empty"
    assert np.asarray(Image.open(picture)).std() > 10
    monkeypatch.setattr(backgrounds, "fit", None)
    backgrounds.main()
    assert json.loads(file.read_text())["runs"] == written["runs"]
    assert "100 % correlation, 1 seeds" in capsys.readouterr().out


def test_backgrounds__tunes_a_weight_on_twins_with_all_masks_and_trains_with_it(tmp_path, monkeypatch, capsys):
    draw_sources(tmp_path)
    file = tmp_path / "backgrounds.json"
    arguments = (
        "backgrounds --from-scratch --device cpu --epochs 1 --images 32 --size 32 --batch-size 16 --seeds 2 "
        f"--correlation 100 --rows tuned tuned_5 --data {tmp_path} --json {file}"
    )
    monkeypatch.setattr(sys, "argv", arguments.split())
    monkeypatch.setattr(backgrounds, "CANDIDATES", (0.1, 1.0, 10.0))
    tried, reached = [], {"weight_0.1": 90.0, "weight_1": 89.0, "weight_10": 20.0}

    def train(setting, recipe, *_):
        tried.append((setting.row, setting.seed, recipe.masks, recipe.callbacks(None, None)[0].weight))
        numbers = {"mean": 50.0, "conflicting": 40.0, "worst": 10.0, "inside_energy": 10.0, "step_seconds": 1.0}
        return {**numbers, "validation_twins": reached.get(setting.row, 0.0)}

    monkeypatch.setattr(backgrounds, "run", train)
    backgrounds.main()
    candidates = [(f"weight_{weight:g}", 1000, 1.0, weight) for weight in (0.1, 1.0, 10.0)]
    trained = [(row, seed, masks, 1.0) for seed in (0, 1) for row, masks in (("tuned", 1.0), ("tuned_5", 0.05))]
    assert tried == candidates + trained
    written = json.loads(file.read_text())
    assert [run["weight"] for run in written["runs"] if "weight" in run] == [1.0] * 4
    assert [row["row"] for row in written["rows"]] == ["tuned", "tuned_5"]  # not the candidates
