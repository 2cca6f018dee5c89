"""An audit of several labels, values and boxes: a network that is right says so, one that guesses too."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from camtrain.cli import main
from camtrain.data.tasked import open_marked
from camtrain.data.transforms import eval_transform
from camtrain.errors import ConfigurationError, DataError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
NAMES, COUNT, SIDE = ("blue", "green", "red"), 36, 32
CHANNELS = {"red": 0, "green": 1, "blue": 2}


class Reads(nn.Module):
    """How much of an image is blue, green and red, by the squares of those colors; or, `guesses`, by noise."""

    guesses = False

    def __init__(self, num_classes=3):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
        weight = torch.full((3, 3), -2.0)
        for row, name in enumerate(NAMES):
            weight[row, CHANNELS[name]] = 2.0
        self.features[0].weight.data = weight.view(3, 3, 1, 1)
        nn.init.constant_(self.features[0].bias, -0.3)

    def areas(self, images):
        maps = self.features(images)
        areas = maps.sum((2, 3))
        if self.guesses:
            seeds = (images.detach().abs().sum((1, 2, 3)) * 1e3).long() % 997
            noise = [torch.rand(3, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds]
            areas = areas * 0.01 + 80 * torch.stack(noise)
        return maps, areas

    def forward(self, images):
        return self.areas(images)[1] - 10


class Measures(Reads):
    """The area of blue in pixels of 64."""

    def forward(self, images):
        return self.areas(images)[1][:, :1]


class Boxes(Reads):
    """A box around each color, from label 1 on."""

    def forward(self, images):
        answers = []
        for maps, areas in zip(*self.areas(images), strict=True):
            rows = []
            for label in range(3):
                there = (maps[label].detach() > 0).nonzero()
                if self.guesses:
                    at = 20 * areas[label].detach() / 80
                    rows.append((torch.stack([at, at, at + 8, at + 8]), areas[label].div(20).sigmoid(), label + 1))
                elif len(there):
                    corners = torch.cat([there.amin(0).flip(0), there.amax(0).flip(0) + 1]).float()
                    rows.append((corners, areas[label].div(20).sigmoid(), label + 1))
            answers.append(
                {
                    "boxes": torch.stack([box for box, _, _ in rows]) if rows else torch.zeros(0, 4),
                    "scores": torch.stack([score for _, score, _ in rows]) if rows else areas[:0],
                    "labels": torch.tensor([label for _, _, label in rows], dtype=torch.long),
                }
            )
        return answers


class GuessesLabels(Reads):
    guesses = True


class GuessesValues(Measures):
    guesses = True


class GuessesBoxes(Boxes):
    guesses = True


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """Pictures with up to three squares, each of a color and a size, and every file that says what they show."""
    root = tmp_path_factory.mktemp("squares")
    generator = np.random.default_rng(0)
    rows, boxes = [], []
    for index in range(COUNT):
        image, name = generator.integers(80, 120, (2 * SIDE, 2 * SIDE, 3), np.uint8), f"{index}.png"
        there = [kind for kind in NAMES if generator.random() < 0.5]
        sizes = {kind: 8 + 4 * int(generator.integers(3)) for kind in there}
        for place, kind in enumerate(NAMES):
            if kind in there:
                top, left, side = 8 + int(generator.integers(24)), 20 * place + 2, sizes[kind]
                image[top : top + side, left : left + side] = 20
                image[top : top + side, left : left + side, CHANNELS[kind]] = 230
                boxes.append((name, left, top, left + side, top + side, kind))
                mask = np.zeros(image.shape[:2], np.uint8)
                mask[top : top + side, left : left + side] = 255
                for folder in (f"masks/{kind}", *["blues"] * (kind == "blue")):
                    (root / folder).mkdir(parents=True, exist_ok=True)
                    Image.fromarray(mask).save(root / folder / name)
        if not there:
            boxes.append((name, "", "", "", "", ""))
        for folder in ("images", *(f"folders/{kind}" for kind in there)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(root / folder / name)
        rows.append((name, *(int(kind in there) for kind in NAMES), "|".join(there), sizes.get("blue", 0) ** 2 / 4))
    for file, header, lines in (
        ("hot.csv", ("file", *NAMES), [row[:4] for row in rows]),
        ("listed.csv", ("file", "labels"), [(row[0], row[4]) for row in rows]),
        ("values.csv", ("file", "area"), [(row[0], row[5]) for row in rows if row[5]]),
        ("boxes.csv", ("file", "xmin", "ymin", "xmax", "ymax", "class"), boxes),
    ):
        with (root / file).open("w", newline="") as out:
            csv.writer(out).writerows([header, *lines])
    (root / "names.txt").write_text("\n".join(NAMES))
    (root / "numbers.txt").write_text("\n".join(("__background__", *NAMES)))
    return root


def audited(root, out, kind, *words):
    """The rows of the table, and the answer."""
    common = ["--model", f"{__name__}.{kind}", "--size", str(SIDE), "--images", "images", "--methods", "grad_cam"]
    common += [
        "--mean",
        "0",
        "0",
        "0",
        "--std",
        "1",
        "1",
        "1",
        "--layers",
        "network.features",
        "--device",
        "cpu",
        "--json",
    ]
    common += ["--looks", "none", "--stickers", "false", "--regions", "0"]
    main(["audit", str(root), *common, "--out", str(out), "--table", "t.csv", *map(str, words)])
    with (out / "t.csv").open(newline="") as file:
        return list(csv.DictReader(file))


LABELS = {
    "columns": ("--index", "hot.csv"),
    "boxes": ("--annotations", "boxes.csv"),
}


def share_right(rows):
    return sum(float(row["right"]) for row in rows) / len(rows)


@pytest.mark.parametrize("source", LABELS)
def test_audit__of_several_labels_says_who_is_right(squares, tmp_path, capsys, source):
    words = ["--task", "multi_label", "--classes", squares / "names.txt", *LABELS[source]]
    words += ["--masks", "masks"] * (source != "boxes")
    rows = audited(squares, tmp_path / "a", "Reads", *words)
    answer = json.loads(capsys.readouterr().out)
    with (squares / "hot.csv").open(newline="") as file:
        truth = {(row["file"], kind) for row in csv.DictReader(file) for kind in NAMES if row[kind] == "1"}
    assert {(row["sample"].partition("#")[0], row["class"]) for row in rows} == truth
    assert share_right(rows) == 1
    assert {(row["true"], row["predicted"]) for row in rows} == {("1.0", "1.0")}
    assert min(float(row["inside_energy/grad_cam"]) for row in rows) > 0.9  # each on the mask of its own label
    assert answer["reliant"] == []
    page = (tmp_path / "a" / "report.html").read_text()
    assert "invented" in page
    assert 'id="gallery"' in page


def test_audit__of_several_labels_says_who_guesses(squares, tmp_path, capsys):
    words = ["--task", "multi_label", "--classes", squares / "names.txt", "--index", "hot.csv", "--masks", "masks"]
    rows = audited(squares, tmp_path, "GuessesLabels", *words)
    assert 0.2 < share_right(rows) < 0.6
    assert json.loads(capsys.readouterr().out)["reliant"] == []


@pytest.mark.parametrize(("kind", "least", "most"), [("Measures", 1, 1), ("GuessesValues", 0, 0.6)])
def test_audit__of_values_says_who_is_right(squares, tmp_path, capsys, kind, least, most):
    words = ["--task", "regression", "--index", "values.csv", "--label-column", "area", "--masks", "blues"]
    rows = audited(squares, tmp_path, kind, *words)
    with (squares / "values.csv").open(newline="") as file:
        truth = {row["file"]: float(row["area"]) for row in csv.DictReader(file)}
    assert {row["sample"]: float(row["true"]) for row in rows} == truth
    assert least <= share_right(rows) <= most
    assert json.loads(capsys.readouterr().out)["reliant"] == []
    assert "far off" in (tmp_path / "report.html").read_text() or kind == "Measures"


@pytest.mark.parametrize(("kind", "least", "most"), [("Boxes", 1, 1), ("GuessesBoxes", 0, 0.3)])
def test_audit__of_boxes_says_who_is_right(squares, tmp_path, capsys, kind, least, most):
    words = ["--task", "detection", "--annotations", "boxes.csv", "--classes", squares / "numbers.txt"]
    rows = audited(squares, tmp_path, kind, *words)
    assert least <= share_right(rows) <= most
    assert {row["class"] for row in rows} == set(NAMES)
    assert json.loads(capsys.readouterr().out)["reliant"] == []
    if kind == "Boxes":
        assert min(float(row["inside_energy/grad_cam"]) for row in rows) > 0.9


@pytest.mark.parametrize("words", [{"images": "folders"}, {"images": "images", "index": "listed.csv"}])
def test_marked_images__read_labels_from_class_folders_and_from_lists(squares, words):
    images = open_marked(squares, eval_transform(SIDE), None, boxes=False, **words)
    with (squares / "hot.csv").open(newline="") as file:
        truth = {row["file"]: [float(row[kind]) for kind in NAMES] for row in csv.DictReader(file)}
    assert images.class_names == list(NAMES)
    labels = {each.id.rpartition("/")[2]: images[row]["label"].tolist() for row, each in enumerate(images.facts)}
    assert labels == {name: hot for name, hot in truth.items() if any(hot) or "index" in words}


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        ("file,blue\n0.png,-1\n1.png,1\n", DataError, "whether -1 is absent"),
        ("file,blue\n0.png,maybe\n", DataError, "a column of 0 and 1 each"),
        ("file,labels\n0.png,pink\n", ConfigurationError, r"\['pink'\] of the files are none of the model's"),
        ("file,blue\ngone.png,1\n", DataError, "1 images that do not exist"),
    ],
)
def test_open_marked__refuses_what_can_be_read_in_two_ways(squares, tmp_path, content, error, said):
    (tmp_path / "images").symlink_to(squares / "images")
    (tmp_path / "index.csv").write_text(content)
    with pytest.raises(error, match=said):
        open_marked(tmp_path, None, NAMES, boxes=False, images="images", index="index.csv")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--task", "detection", "--annotations", "boxes.csv"], "Which number a detector gives"),
        (["--task", "captioning"], "not of --task captioning"),
        (["--task", "regression", "--index", "hot.csv", "--label-column", "file"], r"numbers; got '0.png'"),
        (["--task", "multi_label", "--index", "hot.csv", "--metrics"], "--metrics asks one label an image"),
    ],
)
def test_audit__refuses_in_words(squares, tmp_path, words, said):
    with pytest.raises(SystemExit, match=said):
        audited(squares, tmp_path, "Boxes", *words)
