"""`camtrain.explain` and what it returns."""

import pytest
import torch
from torch import nn

from camtrain import Explanation, explain
from camtrain.cam import resolve_layers, top_k, true_class
from camtrain.errors import BatchError, MethodError

IMAGES = torch.rand(3, 3, 12, 16)


@pytest.fixture
def net():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
    )


def test_explanation__has_raw_maps_at_feature_resolution_and_shows_them_at_image_size(net):
    explanation = explain(net, IMAGES)
    assert list(explanation.heatmaps) == ["grad_cam", "grad_cam_plus_plus"]
    raw, shown = explanation.heatmaps["grad_cam"], explanation.resized("grad_cam")
    assert raw.shape == (3, 3, 5)
    assert raw.dtype == torch.float32
    assert (raw >= 0).all()
    assert shown.shape == (3, 12, 16)
    peaks = shown.flatten(1).amax(dim=1)
    assert torch.equal(peaks == 1, ~explanation.empty["grad_cam"])
    assert explanation.overlay("grad_cam").shape == (3, 3, 12, 16)
    assert explanation.overlay("grad_cam").dtype == torch.uint8


def test_explanation__tells_its_layer_and_takes_it_again(net):
    explanation = explain(net, IMAGES)
    assert explanation.layers[0].name == "2"
    assert "3x5 cells, channels first" in explanation.layers[0].reason
    calls = []
    net[2].register_forward_hook(lambda *_: calls.append(1))
    again = explain(net, IMAGES, layers=explanation.layers)
    assert len(calls) == 1
    assert torch.equal(again.heatmaps["grad_cam"], explanation.heatmaps["grad_cam"])


def test_explanation__of_several_layers_names_each_map(net):
    explanation = explain(net, IMAGES, layers=["0", net[2]], methods=["grad_cam", "layer_cam"])
    assert set(explanation.heatmaps) == {"grad_cam@0", "grad_cam@2", "layer_cam@0", "layer_cam@2"}
    assert set(explanation.heatmaps) == set(explanation.empty) == set(explanation.states)
    assert explanation.heatmaps["grad_cam@0"].shape == (3, 5, 7)


def test_explain__of_several_targets_gives_one_explanation_for_each(net):
    first, second = explain(net, IMAGES, target=top_k(2))
    assert isinstance(first, Explanation)
    assert torch.equal(first.scores, first.logits.topk(2).values[:, 0])
    assert torch.equal(second.scores, first.logits.topk(2).values[:, 1])


def test_explain__takes_functions_as_methods(net):
    def sum_of_activations(activations, gradients):
        return activations.abs().sum(dim=1)

    explanation = explain(net, IMAGES, methods=[sum_of_activations, "grad_cam"])
    assert list(explanation.heatmaps) == ["sum_of_activations", "grad_cam"]


def test_explanation__of_an_unknown_method_names_those_it_has(net):
    with pytest.raises(MethodError, match="No heatmaps of 'score_cam' in this explanation; it has grad_cam"):
        explain(net, IMAGES).resized("score_cam")
    with pytest.raises(MethodError, match="No method named 'grad_camm'"):
        explain(net, IMAGES, methods="grad_camm")
    with pytest.raises(MethodError, match="No method was given"):
        explain(net, IMAGES, methods=[])


def test_explain__without_the_labels_its_target_needs_says_so(net):
    with pytest.raises(BatchError, match="true_class needs labels"):
        explain(net, IMAGES, target=true_class)


def test_explain__with_resolved_layers_equals_auto(net):
    layers = resolve_layers(net, IMAGES)
    for method, maps in explain(net, IMAGES, layers=layers).heatmaps.items():
        assert torch.equal(maps, explain(net, IMAGES).heatmaps[method])
