"""A network with one logit, that of the second of two classes, is read as one with two."""

import csv
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from camtrain import explain
from camtrain.cli import main
from camtrain.cli.images import read_transformed
from camtrain.data.files import read_image
from camtrain.data.transforms import eval_transform
from camtrain.networks import SmallResNet
from camtrain.render import overlay

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class OneLogit(torch.nn.Module):
    """Between boats and cars: a logit `(B, 1)`."""

    def __init__(self, num_classes: int = 1) -> None:
        super().__init__()
        self.net = SmallResNet(1, width=4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 20 * self.net(images) - self.shift

    shift = 0.0


class TwoLogits(OneLogit):
    """The same written with two: 0 for boats, the logit for cars."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logit = super().forward(images)
        return torch.cat([torch.zeros_like(logit), logit], dim=1)


@pytest.fixture
def two(photos):
    """Photographs of two classes only."""
    for kind in ("images", "masks"):
        shutil.rmtree(photos / kind / "hen")
    return photos


@pytest.fixture
def weights(tmp_path, two, monkeypatch):
    torch.manual_seed(3)
    network = OneLogit()
    images = [read_transformed(path, eval_transform(32)) for path in sorted((two / "images").rglob("*.jpg"))]
    with torch.no_grad():
        logits = network.eval()(torch.stack(images)).flatten()
    monkeypatch.setattr(OneLogit, "shift", float(logits.median()))  # some are taken for either
    torch.save(network.state_dict(), tmp_path / "one.pth")
    return str(tmp_path / "one.pth")


def words_of(kind, weights):
    return ["--model", f"{__name__}.{kind.__name__}", "--weights", weights, "--size", "32", "--device", "cpu"]


def network_of(weights):
    network = OneLogit()
    network.load_state_dict(torch.load(weights, weights_only=True))
    return network.eval()


def test_explain__says_what_it_takes_a_single_logit_for(two, weights, tmp_path, capsys):
    words = [str(two / "images" / "boat" / "0.jpg"), *words_of(OneLogit, weights), "--json", "--out", str(tmp_path)]
    main(["explain", *words])
    guessed = capsys.readouterr()
    main(["explain", *words, "--task", "binary"])
    named = capsys.readouterr()
    assert "second of two classes" in guessed.err
    assert "second of two classes" not in named.err
    assert guessed.out == named.out


def test_explain__of_a_single_logit_shows_the_evidence_for_the_answer_given(two, weights, tmp_path, capsys):
    (tmp_path / "names.txt").write_text("boat\ncar\n")
    paths = sorted((two / "images").rglob("*.jpg"))
    words = [
        *map(str, paths),
        *words_of(OneLogit, weights),
        "--task",
        "binary",
        "--classes",
        str(tmp_path / "names.txt"),
    ]
    main(["explain", *words, "--out", str(tmp_path / "out"), "--format", "png", "--json"])
    answers = json.loads(capsys.readouterr().out)
    assert {answer["predicted"] for answer in answers} == {"boat", "car"}
    network = network_of(weights)
    for path, answer in zip(paths, answers, strict=True):
        image = read_transformed(path, eval_transform(32)).unsqueeze(0)
        logit = float(network(image))
        sign = 1 if logit > 0 else -1
        assert answer["predicted"] == ("car" if sign > 0 else "boat")
        assert answer["probability"] == pytest.approx(1 / (1 + np.exp(-abs(logit))), abs=1e-5)
        heat = explain(network, image, methods="grad_cam", target=lambda logits, _, s=sign: s * logits[:, 0])
        expected = overlay(read_image(path).unsqueeze(0), heat.heatmaps["grad_cam"])[0].permute(1, 2, 0).numpy()
        assert np.array_equal(cv2.imread(answer["overlays"]["grad_cam"])[..., ::-1], expected)


def test_audit__of_a_single_logit_is_that_of_the_same_network_with_two(two, weights, tmp_path, capsys):
    tables = []
    for kind in (OneLogit, TwoLogits):
        words = [str(two), "--images", "images", "--masks", "masks", *words_of(kind, weights), "--table", "t.csv"]
        main(["audit", *words, "--out", str(tmp_path / kind.__name__), "--json"])
        found = json.loads(capsys.readouterr().out)
        with Path(found["table"]).open(newline="") as file:
            tables.append((found["camtrain/accuracy/after"], list(csv.DictReader(file))))
    (accuracy, rows), (expected_accuracy, expected) = tables
    assert accuracy == expected_accuracy
    assert 0 < sum(row["predicted"] == "car" for row in rows) < len(rows)
    for row, other in zip(rows, expected, strict=True):
        assert (row["sample"], row["predicted"], row["true"]) == (other["sample"], other["predicted"], other["true"])


def test_audit__refuses_metrics_of_a_single_logit_which_would_be_those_of_another_answer(two, weights, tmp_path):
    words = [str(two), "--images", "images", *words_of(OneLogit, weights), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="--metrics asks a logit of each class; this network has one"):
        main(["audit", *words, "--metrics"])


def test_audit__refuses_a_task_that_it_does_not_tell(two, weights, tmp_path):
    words = [str(two), "--images", "images", *words_of(TwoLogits, weights), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="task='captions' is none: give 'auto', a Task, or one of 'single_label'"):
        main(["audit", *words, "--task", "captions"])
