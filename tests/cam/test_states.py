"""States, not pictures: why a heatmap holds no evidence, image by image."""

import pytest
import torch
from torch import nn

from camtrain import explain
from camtrain.cam import State, class_index, log_probability
from camtrain.cam.states import states_of


@pytest.fixture
def net():
    """Two channels of the image, pooled: class 0 sees the first, class 1 neither, class 2 dislikes the first."""
    net = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))
    net[0].weight.data = torch.eye(2)[:, :, None, None]
    net[3].weight.data = torch.tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]])
    net[3].bias.data.zero_()
    return net


IMAGES = torch.rand(2, 2, 4, 4) + 1


@pytest.mark.parametrize(("index", "expected"), [(0, "OK"), (1, "ZERO_GRADIENT"), (2, "EMPTY")])
def test_explain__names_the_state_of_each_map(net, index, expected):
    explanation = explain(net, IMAGES, target=class_index(index))
    assert explanation.state_names("grad_cam") == [expected] * 2
    assert explanation.empty["grad_cam"].tolist() == [expected != "OK"] * 2
    assert (explanation.heatmaps["grad_cam"] > 0).any() == (expected == "OK")


def test_explain__of_a_mixed_batch_names_each_on_its_own(net):
    images = IMAGES.clone()
    images[1, 0, 2, 2] = torch.nan
    explanation = explain(net, images, target=class_index(0))
    assert explanation.state_names("grad_cam") == ["OK", "NOT_FINITE"]
    assert torch.isfinite(explanation.heatmaps["grad_cam"]).all()
    assert explanation.state_names("grad_cam_plus_plus") == ["OK", "NOT_FINITE"]


def test_explain__of_a_certain_class_is_saturated_under_its_probability_alone(net):
    net[3].weight.data[0, 0] = 30.0  # a margin of 30 nats and more: 1 - p rounds to 0
    images = torch.cat([IMAGES[:1], 0.01 * IMAGES[1:]])
    certain = explain(net, images, target=log_probability)
    assert certain.state_names("grad_cam") == ["SATURATED", "OK"]
    assert explain(net, images).state_names("grad_cam") == ["OK", "OK"]


def test_explain__of_float16_overflow_is_not_finite(net):
    net[0].weight.data *= 60000
    assert explain(net.half(), IMAGES.half(), target=class_index(0)).state_names("grad_cam")[0] == "NOT_FINITE"


def test_states__of_several_layers_and_methods_are_named_like_the_maps(net):
    explanation = explain(net, IMAGES, layers=["0"], methods=["grad_cam", "score_cam"])
    assert set(explanation.states) == set(explanation.heatmaps)


def test_states__of_no_images_are_none():
    assert states_of(torch.zeros(0, 2, 2), gradients=torch.zeros(0, 3, 2, 2)).shape == (0,)
    assert [state.name for state in State] == ["OK", "EMPTY", "ZERO_GRADIENT", "SATURATED", "NOT_FINITE"]
