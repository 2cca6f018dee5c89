"""How methods of both kinds are named, and what `explain` makes of them."""

import functools

import pytest
import torch
from torch import nn

import camtrain
from camtrain.cam import capture, class_index, needs_model, occlusion_map, score_cam, top_k
from camtrain.cam.methods import METHODS, grad_cam, resolve_method
from camtrain.cam.model_methods import IMAGE_METHODS, LAYER_METHODS, MODEL_METHODS, find_method, name_of
from camtrain.errors import BatchError, MethodError


@pytest.fixture
def net():
    torch.manual_seed(6)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3),
        nn.ReLU(),
        nn.Conv2d(5, 4, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )


@pytest.fixture
def images():
    return torch.rand(2, 3, 11, 11)


def test_methods__of_both_kinds_are_exported_by_their_names():
    for name, function in (METHODS | MODEL_METHODS).items():
        assert getattr(camtrain.cam, name) is function
        assert find_method(name) is function


def test_find_method__of_an_unknown_name_lists_both_kinds():
    with pytest.raises(MethodError, match=r"'nope'.*grad_cam.*score_cam"):
        find_method("nope")


def test_resolve_method__of_one_that_runs_the_model_points_to_explain():
    with pytest.raises(MethodError, match=r"'score_cam'.*camtrain\.explain"):
        resolve_method("score_cam")


def test_needs_model__looks_into_partials_and_attributes():
    def mine(model, images, layers, *, target, labels):
        return torch.zeros(2, 1, 1)

    mine.needs_model = True
    assert needs_model(mine)
    assert needs_model(functools.partial(score_cam, max_batch=2))
    assert not needs_model(grad_cam)
    assert name_of(functools.partial(mine)) == "mine"


def test_explain__runs_methods_of_both_kinds_in_the_order_asked(net, images):
    mixed = ["score_cam", "grad_cam", functools.partial(occlusion_map, window=3), "guided_backpropagation"]
    found = camtrain.explain(net, images, layers="2", methods=mixed)
    assert list(found.heatmaps) == ["score_cam", "grad_cam", "occlusion_map", "guided_backpropagation"]
    torch.testing.assert_close(found.heatmaps["score_cam"], score_cam(net, images, "2"))
    torch.testing.assert_close(found.heatmaps["occlusion_map"], occlusion_map(net, images, window=3))
    captured = capture(net, images, "2")
    torch.testing.assert_close(found.heatmaps["grad_cam"], grad_cam(captured.activations[0], captured.gradients[0]))


def test_explain__names_layers_only_for_methods_that_look_at_them(net, images):
    found = camtrain.explain(net, images, layers=["0", "2"], methods=["grad_cam", "ablation_cam", "occlusion_map"])
    assert list(found.heatmaps) == ["grad_cam@0", "grad_cam@2", "ablation_cam@0", "ablation_cam@2", "occlusion_map"]


def test_explain__runs_a_method_of_your_own_that_needs_the_model(net, images):
    def mine(model, images, layers, *, target, labels):
        return images.mean(1)

    mine.needs_model = True
    torch.testing.assert_close(camtrain.explain(net, images, methods=mine).heatmaps["mine"], images.mean(1))


@pytest.mark.parametrize("method", sorted(set(METHODS) | set(LAYER_METHODS) - {"le_grad"} | set(IMAGE_METHODS)))
def test_explain__gives_raw_energy_at_once_or_one_by_one(net, images, method):
    found = camtrain.explain(net, images, methods=method).heatmaps[method]
    assert found.dtype == torch.float32
    assert found.min() >= 0
    assert len(found) == 2
    alone = [camtrain.explain(net, image[None], methods=method).heatmaps[method] for image in images]
    torch.testing.assert_close(found, torch.cat(alone), rtol=1e-4, atol=1e-6)


def test_explain__of_several_targets_takes_one_forward(net, images):
    calls = []
    net.register_forward_hook(lambda *_: calls.append(1))
    layer = camtrain.cam.resolve_layers(net, images, "2")
    calls.clear()
    found = camtrain.explain(net, images, layers=layer, target=top_k(3))
    assert len(calls) == 1
    assert len(found) == 3
    for rank, explanation in enumerate(found):
        classes = net(images).topk(3).indices[:, rank]
        alone = camtrain.explain(net, images, layers=layer, target=class_index(classes))
        torch.testing.assert_close(explanation.heatmaps["grad_cam"], alone.heatmaps["grad_cam"])
        torch.testing.assert_close(explanation.scores, alone.scores)
        assert torch.equal(explanation.logits, alone.logits)


def test_explain__without_a_method_is_refused(net, images):
    with pytest.raises(MethodError, match="No method was given"):
        camtrain.explain(net, images, methods=[])


class ListTaking(nn.Module):
    """A detector in miniature: a list of images in, one score for each out."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())

    def forward(self, images):
        return self.body(torch.stack(images)).mean((2, 3))


@pytest.mark.parametrize("method", ["grad_cam", "occlusion_map", "score_cam", "ablation_cam", "guided_grad_cam"])
def test_explain__of_a_list_of_images_equals_that_of_a_batch(images, method):
    net = ListTaking()
    whole = nn.Sequential(net.body, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    found = camtrain.explain(net, list(images), layers="body.0", methods=method).heatmaps[method]
    expected = camtrain.explain(whole, images, layers="0.0", methods=method).heatmaps[method]
    torch.testing.assert_close(found, expected)


def test_explain__refuses_a_list_of_images_of_several_sizes():
    with pytest.raises(BatchError, match="of one size"):
        camtrain.explain(ListTaking(), [torch.rand(3, 9, 9), torch.rand(3, 9, 8)])
