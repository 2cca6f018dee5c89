"""The zoo's judge: right, refused and silently wrong maps of networks for which that is known."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
import zoo
from _zoo_networks import Specimen, images
from torch import nn

from camtrain.cam import Layer, layers

ROOT = Path(__file__).resolve().parents[2]


def plain():
    return nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


def specimen(build):
    return Specimen("own", "plain", "plain", build, partial(images, (3, 32, 32)))


def test_examine__of_a_plain_network_is_right():
    row = zoo.examine(specimen(plain), 1)
    assert (row["verdict"], row["layer"], row["grid"]) == ("right", "0", "8x8"), row
    assert row["cost"] > 0


def test_examine__of_a_network_without_a_map_is_refused():
    row = zoo.examine(specimen(lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 1024, 3))), 1)
    assert row["verdict"] == "refused"
    assert "No layer of Sequential has a map" in row["note"]


class Turned(nn.Module):
    def forward(self, x):
        return x.flip(-1)


class Keeping(nn.Sequential):
    def forward(self, x):
        self[0].weight.data.add_(1e-3)
        return super().forward(x)


def test_examine__of_a_network_that_changes_is_wrong():
    row = zoo.examine(specimen(lambda: Keeping(*plain())), 1)
    assert row["verdict"] == "silent wrong"
    assert "left behind" in row["note"]


def test_places_held__of_a_map_that_is_turned_are_few():
    net = nn.Sequential(nn.Conv2d(3, 8, 4, 4), Turned()).eval()
    straight, turned = (Layer(name, net[int(name)]) for name in "01")
    assert zoo.places_held(specimen(plain), net, straight, (8, 8)) == (9, 9)
    held, count = zoo.places_held(specimen(plain), net, turned, (8, 8))
    assert held <= count / 3


def test_examine__of_a_reading_that_is_wrong_says_so(monkeypatch):
    def transposed(layouts):
        return layers.Layout("channels first", layouts.grid, lambda tensor: tensor.transpose(-1, -2))

    capture = zoo.capture

    def misread(net, inputs):
        captured = capture(net, inputs)
        (layer,) = captured.layers
        object.__setattr__(layer, "layout", transposed(layer.layout))
        return captured

    monkeypatch.setattr(zoo, "capture", misread)
    monkeypatch.setattr(zoo, "_is_of_a_convolution", lambda layer: False)
    row = zoo.examine(specimen(plain), 1)
    assert row["verdict"] == "silent wrong"
    assert "places hold" in row["note"]


@pytest.mark.parametrize("name", ["zoo_quick_cpu.json"])
def test_families__in_the_docs_are_those_that_were_measured(name):
    content = json.loads((ROOT / "benchmarks" / "results" / name).read_text())
    text = (ROOT / "docs" / "architectures.md").read_text()
    assert zoo.families(content["rows"]) in text
    summary = content["summary"]
    assert summary["right"] + summary["refused"] + summary["silent_wrong"] == summary["models"]
    assert f"{summary['models']} networks, {summary['right']} right" in text


class Exploding(nn.Module):
    """Two branches multiplied time and again, as StarNet's: what is large becomes larger than float32 can count."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, bias=False)
        self.conv.weight.data.fill_(0.01)
        self.conv.weight.data[:, :, 0, 0] *= -1

    def forward(self, x):
        value = self.conv(x)
        for _ in range(6):
            value = value * value.flip(1)
        return (3 + value).cos().mean((2, 3))


@pytest.mark.parametrize(("build", "grows"), [(Exploding, False), (plain, True)], ids=["exploding", "plain"])
def test_awake__enlarges_weights_where_float32_can_count(build, grows):
    net = zoo.awake(specimen(build), 9 * specimen(build).inputs(2))
    torch.manual_seed(0)
    before, after = (next(module.parameters()).abs().sum() for module in (build(), net))
    assert bool(after > 1.01 * before) is grows


def test_disturbed__changes_its_part_alone():
    image = torch.zeros(1, 3, 6, 6)
    changed = zoo.disturbed(image, (2, 3), (1, 2), (3, 3))
    assert (changed != image).nonzero()[:, 2:].amin(dim=0).tolist() == [2, 4]
    assert (changed != image).nonzero()[:, 2:].amax(dim=0).tolist() == [3, 5]
