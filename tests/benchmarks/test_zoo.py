"""The zoo's judge: right, refused and silently wrong maps of networks for which that is known."""

import json
import time
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

    def misread(*args):
        captured = capture(*args)
        (layer,) = captured.layers
        object.__setattr__(layer, "layout", transposed(layer.layout))
        return captured

    monkeypatch.setattr(zoo, "capture", misread)
    monkeypatch.setattr(zoo, "_is_of_a_convolution", lambda layer: False)
    row = zoo.examine(specimen(plain), 1)
    assert row["verdict"] == "silent wrong"
    assert "places hold" in row["note"]


@pytest.mark.parametrize("name", ["zoo_cpu.json", "zoo_quick_cpu.json"])
def test_families__in_the_docs_are_those_that_were_measured(name):
    content = json.loads((ROOT / "benchmarks" / "results" / name).read_text())
    text = (ROOT / "docs" / "architectures.md").read_text()
    assert zoo.families(content["rows"]) in text
    summary = content["summary"]
    assert sum(summary.get(verdict.replace(" ", "_"), 0) for verdict in zoo.COUNTED) == summary["models"]
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
        for _ in range(3):
            value = value * value.flip(1)
        return (3 + value).cos().mean((2, 3))


def test_examine__leaves_to_float32_what_float32_cannot_count():
    loud = Specimen("own", "exploding", "exploding", Exploding, lambda count: 9 * images((3, 32, 32), count))
    row = zoo.examine(loud, 1)
    assert (row["verdict"], row["reference"]) == ("right", "each in its precision"), row


@pytest.mark.parametrize("build", [Exploding, plain])
def test_examine__of_another_gradient_says_so(monkeypatch, build):
    def other(net, images, *args):
        captured = capture(net, images, *args)
        captured.gradients[0].mul_(1.01)
        return captured

    capture = zoo.capture
    monkeypatch.setattr(zoo, "capture", other)
    row = zoo.examine(Specimen("own", "own", "own", build, lambda count: 9 * images((3, 32, 32), count)), 1)
    assert (row["verdict"], row["note"]) == ("silent wrong", "gradients differ from the whole graph's")


def test_examine__ends_where_the_time_is_over():
    def slow():
        time.sleep(5)
        return plain()

    assert zoo.examine(specimen(slow), 1, limit=1)["verdict"] == "too slow"


def test_traces__of_a_network_that_cannot_be_copied_any_more(monkeypatch):
    net, twin = plain().eval(), plain().eval()
    twin.load_state_dict(net.state_dict())
    x = torch.rand(2, 3, 32, 32)
    assert zoo.traces(net, twin, x, "test_vit") == dict.fromkeys(
        ("compiled", "logits", "copied", "saved", "averaged"), True
    )
    net.cache = {2: torch.ones(2, requires_grad=True) * 2}
    traces = zoo.traces(net, twin, x, "")
    assert (traces["copied"], traces["averaged"], traces["logits"]) == (False, False, True)
    net[0].weight.data.mul_(1.001)
    assert zoo.traces(net, twin, x, "")["logits"] is False


def test_disturbed__changes_its_part_alone():
    image = torch.zeros(1, 3, 6, 6)
    changed = zoo.disturbed(image, (2, 3), (1, 2), (3, 3))
    assert (changed != image).nonzero()[:, 2:].amin(dim=0).tolist() == [2, 4]
    assert (changed != image).nonzero()[:, 2:].amax(dim=0).tolist() == [3, 5]
