"""Every example runs, draws its picture, and its heatmaps sit where they should after a short training."""

import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def run(monkeypatch, tmp_path):
    """`run(name)`: the numbers an example prints; its picture must be there."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def run(name: str) -> dict[str, float]:
        numbers = importlib.import_module(name).main(["--quick", "--out", str(tmp_path)])
        picture = tmp_path / f"{name}.png"
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert picture.stat().st_size > 20_000
        return numbers

    return run


def test_classification__has_its_energy_on_the_object(run):
    numbers = run("classification")
    assert numbers["accuracy"] > 0.9
    assert all(
        numbers[name] > 1.6 * numbers["chance"] for name in ("grad_cam", "grad_cam_plus_plus", "contribution_cam")
    )


def test_multi_label__finds_each_label_on_its_object(run):
    numbers = run("multi_label")
    assert numbers["on_its_object"] > 2 * max(numbers["chance"], numbers["on_another_object"])


def test_regression__reads_the_red_object(run):
    numbers = run("regression")
    assert numbers["error"] < 0.4 * numbers["error_of_the_mean"]
    assert numbers["on_the_red_object"] > 2 * max(numbers["chance"], numbers["on_the_other_two"])


def test_embedding_similarity__finds_the_reference(run):
    numbers = run("embedding_similarity")
    assert numbers["on_the_object_asked_for"] > 2.5 * max(numbers["chance"], numbers["on_the_other_object"])


def test_segmentation__looks_at_the_region(run):
    numbers = run("segmentation")
    assert numbers["on_its_object"] > 2 * max(numbers["chance"], numbers["on_the_other"])


def test_detection__looks_at_the_box(run):
    numbers = run("detection")
    assert numbers["on_its_object"] > 2 * max(numbers["chance"], numbers["on_the_other"])


def test_captioning__reads_each_word_from_its_object(run):
    numbers = run("captioning")
    assert numbers["words_right"] > 0.6
    assert numbers["on_its_object"] > 1.5 * max(numbers["chance"], numbers["on_the_other"])


def test_vqa__looks_where_the_question_points(run):
    numbers = run("vqa")
    assert numbers["answers_right"] > 0.8
    assert numbers["on_the_object_asked_about"] > 3 * max(numbers["chance"], numbers["on_the_other"])


def test_video__ranks_the_event_s_frames_first(run):
    numbers = run("video")
    assert numbers["accuracy"] > 0.9
    assert numbers["event_among_the_first_three"] > 2 * numbers["event_by_chance"]


def test_counterfactual__covering_the_rival_raises_the_class(run):
    numbers = run("counterfactual")
    assert numbers["counterfactual_on_the_rival"] > 2 * numbers["counterfactual_on_the_object"]
    assert numbers["probability_with_the_rival_covered"] > numbers["probability_before"] + 0.02
    assert numbers["probability_with_another_place_covered"] < numbers["probability_with_the_rival_covered"] - 0.02


def test_plain_loop__learns_the_object_with_alignment_alone(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    accuracies = importlib.import_module("plain_loop").main(["--steps", "100"])
    assert accuracies["plain"] < 0.7 < 0.95 < accuracies["both"]
    assert accuracies["twins"] > 0.9


def test_corrected__trains_sees_flags_and_corrects(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(FOLDER))
    arguments = ["--quick", "--task", "binary", "--out", str(tmp_path)]
    numbers = importlib.import_module("corrected").main(arguments)
    assert set(numbers) == {"flagged", "before", "after"}
    assert len(list(tmp_path.glob("before/**/report.html"))) == 1
