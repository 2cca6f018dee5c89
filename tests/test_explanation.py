"""`camtrain.explain` and what it returns."""

import copy
import logging

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from camtrain import Explanation, explain
from camtrain.cam import resolve_layers, top_k, true_class
from camtrain.errors import BatchError, MethodError
from camtrain.facts import is_untrained

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


@pytest.mark.parametrize("target", [2, torch.tensor(2), "Egyptian cat", "egyptian_cat", torch.tensor([2, 2, 2])])
def test_explain__takes_a_class_by_its_index_or_name(net, target):
    net.class_names = ["boat", "duck", "Egyptian cat", "car", "tabby, tabby cat"]
    explanation = explain(net, IMAGES, target=target)
    assert torch.equal(explanation.scores, explanation.logits[:, 2])
    assert explanation.names == tuple(net.class_names)


def test_explain__of_several_classes_gives_one_explanation_for_each(net):
    first, second = explain(net, IMAGES, target=[4, "tabby"], names=["a", "b", "c", "d", "tabby, tabby cat"])
    assert torch.equal(first.scores, second.scores)


@pytest.mark.parametrize(
    ("target", "names", "message"),
    [
        ("cat", None, r"does not name its classes.*class_index\(285\)"),
        ("boot", ["boat", "duck", "cat", "car", "hen"], "closest of 5: 'boat'"),
        ("crane", ["crane", "crane", "cat", "car", "hen"], r"2 classes are called 'crane': give one of \[0, 1\]"),
    ],
)
def test_explain__of_a_class_that_is_not_there_says_what_to_give(net, target, names, message):
    with pytest.raises(BatchError, match=message):
        explain(net, IMAGES, target=target, names=names)


def test_explain__takes_one_image(net):
    one, batch = explain(net, IMAGES[0]), explain(net, IMAGES[:1])
    assert torch.equal(one.heatmaps["grad_cam"], batch.heatmaps["grad_cam"])


def test_explain__takes_pictures_and_files_with_a_transform(net, tmp_path):
    pixels = (IMAGES[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(tmp_path / "cat.png")

    def transform(image):
        return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255

    expected = explain(net, torch.from_numpy(pixels.copy()).permute(2, 0, 1).unsqueeze(0) / 255).logits
    for picture in (tmp_path / "cat.png", str(tmp_path / "cat.png"), Image.fromarray(pixels)):
        assert torch.equal(explain(net, picture, transform=transform).logits, expected)
    assert len(explain(net, [tmp_path / "cat.png"] * 2, transform=transform).scores) == 2
    with pytest.raises(BatchError, match="does not say how it wants its images"):
        explain(net, tmp_path / "cat.png")


def test_explain__asks_the_network_s_library_how_it_wants_pictures_and_what_classes_are_called():
    timm = pytest.importorskip("timm")
    net = timm.create_model("test_resnet", pretrained=False).eval()
    picture = Image.fromarray((IMAGES[0] * 255).to(torch.uint8).permute(1, 2, 0).numpy())
    explanation = explain(net, picture, target="Egyptian cat")
    data = timm.data.resolve_data_config(model=net)
    expected = timm.data.create_transform(**data, is_training=False)(picture)
    assert torch.equal(explanation.images[0], expected)
    assert torch.equal(explanation.scores, explanation.logits[:, 285])


def test_explain__without_a_layer_makes_no_choice_of_one(net):
    explanation = explain(net, IMAGES, methods=["occlusion_map"])
    assert explanation.layers == ()
    assert torch.equal(explanation.logits, net(IMAGES))
    assert torch.equal(explanation.scores, net(IMAGES).amax(dim=1))
    assert explanation.heatmaps["occlusion_map"].shape == (3, 12, 16)


def test_explanation__is_saved_as_a_sheet_of_images_by_methods(net, tmp_path):
    explanation = explain(net, IMAGES)
    path = explanation.save(tmp_path / "new" / "sheet.png")
    with Image.open(path) as picture:
        sheet = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    assert sheet.shape == (3, 3 * 12, 2 * 16)
    assert torch.equal(sheet[:, 12:24, 16:], explanation.overlay("grad_cam_plus_plus")[1])
    with pytest.raises(MethodError, match=r"saved as \.png or \.jpg, not as '\.gif'"):
        explanation.save(tmp_path / "sheet.gif")


def test_explanation__is_a_line(net):
    net.class_names = list("abcde")
    line = repr(explain(net, IMAGES))
    assert "\n" not in line
    assert line.startswith("Explanation(3 images: ")
    assert "grad_cam 3x5" in line
    assert line.endswith("'2')")


def test_explain__of_a_network_without_weights_says_so_once(caplog):
    untrained = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    trained = copy.deepcopy(untrained)
    trained[1].running_mean.fill_(0.1)
    for network in (untrained, untrained, trained):
        explain(network, IMAGES)
    assert [record.message.partition(",")[0] for record in caplog.records if record.levelno >= logging.WARNING] == [
        "Sequential has random weights"
    ]


@pytest.mark.parametrize("name", ["squeezenet1_1", "alexnet", "vgg11", "resnet18", "vit_b_32", "convnext_tiny"])
def test_is_untrained__tells_a_new_network_from_one_that_was_moved(name):
    with torch.device("meta"):
        network = torchvision.models.get_model(name)
    if sum(parameter.numel() for parameter in network.parameters()) > 2e7:
        pytest.skip("too large to build in a test")
    network = torchvision.models.get_model(name)
    assert is_untrained(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    assert not is_untrained(network)
