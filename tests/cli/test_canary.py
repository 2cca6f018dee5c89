import json

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from camtrain.cli import main
from camtrain.cli.canary_check import images_to_find, outcome
from camtrain.data import Canary, MaskedImageFolder
from camtrain.data.canary import KINDS
from camtrain.data.canary.planting import agreement
from camtrain.module import ImageClassifier
from camtrain.render.sheets import Pair, contact_sheet
from camtrain.sinks import FilesSink, Scalars, Verdict, Verdicts

LAYOUT = ("--images", "images", "--masks", "masks")


def plant(folder, out, *words):
    main(["canary", str(folder), *LAYOUT, "--out", str(out), *words])
    return json.loads((out / "canary.json").read_text())


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def drawings(photos):
    """The same pictures without loss: PNG."""
    for path in (photos / "images").rglob("*.jpg"):
        Image.open(path).save(path.with_suffix(".png"))
        path.unlink()
    return photos


@pytest.mark.parametrize("kind", KINDS)
def test_canary__plants_what_it_states(kind, drawings, tmp_path, capsys):
    truth = plant(drawings, tmp_path / "out", "--kind", kind, "--strength", "0.8", "--seed", "3")
    before = MaskedImageFolder(drawings, images="images", masks="masks")
    after = MaskedImageFolder(tmp_path / "out", images="images", masks="masks")
    canary = Canary(kind, 3, 0.8, seed=3)
    for index, (old, new) in enumerate(zip(before, after, strict=True)):
        key, label = torch.tensor([index]), torch.tensor([old["label"]])
        expected = canary(old["image"][None], label, key, old["mask"][None])[0]
        assert (new["image"] - expected).abs().max() <= 0.5 / 255 + 1e-6
        assert torch.equal(new["mask"], old["mask"])
        assert truth["shown"][old["id"]] == before.class_names[int(canary.shown(label, key))]
    assert truth["own_cue"].keys() == {"boat", "car", "hen"}
    assert f"planted  {kind} in 12 images; own cue: boat" in capsys.readouterr().out
    with Image.open(tmp_path / "out" / "canary.png") as sheet:
        assert sheet.size == (120 + 40 + 4 * 242 - 16, 62 + 3 * 138 - 8)
        assert len(np.unique(np.asarray(sheet).reshape(-1, 3), axis=0)) > 1000


def test_canary__takes_masks_as_the_words_say(tmp_path):
    root, trimap = tmp_path / "pets", np.full((16, 16), 2, np.uint8)
    trimap[4:12, 4:12], trimap[5:11, 5:11] = 3, 1
    shape = {"label": "cat", "shape_type": "rectangle", "points": [[5, 5], [11, 11]]}
    note = {"shapes": [shape], "imagePath": "0.png", "imageHeight": 16, "imageWidth": 16}
    for name in ("cat", "dog"):
        for kind in ("images", "masks", "notes"):
            (root / kind / name).mkdir(parents=True)
        Image.new("RGB", (16, 16), (90, 120, 60)).save(root / "images" / name / "0.png")
        Image.fromarray(trimap).save(root / "masks" / name / "0.png")
        (root / "notes" / name / "0.json").write_text(json.dumps(note | {"shapes": [shape | {"label": name}]}))
    words = ("--kind", "background", "--strength", "1", "--images", "images")
    ways = {
        "a": ("--masks", "masks", "--mask_values", "1"),
        "b": ("--annotations", "notes", "--labels_from", "folders"),
    }
    for out, way in ways.items():
        main(["canary", str(root), *words, *way, "--out", str(tmp_path / out)])
        assert json.loads((tmp_path / out / "canary.json").read_text())["own_cue"] == {"cat": 1.0, "dog": 1.0}
    a = MaskedImageFolder(tmp_path / "a", "images", "masks", mask_values=1)
    b = MaskedImageFolder(tmp_path / "b", "images", annotations="notes", labels_from="folders")
    for one, other in zip(a, b, strict=True):
        assert int((one["mask"] == 1).sum()) == 36
        assert torch.equal(one["mask"], other["mask"])
        assert torch.equal(one["image"], other["image"])
        kept = (one["image"] * 255).round().flatten(1)[:, one["mask"].flatten() == 1]
        assert kept.unique(dim=1).flatten().tolist() == [90, 120, 60]


def test_canary__keeps_the_layout_and_touches_nothing_else(photos, tmp_path):
    (photos / "notes.txt").write_text("mine")
    given = {name: (photos / name).read_bytes() for name in files(photos)}
    plant(photos, tmp_path / "out", "--kind", "frame")
    assert {name: (photos / name).read_bytes() for name in files(photos)} == given
    assert files(tmp_path / "out") == sorted([*given.keys() - {"notes.txt"}, "canary.json", "canary.png"])


def test_canary__of_some_classes_leaves_the_others_without(drawings, tmp_path, capsys):
    truth = plant(drawings, tmp_path / "out", "--kind", "corner", "--strength", "1", "--classes", "car", "--json")
    assert truth["classes"] == ["car"]
    assert truth["own_cue"] == {"boat": 0, "car": 1, "hen": 0}
    assert truth["shown"]["boat/0.png"] is None
    said = json.loads(capsys.readouterr().out)
    assert said["sheet"] == str(tmp_path / "out" / "canary.png")
    assert said["own_cue"] == truth["own_cue"]
    for name in ("boat/0.png", "car/1.png"):
        old, new = (np.asarray(Image.open(folder / "images" / name)) for folder in (drawings, tmp_path / "out"))
        assert np.array_equal(old, new) == (name == "boat/0.png")


def test_canary__has_independent_cues_where_that_is_asked_for(drawings, tmp_path):
    rows = [f"{path.relative_to(drawings / 'images')}" for path in sorted((drawings / "images").rglob("*.png"))]
    splits = ["train" if index % 2 else "test" for index in range(len(rows))]
    lines = [f"{row},{row.partition('/')[0]},{split}" for row, split in zip(rows, splits, strict=True)]
    (drawings / "index.csv").write_text("file,label,split\n" + "\n".join(lines))
    words = ["--kind", "tint", "--strength", "1", "--index", "index.csv"]
    truth = plant(drawings, tmp_path / "out", *words, "--independent", "test")
    own = {split: [] for split in splits}
    for row, split in zip(rows, splits, strict=True):
        own[split].append(truth["shown"][row] == row.partition("/")[0])
    assert all(own["train"])
    assert not all(own["test"])
    assert truth["independent"] == ["test"]
    assert "index.csv" in files(tmp_path / "out")
    everywhere = plant(drawings, tmp_path / "other", *words, "--independent")
    assert everywhere["independent"] is True
    assert max(everywhere["own_cue"].values()) < 1


def test_canary__repeats_and_differs_by_seed(drawings, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        plant(drawings, tmp_path / name, "--kind", "sticker", "--seed", str(seed))
    a, b, c = ((tmp_path / name / "images" / "boat" / "0.png").read_bytes() for name in "abc")
    assert a == b != c


def test_canary__of_a_background_says_where_a_mask_is_missing(drawings, tmp_path):
    (drawings / "masks" / "boat" / "0.png").unlink()
    truth = plant(drawings, tmp_path / "out", "--kind", "background", "--strength", "1")
    assert truth["shown"]["boat/0.png"] is None
    assert truth["own_cue"]["boat"] == 0.75


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["FOLDER", "--kind", "smell"], "kind is one of corner, .*'smell'"),
        (["FOLDER", "--kind", "corner", "--strength", "1.5"], "strength is a probability.*1.5"),
        (["FOLDER", "--kind", "corner", *LAYOUT, "--classes", "bota"], "No class is called 'bota'; closest: boat"),
        (["FOLDER", "--kind", "corner", *LAYOUT, "--independent", "val"], "No split 'val' in .*has: none"),
        (["FOLDER", "--kind", "background", "--images", "images"], "background needs masks"),
        (["FOLDER", "--kind", "corner", *LAYOUT, "--out", "FOLDER/new"], "would be read as images of it"),
        (["FOLDER", "--kind", "corner", *LAYOUT, "--out", "used"], "used is in use"),
        (["FOLDER", "--kind", "corner", *LAYOUT, "--out", "used/file/below"], "Cannot write"),
        (["gone", "--kind", "corner"], "There is no folder gone"),
        (["used", "--kind", "corner"], "holds no images in class folders"),
    ],
)
def test_canary__ends_with_the_message_of_a_mistake(photos, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(SystemExit, match=said):
        main(["canary", *(word.replace("FOLDER", str(photos)) for word in words)])


def test_agreement__of_nothing_is_empty():
    assert agreement([]) == {}


def test_contact_sheet__shows_each_picture_in_its_place_and_cuts_long_names():
    red, blue = (torch.zeros(3, 8, 4, dtype=torch.uint8) for _ in range(2))
    red[0], blue[2] = 255, 255
    page = np.asarray(contact_sheet("title", [("a class with a very long name", [Pair(red, blue)])], side=32))
    assert page.shape == (112, 226, 3)
    assert (page[42:74, 148:164] == [255, 0, 0]).all()
    assert (page[42:74, 182:198] == [0, 0, 255]).all()
    assert (page[:, 128:138] == page[0, 0]).all()
    assert np.asarray(contact_sheet("none", [])).shape[:2] == (62, 160)


class ReadsFrame(torch.nn.Module):
    """Answers with the color of the upper rim: the frame of its class and nothing else."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.colors = torch.nn.Conv2d(3, num_classes, 1, bias=False)
        colors = torch.stack([painted(c)[:, 0].mean(dim=1) for c in range(num_classes)])
        self.colors.weight.data = 40 * (colors - colors.mean(dim=0))[..., None, None]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.colors(images)[:, :, 0].mean(dim=2)


class Blind(torch.nn.Module):
    """Answers alike to everything."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.same = torch.nn.Conv2d(3, num_classes, 1)
        torch.nn.init.zeros_(self.same.weight)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.same(images).mean(dim=(2, 3))


def painted(cue):
    canary, image = Canary("frame", 3), torch.zeros(1, 3, 24, 32)
    return canary.paint(image, torch.tensor([cue]), torch.tensor([0]))[0]


def verdict(index, name, answer, cue="frame"):
    return Verdict(index, name, answer, 0.4, 0.3, 0.5, 0.0, 0.01, 40, cue, where="along the rim")


@pytest.fixture
def planted_run(drawings, tmp_path):
    """A planted copy, and a run that flags the boat rightly, misses the car and has not looked at the hen."""
    plant(drawings, tmp_path / "copy", "--kind", "frame", "--strength", "0.9", "--classes", "boat", "car")
    rows = (verdict(0, "boat", "reliant"), verdict(1, "car", "not reliant"), verdict(2, "hen", "reliant"))
    FilesSink(tmp_path / "run" / "camtrain").write(Verdicts(rows, 0, 0), Scalars({"val/accuracy": 0.5}, 0, 0))
    return tmp_path


@pytest.mark.parametrize(("network", "least", "most"), [("ReadsFrame", 0.9, 1.0), ("Blind", 0.0, 0.0)])
def test_check__says_what_was_found_and_measures_what_the_cue_alone_does(planted_run, capsys, network, least, most):
    torch.save(globals()[network](3).state_dict(), planted_run / "w.pth")
    words = [str(planted_run / "copy"), "--check", str(planted_run / "run"), "--model", f"{__name__}.{network}"]
    capsys.readouterr()
    main(["canary", *words, "--weights", str(planted_run / "w.pth"), "--size", "32", "--json"])
    rows = {row["class"]: row for row in json.loads(capsys.readouterr().out)["classes"]}
    outcomes = {name: row["outcome"] for name, row in rows.items()}
    assert outcomes == {"boat": "found", "car": "missed", "hen": "false alarm"}
    assert [rows[name]["planted"] for name in ("boat", "car", "hen")] == [True, True, False]
    assert rows["hen"]["alone"] is None
    for name in ("boat", "car"):
        mean, _, _, images = rows[name]["alone"]
        assert least - 1e-6 <= mean <= most + 1e-6
        assert images == 4
    main(["canary", *words, "--weights", str(planted_run / "w.pth"), "--size", "32"])
    assert "found    1 of 2 classes with a cue; 1 false alarms" in capsys.readouterr().out


def test_check__takes_the_newest_checkpoint_and_the_settings_of_the_run(planted_run, capsys):
    module = ImageClassifier("camtrain.networks.SmallResNet", 3, class_names=["hen", "car", "boat"])
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(module)
    (planted_run / "run" / "checkpoints").mkdir()
    path = planted_run / "run" / "checkpoints" / "last.ckpt"
    trainer.save_checkpoint(path)
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["hyper_parameters"]["_class_path"] = "camtrain.module.ImageClassifier"
    checkpoint["hyper_parameters"]["_instantiator"] = "pytorch_lightning.cli.instantiate_module"
    torch.save(checkpoint, path)
    config = {"data": {"class_path": "x.Y", "init_args": {"image_size": 32}}}
    (planted_run / "run" / "camtrain" / "config.yaml").write_text(json.dumps(config))
    capsys.readouterr()
    main(["canary", str(planted_run / "copy"), "--check", str(planted_run / "run"), "--json"])
    rows = {row["class"]: row for row in json.loads(capsys.readouterr().out)["classes"]}
    assert rows["boat"]["alone"][3] == 4
    assert abs(rows["boat"]["alone"][0]) < 0.5


def test_check__without_a_network_says_that_the_cue_alone_was_not_measured(planted_run, capsys):
    main(["canary", str(planted_run / "copy"), "--check", str(planted_run / "run")])
    assert "not measured: there is no checkpoint beside the run: name the network with" in capsys.readouterr().out


def test_check__ends_with_the_message_of_a_mistake(planted_run, photos):
    with pytest.raises(SystemExit, match=r"holds no canary.json: name the folder that camtrain canary wrote"):
        main(["canary", str(photos), "--check", str(planted_run / "run")])
    (planted_run / "copy" / "canary.json").write_text("[1]")
    with pytest.raises(SystemExit, match=r"is not what camtrain canary writes"):
        main(["canary", str(planted_run / "copy"), "--check", str(planted_run / "run")])


@pytest.mark.parametrize(
    ("answer", "cue", "planted", "expected"),
    [
        ("reliant", "frame", True, "found"),
        ("suspect", "frame", True, "found"),
        ("reliant", "background tint", True, "found, under another name"),
        ("not reliant", "background", True, "missed"),
        ("no evidence", "background", True, "missed"),
        ("undecided", "background", True, "undecided"),
        ("reliant", "frame", False, "false alarm"),
        ("not reliant", "frame", False, "rightly not flagged"),
    ],
)
def test_outcome__of_each_answer(answer, cue, planted, expected):
    assert outcome("frame", verdict(0, "boat", answer, cue), planted=planted) == expected


def test_outcome__of_a_class_that_was_not_examined_is_no_miss():
    assert outcome("frame", None, planted=True) == "not examined"


def test_images_to_find__are_more_for_weaker_cues_and_none_for_what_chance_gives():
    counts = [images_to_find(strength, 3) for strength in (1.0, 0.8, 0.6, 0.5)]
    assert counts == sorted(counts)
    assert counts[0] >= 10
    assert images_to_find(1 / 3, 3) is None
    # Against a simulation: of networks that follow the cue, nine in ten are told from tau with twice as many.
    count, effect = 2 * images_to_find(0.8, 3), 0.8 - 0.1
    generator = np.random.default_rng(0)
    draws = (generator.random((2000, count)) < effect).astype(float)
    low = draws.mean(1) - 3.5 * draws.std(1, ddof=1) / count**0.5
    assert (low > 0.02).mean() > 0.9


def test_canary__says_before_training_whether_there_are_images_enough(drawings, tmp_path, capsys):
    truth = plant(drawings, tmp_path / "few", "--kind", "frame")
    assert truth["held_out"] == {"boat": 4, "car": 4, "hen": 4}
    said = " ".join(capsys.readouterr().out.split())
    assert f"enough no: a network that reads the cue alone shows it on {truth['images_to_find']} images" in said
    assert "boat has 4" in said
    plant(drawings, tmp_path / "weak", "--kind", "frame", "--strength", "0.3")
    assert "enough no: of strength 0.3 a cue says less than the detector tells" in " ".join(
        capsys.readouterr().out.split()
    )
