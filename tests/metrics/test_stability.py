import pytest
import torch
from torch import nn

from camtrain import explain
from camtrain.cam import class_index
from camtrain.errors import ConfigurationError
from camtrain.metrics import agreement, infidelity, rank_correlation, stability
from camtrain.metrics.functional.stability import noises


@pytest.fixture
def images():
    return torch.rand(4, 3, 12, 12)


def test_stability__is_that_of_a_loop_over_noisy_images(net, images):
    net.eval()
    found = stability(net, images, layers="5", methods=["grad_cam", "layer_cam"], radius=0.2, samples=3)
    clean = explain(net, images, layers="5", methods="layer_cam")
    classes = class_index(clean.logits.argmax(dim=1))
    noisy = [
        explain(net, images + noise, layers="5", methods="layer_cam", target=classes).heatmaps["layer_cam"]
        for noise in noises(images, 0.2, 3, 0)
    ]
    heat = clean.heatmaps["layer_cam"]
    expected = torch.stack([rank_correlation(maps, heat) for maps in noisy]).nanmean(0)
    torch.testing.assert_close(found["layer_cam"].correlation, expected, equal_nan=True)
    assert set(found) == {"grad_cam", "layer_cam"}


def test_sensitivity__is_that_of_captum(net, images):
    metrics, image = pytest.importorskip("captum.metrics"), images[:1]
    target = class_index(int(net.eval()(image).argmax()))
    drawn = noises(image, 0.2, 3, 0)

    def attribute(inputs):
        maps = explain(net, inputs, layers="5", methods="layer_cam", target=target).heatmaps["layer_cam"]
        return (maps,)  # of a bare tensor it would take each row for an attribution of its own

    def disturb(inputs):
        return inputs + torch.cat([next(drawn) for _ in inputs])

    expected = metrics.sensitivity_max(attribute, image, perturb_func=disturb, n_perturb_samples=3)
    found = stability(net, image, layers="5", methods="layer_cam", radius=0.2, samples=3)["layer_cam"]
    torch.testing.assert_close(found.sensitivity, expected)


def test_stability__of_a_map_that_ignores_the_image_is_perfect_and_of_an_empty_one_nan(net, images):
    fixed = torch.rand(1, 5, 5)

    def constant(activations, gradients):
        return fixed.expand(len(activations), 5, 5)

    def nothing(activations, gradients):
        return torch.zeros(len(activations), 5, 5)

    found = stability(net, images, layers="5", methods=[constant, nothing], samples=2)
    assert found["constant"].correlation.tolist() == pytest.approx([1] * 4)
    assert found["constant"].sensitivity.tolist() == [0] * 4
    assert found["nothing"].correlation.isnan().all()
    assert found["nothing"].sensitivity.isnan().all()


def test_agreement__compares_every_two_methods_on_the_finer_grid():
    maps = {"a": torch.rand(3, 8, 8), "b": torch.rand(3, 4, 4), "c": torch.rand(3, 8, 8)}
    found = agreement(maps)
    assert list(found) == [("a", "b"), ("a", "c"), ("b", "c")]
    torch.testing.assert_close(found["a", "b"], rank_correlation(maps["b"], maps["a"]))


def test_infidelity__is_zero_for_the_weights_of_a_linear_model_and_not_for_others():
    net = nn.Sequential(nn.Flatten(), nn.Linear(9, 1))
    weights = net[1].weight.detach().view(1, 3, 3)
    heat = weights - weights.min()  # the display range [0, 1] is the weights' own but for an offset
    images = torch.rand(1, 1, 3, 3)
    with torch.no_grad():
        net[1].weight.copy_(heat.flatten() / heat.max())
    maps = {"right": heat, "wrong": heat.flip(-1), "empty": 0 * heat}
    found = infidelity(net, images, maps, samples=30)
    assert found["right"].item() == pytest.approx(0, abs=1e-8)
    assert found["wrong"].item() > 1e-3
    assert found["empty"].isnan().all()


def test_infidelity__is_that_of_captum(net, images):
    metrics = pytest.importorskip("captum.metrics")
    net.eval()
    heat = torch.rand(4, 12, 12)
    heat = (heat - heat.amin((1, 2), keepdim=True)) / (
        heat.amax((1, 2), keepdim=True) - heat.amin((1, 2), keepdim=True)
    )
    drawn = 0.2 * torch.randn((6, 4, 12, 12), generator=torch.Generator().manual_seed(0))
    spread = iter(drawn.unsqueeze(2).expand(6, 4, 3, 12, 12))

    def perturb(inputs):
        noise = next(spread)
        return noise, inputs - noise

    attributions = heat.unsqueeze(1).expand(4, 3, 12, 12) / 3  # the same on all channels: their sum is the map's
    classes = net(images).argmax(dim=1)
    expected = metrics.infidelity(
        net,
        perturb,
        images,
        attributions,
        target=classes,
        n_perturb_samples=6,
        max_examples_per_batch=4,
        normalize=True,
    )
    found = infidelity(net, images, {"mine": heat}, samples=6)["mine"]
    torch.testing.assert_close(found, expected.detach(), rtol=1e-3, atol=1e-6)


def test_stability_and_infidelity__refuse_what_cannot_be_sampled(net, images):
    with pytest.raises(ConfigurationError, match="not 0 and"):
        stability(net, images, samples=0)
    with pytest.raises(ConfigurationError, match="not 1 and"):
        infidelity(net, images, {}, samples=1)
