"""Smooth Grad-CAM++ against a loop of its own, and the fusion of layers by hand."""

import pytest
import torch
from torch import nn

from camtrain.cam import capture
from camtrain.cam.fusion import fuse, resize_energy
from camtrain.cam.methods import grad_cam_plus_plus
from camtrain.cam.model_methods import smooth_grad_cam_plus_plus
from camtrain.cam.targets import class_index
from camtrain.errors import MethodError


@pytest.fixture
def net():
    torch.manual_seed(4)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(96, 8),
        nn.Tanh(),
        nn.Linear(8, 3),
    ).double()


@pytest.fixture
def images():
    return torch.rand(4, 3, 9, 9, dtype=torch.float64)


def test_smooth_grad_cam_plus_plus__without_noise_is_grad_cam_plus_plus(net, images):
    captured = capture(net, images, "0")
    expected = grad_cam_plus_plus(captured.activations[0], captured.gradients[0])
    torch.testing.assert_close(smooth_grad_cam_plus_plus(net, images, "0", noise=0.0, samples=3), expected)


def test_smooth_grad_cam_plus_plus__averages_gradients_over_its_noise(net, images):
    generator = torch.Generator().manual_seed(7)
    drawn = [torch.randn(1, 3, 9, 9, generator=generator).double() for _ in range(5)]
    spread = 0.2 * (images.flatten(1).amax(1) - images.flatten(1).amin(1)).view(-1, 1, 1, 1)
    gradients = [capture(net, images + spread * noise, "0", class_index(1)).gradients[0] for noise in drawn]
    expected = grad_cam_plus_plus(capture(net, images, "0").activations[0], torch.stack(gradients).mean(0))
    found = smooth_grad_cam_plus_plus(net, images, "0", target=class_index(1), samples=5, noise=0.2, seed=7)
    torch.testing.assert_close(found, expected)


def test_smooth_grad_cam_plus_plus__keeps_the_class_of_the_clean_image(net, images):
    classes = net(images).argmax(1)
    expected = smooth_grad_cam_plus_plus(net, images, "0", target=class_index(classes), noise=3.0)
    torch.testing.assert_close(smooth_grad_cam_plus_plus(net, images, "0", noise=3.0), expected)


def test_smooth_grad_cam_plus_plus__leaves_the_random_state(net, images):
    before = torch.get_rng_state()
    smooth_grad_cam_plus_plus(net, images, "0")
    assert torch.equal(before, torch.get_rng_state())


def test_smooth_grad_cam_plus_plus__of_a_permuted_batch_is_permuted(net, images):
    order = torch.tensor([2, 0, 3, 1])
    whole = smooth_grad_cam_plus_plus(net, images, "0")
    torch.testing.assert_close(smooth_grad_cam_plus_plus(net, images[order], "0"), whole[order])
    torch.testing.assert_close(smooth_grad_cam_plus_plus(net, images[:1], "0"), whole[:1])


@pytest.mark.parametrize("options", [{"samples": 0}, {"noise": -1.0}])
def test_smooth_grad_cam_plus_plus__refuses_what_cannot_be(net, images, options):
    with pytest.raises(MethodError, match="samples >= 1 and noise >= 0"):
        smooth_grad_cam_plus_plus(net, images, "0", **options)


COARSE, FINE = torch.tensor([[[4.0]]]), torch.tensor([[[1.0, 3.0], [0.0, 0.0]]])


def test_fuse__takes_the_mean_the_maximum_or_the_product_of_energy():
    assert fuse([COARSE, FINE]).tolist() == [[[1.0, 2.0], [0.5, 0.5]]]
    assert fuse([COARSE, FINE], "max").tolist() == [[[1.0, 3.0], [1.0, 1.0]]]
    torch.testing.assert_close(fuse([COARSE, FINE], "product"), torch.tensor([[[1.0, 3**0.5], [0.0, 0.0]]]))


def test_fuse__by_the_mean_has_the_mean_energy():
    maps = [torch.rand(3, 2, 2), torch.rand(3, 7, 5), torch.rand(3, 4, 4)]
    expected = torch.stack([each.sum((1, 2)) for each in maps]).mean(0)
    torch.testing.assert_close(fuse(maps).sum((1, 2)), expected)
    torch.testing.assert_close(fuse(maps, size=(9, 11)).sum((1, 2)), expected)


def test_fuse__does_not_raise_a_weak_layer_to_a_strong_one():
    strong, weak = torch.tensor([[[100.0, 0.0]]]), torch.tensor([[[0.0, 0.1]]])
    fused = fuse([strong, weak])
    assert (fused[0, 0, 0] / fused[0, 0, 1]).item() == pytest.approx(1000)


def test_fuse__of_one_layer_is_that_layer():
    torch.testing.assert_close(fuse([FINE]), FINE)


def test_fuse__keeps_an_empty_map_empty():
    assert fuse([torch.zeros(1, 2, 2), torch.zeros(1, 4, 4)]).eq(0).all()


def test_fuse__of_video_maps():
    assert fuse([torch.ones(1, 2, 2, 2), torch.ones(1, 4, 4, 4)]).shape == (1, 4, 4, 4)


@pytest.mark.parametrize(
    ("maps", "how", "said"), [([], "mean", "nothing to fuse"), ([FINE], "median", "mean, max, product")]
)
def test_fuse__refuses_what_it_cannot(maps, how, said):
    with pytest.raises(MethodError, match=said):
        fuse(maps, how)


def test_resize_energy__keeps_the_sum_of_each_map():
    maps = torch.rand(4, 3, 5)
    torch.testing.assert_close(resize_energy(maps, (7, 6)).sum((1, 2)), maps.sum((1, 2)))
