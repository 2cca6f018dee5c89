"""Finding layers by name, and choosing and reading them by what a forward pass shows."""

import gc
import logging
import weakref

import pytest
import torch
from torch import nn

from camtrain.cam import Layer, capture, find_layers, resolve_layers
from camtrain.cam.layouts import readings
from camtrain.errors import LayerError


@pytest.mark.parametrize(
    ("shape", "frame", "grids", "expected"),
    [
        ((2, 512, 7, 7), (224, 224), [], ("channels first", (7, 7))),
        ((2, 7, 7, 768), (224, 224), [], ("channels last", (7, 7))),
        ((2, 4, 8, 64), (128, 256), [], ("channels last", (4, 8))),
        ((2, 64, 4, 8), (128, 256), [], ("channels first", (4, 8))),
        ((2, 8, 2, 10), (8, 16), [], ("channels first", (2, 10))),  # three convolutions without padding
        ((2, 512, 7, 7), (64, 128), [], ("channels first", (7, 7))),  # pooled to a fixed size
        ((2, 512, 2, 7, 7), (8, 112, 112), [], ("channels first", (2, 7, 7))),
        ((2, 2, 7, 7, 768), (8, 224, 224), [], ("channels last", (2, 7, 7))),
        ((2, 512, 7, 7), (8, 224, 224), [], ("channels first", (7, 7))),  # a video pooled over time
        ((2, 197, 768), (224, 224), [(14, 14)], ("tokens after 1 others", (14, 14))),
        ((2, 9, 768), (64, 64), [(2, 2)], ("tokens after 5 others", (2, 2))),  # not 3 x 3: 2 x 2 was seen
        ((2, 25, 768), (64, 96), [(4, 6)], ("tokens after 1 others", (4, 6))),
        ((2, 24, 768), (64, 96), [], ("tokens", (4, 6))),  # patches cut out without a convolution
        ((2, 49, 768), (224, 224), [(56, 56)], ("tokens", (7, 7))),  # tokens merged out of sight
        ((2, 393, 768), (16, 224, 224), [(8, 14, 14), (8, 7, 7)], ("tokens after 1 others", (8, 7, 7))),
        ((2, 16, 100), (400,), [], ("channels first", (100,))),
    ],
)
def test_readings__of_a_shape_are_the_one_that_fits_the_image(shape, frame, grids, expected):
    (layout,) = readings(shape, frame, tuple(grids))
    assert (layout.name, layout.grid) == expected
    assert layout.to_map(torch.zeros(shape)).shape[2:] == expected[1]


@pytest.mark.parametrize("shape", [(2, 512), (2, 512, 1, 1), (2, 1, 1, 512), (2, 3, 96), (2, 64, 49, 49, 2, 2)])
def test_readings__of_a_shape_that_is_no_map_are_none(shape):
    assert readings(shape, (224, 224), ((14, 14),)) == ()


def test_to_map__brings_tokens_and_last_channels_to_the_front():
    tokens = torch.arange(2 * 7 * 3.0).reshape(2, 7, 3)
    (layout,) = readings((2, 7, 3), (64, 96), ((2, 3),))
    assert torch.equal(layout.to_map(tokens)[1, 2], tokens[1, 1:, 2].reshape(2, 3))
    last = torch.arange(2 * 2 * 3 * 5.0).reshape(2, 2, 3, 5)
    (layout,) = readings((2, 2, 3, 5), (64, 96))
    assert torch.equal(layout.to_map(last)[1, 4], last[1, ..., 4])


@pytest.mark.parametrize("tail", ["first", "last"])
def test_resolve_layers__reads_a_shape_with_two_readings_by_where_a_change_shows(tail):
    class Odd(nn.Module):
        """Four channels on a grid of 4 x 4, in either order, behind modules that do not tell."""

        def __init__(self):
            super().__init__()
            self.kernel = nn.Parameter(torch.randn(4, 3, 8, 8))
            self.mix, self.head = Scale(), nn.Linear(4, 3)

        def forward(self, x):
            x = nn.functional.conv2d(x, self.kernel, stride=8)
            if tail == "first":
                return self.head(self.mix(x).relu().mean((2, 3)))
            return self.head(self.mix(x.permute(0, 2, 3, 1)).relu().mean((1, 2)))

    (layer,) = resolve_layers(Odd(), torch.rand(2, 3, 32, 32), "mix")
    assert layer.layout.name == f"channels {tail}"


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.factor * x


class Branches(nn.Module):
    """A body, then two branches side by side that are joined; one branch comes last."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1))
        self.left, self.right = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.body(x)
        return self.head(torch.cat([self.left(x), self.right(x)], dim=1).mean((2, 3)))


def test_auto__takes_the_last_map_that_no_path_avoids_rather_than_a_branch(caplog):
    with caplog.at_level(logging.INFO, logger="camtrain"):
        (layer,) = resolve_layers(Branches(), torch.rand(2, 3, 8, 8))
    assert layer.name == "body"
    assert "every path to the answer goes through (8x8 cells, channels first)" in layer.reason
    assert f"chose 'body' of Branches: {layer.reason}" in caplog.text


def test_auto__steps_before_a_map_without_gradient():
    class Dead(Branches):
        def forward(self, x):
            x = self.body(x)
            return self.head(torch.cat([x, x], dim=1).mean((2, 3)) + 0 * self.left(x).mean())

    assert resolve_layers(Dead(), torch.rand(2, 3, 8, 8))[0].name == "body"


@pytest.mark.parametrize(
    "prepare", [lambda net: net.requires_grad_(False), lambda net: nn.init.zeros_(net.head.weight)]
)
def test_auto__works_without_a_graph_of_parameters_and_with_a_head_of_zeros(prepare):
    net = Branches()
    prepare(net)
    assert resolve_layers(net, torch.rand(2, 3, 8, 8))[0].name == "body"


def test_auto__without_a_map_says_what_it_saw():
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 4), nn.ReLU())
    with pytest.raises(LayerError, match=r"No layer of Sequential has a map.*'1': \(1, 4\)"):
        resolve_layers(net, torch.rand(2, 3, 4, 4))


def test_auto__of_one_image_and_of_many_is_the_same():
    assert [resolve_layers(Branches(), torch.rand(n, 3, 8, 8))[0].name for n in (1, 2, 5)] == ["body"] * 3


def forwards(net):
    """Counts the forward passes of a network."""
    seen = []
    net.register_forward_hook(lambda *_: seen.append(1))
    return seen


def test_auto__looks_at_a_network_once():
    net = Branches()
    first = resolve_layers(net, torch.rand(2, 3, 8, 8))
    seen = forwards(net)
    assert resolve_layers(net, torch.rand(5, 3, 8, 8)) == first
    assert seen == []


def test_auto__looks_again_at_another_size_and_at_a_changed_network():
    net = Branches()
    resolve_layers(net, torch.rand(2, 3, 8, 8))
    seen = forwards(net)
    resolve_layers(net, torch.rand(2, 3, 16, 16))
    assert len(seen) == 1
    net.body = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2))
    (layer,) = resolve_layers(net, torch.rand(2, 3, 8, 8))
    assert layer.module is net.body[0] or layer.module is net.body
    assert len(seen) == 2


def test_auto__looks_again_where_no_gradient_was():
    class Deaf(Branches):
        def forward(self, x):
            return self.head(torch.zeros(len(x), 8) * self.left(self.body(x)).mean())

    net = Deaf()
    resolve_layers(net, torch.rand(2, 3, 8, 8))
    seen = forwards(net)
    resolve_layers(net, torch.rand(2, 3, 8, 8))
    assert seen


def test_auto__chooses_anew_where_the_network_runs_another_way():
    class Switched(Branches):
        short = False

        def forward(self, x):
            x = self.body[0](x) if self.short else self.body(x)
            return self.head(torch.cat([x, x], dim=1).mean((2, 3)))

    net, images = Switched(), torch.rand(2, 3, 8, 8)
    assert capture(net, images).layers[0].name == "body"
    net.short = True
    assert capture(net, images).layers[0].name == "body.0"


def test_auto__does_not_keep_a_network_alive():
    net = Branches()
    resolve_layers(net, torch.rand(2, 3, 8, 8))
    known = weakref.ref(net)
    del net
    gc.collect()
    assert known() is None


def test_find_layers__of_an_unknown_name_offers_the_closest():
    with pytest.raises(LayerError, match="No layer named 'boddy' in Branches; closest: 'body'"):
        find_layers(Branches(), "boddy")


def test_find_layers__takes_names_modules_records_and_lists():
    net = Branches()
    record = Layer("body", net.body)
    assert [layer.module for layer in find_layers(net, ["left", net.right, record])] == [net.left, net.right, net.body]
    with pytest.raises(LayerError, match="not part of Branches"):
        find_layers(net, nn.Conv2d(1, 1, 1))
    with pytest.raises(LayerError, match="No layer was given"):
        find_layers(net, [])


@pytest.mark.parametrize("call", [resolve_layers, capture])
def test_layers__without_a_map_are_refused_with_their_shape(call):
    with pytest.raises(LayerError, match=r"'head' has shape \(2, 3\), which cannot be read as a map"):
        call(Branches(), torch.rand(2, 3, 8, 8), "head")


def test_to_map__of_tokens_that_no_forward_has_shown_is_refused():
    with pytest.raises(LayerError, match=r"shape \(2, 17, 8\)"):
        Layer("block", nn.Identity()).to_map(torch.zeros(2, 17, 8))


def test_auto__of_a_model_that_squeezes_a_batch_of_one_looks_at_two_images():
    class Squeezing(Branches):
        def forward(self, x):
            x = self.body(x).mean((2, 3), keepdim=True).squeeze()
            return self.head(torch.cat([x, x], dim=-1))

    (layer,) = resolve_layers(Squeezing(), torch.rand(3, 3, 8, 8))
    assert layer.name == "body"


@pytest.mark.parametrize("layer", ["1", "auto"])
def test_layers__with_as_many_channels_as_rows_are_read_like_the_convolutions_before_them(layer):
    class Twofold(nn.Module):
        def forward(self, x):
            return torch.cat([x, nn.functional.max_pool2d(x - x.mean((2, 3), keepdim=True), 3, 1, 1)], dim=1)

    net = nn.Sequential(nn.Conv2d(3, 2, 1), Twofold(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    images = torch.rand(2, 3, 4, 4)
    captured = capture(net, images, layer)
    assert captured.layers[0].layout.name == "channels first"
    assert torch.equal(captured.activations[0][:, :2], net[0](images).detach())
