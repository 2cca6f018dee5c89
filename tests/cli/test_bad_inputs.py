"""What cannot be meant ends every command with one line that names it, and an exit code that is not 0."""

import pickle
import shutil

import pytest
import torch

from camtrain.cli import main
from camtrain.networks import SmallResNet
from camtrain.render.film import write_video

NETWORK = ["--model", "camtrain.networks.SmallResNet", "--size", "32"]


@pytest.fixture
def place(photos, model, tmp_path, monkeypatch):
    """A folder with what is right and what is not, to work in."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(photos / "images" / "boat" / "0.jpg", "ok.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "ok.jpg").read_bytes()[:300])
    for name in ("junk.jpg", "junk.pth", "junk.mp4"):
        (tmp_path / name).write_text("junk")
    for name in ("empty", "corrupt/boat", "run", "flat", "broken"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copy("cut.jpg", "corrupt/boat/7.jpg")
    shutil.copy("ok.jpg", "flat/1.jpg")
    (tmp_path / "run" / "scalars.jsonl").write_text('{"kind": "scal')
    (tmp_path / "broken" / "scalars.jsonl").write_text('[1, 2]\n{"a": 1}\n')
    (tmp_path / "none.txt").touch()
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    torch.save([1, 2], "list.pth")
    torch.save({"other.weight": torch.zeros(2)}, "other.pth")
    torch.save(SmallResNet(3), "whole.pth")
    with (tmp_path / "pickled.pth").open("wb") as file:
        pickle.dump(SmallResNet, file)
    write_video((torch.zeros(3, 32, 32, dtype=torch.uint8) for _ in range(2)), tmp_path / "ok.mp4")
    return tmp_path


def ending(words, capsys):
    """The exit code and the line that a command ends with."""
    with pytest.raises(SystemExit) as stopped:
        main(words)
    if stopped.value.code == 2:
        return 2, capsys.readouterr().err.strip().splitlines()[-1]
    assert isinstance(stopped.value.code, str), stopped.value.code  # Python prints it, and exits with 1
    return 1, stopped.value.code


def expect(words, said, capsys, *, code=1):
    found, line = ending(words, capsys)
    assert found == code
    assert "\n" not in line
    for part in said:
        assert part in line


SUBJECTS = {"audit": "flat", "explain": "ok.jpg", "film": "ok.mp4"}


@pytest.mark.parametrize("command", SUBJECTS)
@pytest.mark.parametrize(
    ("model", "weights", "said"),
    [
        ("torchvision:resnet19", None, ["'resnet19'", "closest: 'resnet18'"]),
        ("nowhere.Net", None, ["'nowhere.Net'"]),
        ("elsewhere:net", None, ["'torchvision:' or 'timm:'", "'elsewhere:net'"]),
        ("camtrain.networks.SmallResNet", "gone.pth", ["No weights file gone.pth"]),
        ("camtrain.networks.SmallResNet", "junk.pth", ["junk.pth cannot be read as weights", "state_dict()"]),
        ("camtrain.networks.SmallResNet", "ok.jpg", ["ok.jpg cannot be read as weights"]),
        ("camtrain.networks.SmallResNet", "pickled.pth", ["pickled.pth cannot be read as weights"]),
        ("camtrain.networks.SmallResNet", "whole.pth", ["whole.pth cannot be read as weights"]),
        ("camtrain.networks.SmallResNet", "list.pth", ["list.pth holds a list", "state_dict()"]),
        ("camtrain.networks.SmallResNet", "other.pth", ["Nothing in other.pth fits"]),
        ("camtrain.module.ImageClassifier", None, ["give its checkpoint with --weights"]),
        ("camtrain.module.ImageClassifier", "junk.pth", ["junk.pth cannot be read as weights"]),
        ("camtrain.module.ImageClassifier", "other.pth", ["other.pth is no checkpoint of Lightning"]),
    ],
)
def test_models__that_cannot_be_meant(command, model, weights, said, place, capsys):
    words = [command, SUBJECTS[command], "--model", model, "--out", "out.mp4" if command == "film" else "out"]
    expect([*words, *(["--weights", weights] if weights else []), "--device", "cpu"], said, capsys)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["audit", "gone"], ["no folder gone"]),
        (["audit", "ok.jpg"], ["no folder ok.jpg"]),
        (["audit", "empty"], ["empty holds no images"]),
        (["audit", "corrupt"], ["corrupt/boat/7.jpg cannot be read as an image", "Replace or remove"]),
        (["audit", "flat", "--masks", "gone"], ["no folder", "flat/gone", "for masks"]),
        (["audit", "flat", "--mask-suffix", "_mask"], ["No file in flat is the mask", "1_mask.png", "--mask-suffix"]),
        (["audit", "photos", "--masks", "gone"], ["no folder", "gone", "for masks"]),
        (["audit", "flat", "--index", "gone.csv"], ["no index file", "gone.csv"]),
        (["audit", "flat", "--classes", "gone.txt"], ["no file of class names gone.txt"]),
        (["audit", "flat", "--classes", "none.txt"], ["none.txt holds no class names"]),
        (["audit", "flat", "--classes", "bytes.txt"], ["bytes.txt is no text file"]),
        (["audit", "flat", "--out", "ok.jpg"], ["ok.jpg", "Name another path"]),
        (["audit", "flat", "--device", "toaster"], ["'toaster'"]),
        (["audit", "flat", "--device", "cuda:99"], ["no device cuda:99"]),
        (["explain", "gone.jpg"], ["no image gone.jpg"]),
        (["explain", "empty"], ["no image empty"]),
        (["explain", "junk.jpg"], ["junk.jpg cannot be read as an image"]),
        (["explain", "cut.jpg"], ["cut.jpg cannot be read as an image"]),
        (["explain", "ok.jpg", "--methods", "nope"], ["No method named 'nope'"]),
        (["explain", "ok.jpg", "--layers", "nope"], ["No layer named 'nope'"]),
        (["explain", "ok.jpg", "--out", "junk.jpg"], ["cannot use junk.jpg"]),
        (["explain", "ok.jpg", "--device", "cuda:99"], ["no device cuda:99"]),
        (["film", "gone.mp4"], ["no video or run gone.mp4"]),
        (["film", "junk.mp4"], ["junk.mp4 is not a video"]),
        (["film", "empty"], ["empty holds 0 runs"]),
        (["film", "broken"], ["broken holds no probes"]),
        (["film", "ok.mp4", "--out", "a.avi"], ["as .mp4 or .gif", "'a.avi'"]),
    ],
)
def test_words__that_name_what_cannot_be_used(words, said, place, capsys):
    expect([*words, *NETWORK], said, capsys)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["compare", "gone"], ["There is no run gone"]),
        (["compare", "empty"], ["empty holds 0 runs"]),
        (["compare", "run"], ["run holds no record"]),
        (["compare", "broken"], ["broken holds no record"]),
        (["canary", "gone", "--kind", "corner"], ["no folder gone"]),
        (["canary", "empty", "--kind", "corner"], ["empty holds no images in class folders"]),
        (["canary", "flat", "--kind", "corner"], ["flat holds no images in class folders"]),
        (["canary", "corrupt", "--kind", "corner"], ["corrupt/boat/7.jpg cannot be read"]),
        (["canary", "photos", "--kind", "smell"], ["'smell'", "corner, watermark"]),
    ],
)
def test_words__of_commands_without_a_model(words, said, place, capsys):
    expect(words, said, capsys)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["audit", "flat", *NETWORK, "--batch-size", "0"], ["--batch-size", "'0' is no whole number of at least 1"]),
        (["audit", "flat", *NETWORK, "--workers", "-1"], ["--workers", "at least 0"]),
        (["audit", "flat", *NETWORK, "--devices", "0"], ["--devices"]),
        (["audit", "flat", *NETWORK, "--num-probes", "-1"], ["--num-probes"]),
        (["explain", "ok.jpg", *NETWORK, "--std", "0", "0", "0"], ["--std", "'0' is no number above 0"]),
        (["explain", "ok.jpg", "--model", "a.B", "--size", "0"], ["--size", "'0'"]),
        (["film", "ok.mp4", *NETWORK, "--fps", "0"], ["--fps"]),
        (["film", "ok.mp4", *NETWORK, "--frames", "-1"], ["--frames"]),
        (["film", "ok.mp4", *NETWORK, "--batch-size", "none"], ["--batch-size", "'none'"]),
        (["canary", "photos", "--kind", "corner", "--show", "-2"], ["--show", "'-2'"]),
        (["canary", "photos"], ["--kind"]),
    ],
)
def test_words__out_of_range_exit_with_2(words, said, place, capsys):
    expect(words, said, capsys, code=2)


def test_compare__into_a_folder_says_so(place, capsys):
    (place / "run" / "scalars.jsonl").write_text('{"kind": "scalars", "epoch": 0, "step": 0, "values": {"a": 1.0}}\n')
    expect(["compare", "run", "--out", "empty"], ["IsADirectoryError: cannot use empty"], capsys)
