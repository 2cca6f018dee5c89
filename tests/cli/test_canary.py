import json

import numpy as np
import pytest
import torch
from PIL import Image

from camtrain.cli import main
from camtrain.data import Canary, MaskedImageFolder
from camtrain.data.canary import KINDS
from camtrain.data.canary.planting import agreement
from camtrain.render.sheets import Pair, contact_sheet

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
