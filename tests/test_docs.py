"""The tutorial runs as it stands, and the documentation names what exists."""

import json
import re

import pytest
import yaml

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
    assert sorted(pages(nav)) == sorted(path.name for path in DOCS.iterdir() if path.is_file())


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
