"""The tutorial runs as it stands, and the documentation names what exists."""

import importlib
import importlib.util
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import camtrain
from tests.layout import ROOT

DOCS = ROOT / "docs"
TUTORIAL = json.loads((DOCS / "tutorial.ipynb").read_text())
CODE = ["".join(cell["source"]) for cell in TUTORIAL["cells"] if cell["cell_type"] == "code"]


@pytest.mark.filterwarnings("ignore::Warning")
def test_tutorial__runs_on_fewer_images(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "tutorial"}
    for cell in CODE:
        small = cell.replace(
            "train_size=400, val_size=400 // 2", "train_size=32, val_size=16, test_size=1, image_size=48"
        )
        exec(small.replace("max_epochs=3", "max_epochs=1"), names)
    assert (tmp_path / "tutorial" / "camtrain_logs" / "report.html").is_file()
    assert "right, inside energy" in capsys.readouterr().out
    assert names["explanation"]._repr_html_().count("<img") == 12


def test_tutorial__was_executed_and_shows_pictures():
    outputs = [output for cell in TUTORIAL["cells"] for output in cell.get("outputs", [])]
    assert any("<img" in "".join(output.get("data", {}).get("text/html", "")) for output in outputs)
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert "/opt/" not in json.dumps(TUTORIAL)


def pages(tree):
    if isinstance(tree, str):
        return [tree]
    return [page for branch in (tree.values() if isinstance(tree, dict) else tree) for page in pages(branch)]


def test_nav__lists_every_page():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    assert sorted(pages(nav)) == sorted(path.name for path in DOCS.iterdir() if path.suffix in (".md", ".ipynb"))


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda path: path.name)
def test_page__names_what_exists(page):
    text = page.read_text()
    for link in re.findall(r"\]\(([\w./-]+)\)", text):
        assert (DOCS / link).is_file(), link
    for path in re.findall(r"(?:configs|scripts)/[\w/.]+\w", text):
        assert (ROOT / path).is_file(), path


def test_page__of_empty_heatmaps_knows_every_state():
    from camtrain.cam import State

    text = (DOCS / "empty-heatmaps.md").read_text()
    assert set(re.findall(r"\| `([A-Z_]+)` \|", text)) == {state.name for state in State} - {"OK"}


def blocks(page):
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), flags=re.DOTALL)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_ten_lines__lead_from_a_photograph_to_a_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (260, 240, 3), np.uint8)).save("cat.jpg")
    first, second = blocks("start.md")
    assert len([line for line in first.splitlines() if line]) <= 10
    assert "resnet50(weights=weights)" in first
    exec(first.replace("resnet50(weights=weights)", "resnet50()"), {})  # nothing is downloaded
    with Image.open("cat-grad_cam.jpg") as picture:
        assert picture.size == (224, 224)
    assert "layer4" in capsys.readouterr().out
    names = {"pl": SimpleNamespace(Trainer=lambda callbacks: callbacks)}
    exec(second, names)
    assert len(names["trainer"]) == 1


PEERS = ("pytorch_grad_cam", "torchcam", "captum")


@pytest.mark.parametrize("page", ["coming-from.md", "faq.md"])
def test_pages__show_code_that_runs(page):
    network = small_network()
    images, labels = torch.rand(2, 3, 32, 32), torch.tensor([0, 1])
    ours = [block for block in blocks(page) if not any(peer in block for peer in PEERS)]
    assert ours
    for block in ours:
        exec(block, {"network": network, "images": images, "labels": labels})


def small_network():
    """With layers of the names that a ResNet has."""
    network = torch.nn.Sequential()
    network.add_module("conv", torch.nn.Conv2d(3, 8, 3, padding=1))
    network.add_module("layer4", torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3, padding=1)))
    network.add_module("pool", torch.nn.AdaptiveAvgPool2d(1))
    network.add_module("flat", torch.nn.Flatten())
    network.add_module("fc", torch.nn.Linear(8, 2))
    return network


def test_coming_from__captum_gives_the_same_heat():
    attribution = pytest.importorskip("captum.attr")
    network = small_network().eval()
    images = torch.rand(2, 3, 32, 32)
    theirs = attribution.LayerGradCam(network, network.layer4).attribute(images, target=1, relu_attributions=True)
    (block,) = [block for block in blocks("coming-from.md") if "capture(" in block]
    names = {"network": network, "images": images}
    exec(block, names)
    torch.testing.assert_close(names["heat"], theirs[:, 0].detach())


@pytest.mark.parametrize("name", re.findall(r'`"(\w+cam\w*)"`', (DOCS / "coming-from.md").read_text()))
def test_coming_from__names_methods_that_there_are(name):
    assert camtrain.explain(small_network(), torch.rand(1, 3, 32, 32), methods=name).heatmaps[name].ndim == 3


@pytest.mark.parametrize(
    "place",
    ["camtrain", "camtrain.cam", "camtrain.callbacks", "camtrain.losses", "camtrain.metrics", "camtrain.data.modules"],
)
def test_api__has_every_public_name(place):
    listed = {
        line.rpartition(".")[2]
        for page in DOCS.glob("api*.md")
        for line in page.read_text().splitlines()
        if ":::" in line
    }
    public = set(importlib.import_module(place).__all__) - {"__version__"}
    assert public <= listed


def test_api__shows_examples_as_code(tmp_path):
    text = "It adds.\n\n    Args:\n        a: one.\n\n    >>> add(1,\n    ...     1)\n    2\n\n    After."
    spec = importlib.util.spec_from_file_location("docs_examples", ROOT / "scripts" / "docs_examples.py")
    pytest.importorskip("griffe")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.fenced(text) == text.replace("    >>>", "    ```pycon\n    >>>").replace("2\n\n", "2\n    ```\n\n")
