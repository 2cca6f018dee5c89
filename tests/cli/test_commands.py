"""explain, compare and film, and the help of all commands."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import SqueezeNet1_1_Weights

from camtrain import explain
from camtrain.cli import main
from camtrain.cli.images import read_transformed
from camtrain.data.files import read_image
from camtrain.data.transforms import eval_transform
from camtrain.loading import load_model
from camtrain.networks import SmallResNet
from camtrain.render import overlay
from camtrain.render.film import frame_rate, read_video, write_video
from camtrain.sinks import HEATMAPS, FilesSink, Panels, Scalars


@pytest.mark.parametrize("name", ["audit", "explain", "compare", "film", "canary"])
def test_help__has_an_example(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    assert f"example: camtrain {name} " in capsys.readouterr().out


@pytest.mark.parametrize("words", [["explain"], ["audit", "--nonsense"], ["film", "a.mp4", "--fps", "x"]])
def test_words__that_are_not_understood_exit_with_2(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2


def test_explain__writes_the_overlays_that_explain_gives(capsys, photos, model, names, tmp_path):
    images = [photos / "images" / "boat" / "0.jpg", photos / "images" / "car" / "1.jpg"]
    words = [*map(str, images), *model, *names, "--out", str(tmp_path / "out"), "--format", "png", "--json"]
    main(["explain", *words, "--device", "cpu", "--target", "car"])
    answers = json.loads(capsys.readouterr().out)
    network = load_model(model[1], model[3], 3)
    for path, answer in zip(images, answers, strict=True):
        image = read_transformed(path, eval_transform(32)).unsqueeze(0)
        found = explain(network, image, methods="grad_cam", target=lambda logits, _: logits[:, 1])
        expected = overlay(read_image(path).unsqueeze(0), found.heatmaps["grad_cam"])[0].permute(1, 2, 0).numpy()
        written = cv2.imread(answer["overlays"]["grad_cam"])[..., ::-1]
        assert np.array_equal(written, expected)
        assert answer["predicted"] == ["boat", "car", "hen"][int(found.logits.argmax())]


def test_explain__prints_a_table(capsys, photos, model, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    path = photos / "images" / "boat" / "0.jpg"
    main(["explain", str(path), *model, "--out", str(tmp_path / "out"), "--device", "cpu"])
    said = capsys.readouterr().out
    assert "class " in said
    assert "0-grad_cam.jpg" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["gone.jpg"], "There is no image gone.jpg"),
        (["IMAGE", "--target", "cow"], "No class is called 'cow'"),
        (["IMAGE", "--device", "toaster"], "No device is called 'toaster'"),
        (["IMAGE", "--layers", "blockz"], "No layer"),
    ],
)
def test_explain__ends_with_the_message_of_a_mistake(photos, model, words, said):
    words = [str(photos / "images" / "boat" / "0.jpg") if word == "IMAGE" else word for word in words]
    with pytest.raises(SystemExit, match=said):
        main(["explain", *words, *model])


@pytest.fixture
def other(tmp_path):
    torch.manual_seed(5)
    torch.save(SmallResNet(3).state_dict(), tmp_path / "other.pth")
    return ["--model", "camtrain.networks.SmallResNet", "--weights", str(tmp_path / "other.pth")]


def test_explain__puts_several_models_side_by_side(capsys, photos, model, other, names, tmp_path):
    paths = [photos / "images" / "boat" / "0.jpg", photos / "images" / "car" / "1.jpg"]
    words = [*map(str, paths), *model, *other, *names, "--out", str(tmp_path / "out"), "--format", "png", "--json"]
    main(["explain", *words, "--names", "old", "new", "--device", "cpu"])
    answers = json.loads(capsys.readouterr().out)
    assert [(answer["model"], answer["image"]) for answer in answers] == [
        (name, str(path)) for name in ("old", "new") for path in paths
    ]
    for answer, weights in zip(answers, [model[3], model[3], other[3], other[3]], strict=True):
        network = load_model(model[1], weights, 3)
        explanation = explain(network, read_transformed(Path(answer["image"]), eval_transform(32)).unsqueeze(0))
        assert answer["predicted"] == ["boat", "car", "hen"][int(explanation.logits.argmax())]
        original = read_image(Path(answer["image"])).unsqueeze(0)
        expected = overlay(original, explanation.heatmaps["grad_cam"])[0].permute(1, 2, 0).numpy()
        assert np.array_equal(cv2.imread(answer["overlays"]["grad_cam"])[..., ::-1], expected)
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        page = np.asarray(sheet)
    left, top = 140 + 2 * 192 + 2 + 16 + 192 + 2, 42 + 24  # the second model's overlay of the first image
    fitted = Image.fromarray(cv2.imread(answers[2]["overlays"]["grad_cam"])[..., ::-1]).resize((192, 144), 0)
    assert np.array_equal(page[top : top + 144, left : left + 192], np.asarray(fitted))


def test_explain__asks_for_weights_of_each_of_several_models(photos, model, other, capsys):
    words = ["explain", str(photos / "images" / "boat" / "0.jpg"), *model, "--model", "torchvision:resnet18"]
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert "--weights: 1 for 2; give one for each" in capsys.readouterr().err


def test_explain__names_the_classes_as_the_zoo_does(capsys, photos, tmp_path, caplog):
    words = ["--model", "torchvision:squeezenet1_1", "--size", "64", "--out", str(tmp_path / "out"), "--json"]
    path = str(photos / "images" / "boat" / "0.jpg")
    main(["explain", path, *words, "--target", "Egyptian cat", "--device", "cpu"])
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["predicted"] in SqueezeNet1_1_Weights.DEFAULT.meta["categories"]
    assert caplog.text.count("torchvision:squeezenet1_1 has random weights") == 1


def test_explain__does_not_guess_which_of_two_classes_of_one_name_is_meant(photos, model, tmp_path):
    (tmp_path / "names.txt").write_text("hen\ncar\nhen\n")
    words = [str(photos / "images" / "boat" / "0.jpg"), *model, "--classes", str(tmp_path / "names.txt")]
    with pytest.raises(SystemExit, match=r"'hen' is the name of the classes \[0, 2\]: give one of these"):
        main(["explain", *words, "--target", "hen"])


def test_explain__says_nothing_of_random_weights_where_some_are_given(photos, model, tmp_path, caplog):
    main(
        ["explain", str(photos / "images" / "boat" / "0.jpg"), *model, "--out", str(tmp_path / "o"), "--device", "cpu"]
    )
    assert "--weights" not in caplog.text


@pytest.fixture
def runs(tmp_path):
    from tests.sinks.conftest import one_pass

    for name, energy in (("before", 0.2), ("after", 0.7)):
        sink = FilesSink(tmp_path / name / "camtrain")
        for epoch in range(3):
            sink.write(*one_pass(epoch, epoch, energy=energy))
    return tmp_path


def test_compare__shows_the_same_probes_of_both_runs(runs, capsys):
    main(["compare", str(runs / "before" / "camtrain"), str(runs / "after"), "--out", str(runs / "c.html"), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["runs"] == ["before", "after"]
    assert found["numbers"]["Inside energy, grad_cam"] == [0.2, 0.7]
    assert found["verdicts"]["boat"] == ["reliant", "reliant"]
    main(["compare", str(runs / "before"), str(runs / "after"), "--out", str(runs / "c.html")])
    assert re.search(r"boat +│ reliant \(", capsys.readouterr().out)
    html = (runs / "c.html").read_text()
    assert html.count('alt="epoch 0"') == html.count('alt="epoch 2"') == 4  # two probes in two runs
    assert "http" not in html
    assert html.count("<svg") == 3
    assert html.count("</span> –</td>") == 2  # the effect on cars, of which there are too few
    assert "nan" not in re.sub(r"data:[^\"]*", "", html)


def test_compare__calls_runs_as_it_is_told(runs, capsys):
    words = [str(runs / "before"), str(runs / "after"), "--out", str(runs / "c.html"), "--names", "plain", "aligned"]
    main(["compare", *words, "--json"])
    assert json.loads(capsys.readouterr().out)["runs"] == ["plain", "aligned"]
    assert "aligned" in (runs / "c.html").read_text()
    with pytest.raises(SystemExit) as stopped:
        main(["compare", *words[:-1]])
    assert stopped.value.code == 2
    assert "--names: 1 for 2; give one for each" in capsys.readouterr().err


def test_compare__of_runs_with_other_probes_leaves_gaps(runs, make_one_panel, capsys):
    sink = FilesSink(runs / "other")
    sink.write(Panels(HEATMAPS, (make_one_panel("mine"),), 0, 0), Scalars({"val/accuracy": 0.5}, 0, 0))
    main(["compare", str(runs / "before"), str(runs / "other"), "--out", str(runs / "c.html")])
    assert "50.0 %" in capsys.readouterr().out
    assert (runs / "c.html").read_text().count("<td>–</td>") >= 3


@pytest.fixture
def make_one_panel():
    from tests.sinks.conftest import panel

    return panel


def test_compare__shows_a_run_of_one_epoch_once(runs, make_one_panel):
    FilesSink(runs / "one" / "camtrain").write(
        Panels(HEATMAPS, (make_one_panel("mine"),), 0, 0), Scalars({"val/accuracy": 0.5}, 0, 0)
    )
    main(["compare", str(runs / "one"), str(runs / "one"), "--out", str(runs / "c.html")])
    assert (runs / "c.html").read_text().count('alt="epoch 0"') == 2


def test_compare__takes_the_records_of_a_test_for_a_part_of_its_run(runs, capsys):
    for name in ("before", "after"):
        FilesSink(runs / name / "camtrain" / "test").write(Scalars({"test/accuracy": 0.5}, 3, 3))
    main(["compare", str(runs / "before"), str(runs / "after"), "--out", str(runs / "c.html"), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["runs"] == ["before", "after"]
    assert found["numbers"]["Inside energy, grad_cam"] == [0.2, 0.7]
    with pytest.raises(SystemExit, match="holds 2 runs; name the folder of one"):
        main(["compare", str(runs)])


def test_compare__asks_for_one_run(runs):
    with pytest.raises(SystemExit, match="holds 2 runs; name the folder of one"):
        main(["compare", str(runs)])


def moving(count=5, size=(33, 48)):
    for index in range(count):
        frame = torch.zeros(3, *size, dtype=torch.uint8)
        frame[0, :, : 8 * (index + 1)] = 200
        yield frame


@pytest.mark.parametrize("name", ["a.mp4", "a.gif"])
def test_write_video__keeps_frames_and_rate(tmp_path, name):
    assert write_video(moving(), tmp_path / name, fps=5) == 5
    if name.endswith("gif"):
        with Image.open(tmp_path / name) as film:
            assert (film.n_frames, film.info["duration"]) == (5, 200)
        return
    frames = list(read_video(tmp_path / name))
    assert [frame.shape for frame in frames] == [(32, 48, 3)] * 5
    assert frame_rate(tmp_path / name) == 5
    assert [int(frame[16, 4 + 8 * index, 0] > 150) for index, frame in enumerate(frames)] == [1] * 5


@pytest.mark.parametrize(
    ("frames", "name", "said"), [(moving(), "a.avi", "as .mp4 or .gif"), ((), "a.gif", "no frame to write")]
)
def test_write_video__says_what_is_wrong(tmp_path, frames, name, said):
    with pytest.raises(ValueError, match=said):
        write_video(iter(frames), tmp_path / name)


def test_film__paints_heatmaps_over_a_video(tmp_path, model, capsys):
    write_video(moving(), tmp_path / "in.mp4", fps=5)
    words = [str(tmp_path / "in.mp4"), *model, "--out", str(tmp_path / "out.mp4"), "--batch-size", "2", "--json"]
    main(["film", *words, "--device", "cpu", "--frames", "4"])
    assert json.loads(capsys.readouterr().out)["frames"] == 4
    before, after = (next(iter(read_video(tmp_path / name))).astype(int) for name in ("in.mp4", "out.mp4"))
    assert after.shape == (6 * 32 + 22, 6 * 48, 3)  # enlarged to be read, and a line below
    assert abs(before.repeat(6, 0).repeat(6, 1) - after[: 6 * 32]).max() > 50


@pytest.mark.parametrize("folder", ["before/camtrain", "before"])
def test_film__of_a_run_shows_a_probe_over_its_epochs(runs, capsys, folder):
    main(["film", str(runs / folder), "--sample", "s1", "--out", str(runs / "s1.gif")])
    assert "3 frames in" in capsys.readouterr().out
    with Image.open(runs / "s1.gif") as film:
        assert film.size == (256, 256 + 22)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["before/camtrain", "--sample", "s9"], "No probe 's9' in .*; it has s0, s1"),
        (["gone.mp4"], "There is no video or run"),
        (["before/camtrain/scalars.jsonl"], "--model"),
    ],
)
def test_film__ends_with_the_message_of_a_mistake(runs, monkeypatch, words, said):
    monkeypatch.chdir(runs)
    with pytest.raises(SystemExit, match=said):
        main(["film", *words])
