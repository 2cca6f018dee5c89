"""Guided backpropagation against captum, which hooks modules; in-place, functional and bounded rectifiers by hand."""

import copy

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from camtrain.cam.guided import guided_backpropagation, guided_grad_cam, guided_gradients
from camtrain.cam.methods import grad_cam
from camtrain.cam.targets import class_index
from camtrain.errors import MethodError


def small(inplace: bool = False) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(inplace), nn.Conv2d(5, 4, 3), nn.ReLU(inplace),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 6), nn.ReLU(inplace), nn.Linear(6, 3),
    ).double().eval()  # fmt: skip


class Functional(nn.Module):
    """The same network, written with functions of every spelling."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = small()

    def forward(self, images):
        first, norm, _, second, _, pool, flat, hidden, _, last = self.layers
        maps = norm(first(images))
        F.relu(maps, inplace=True)  # what it returns is not used
        maps = torch.relu(second(maps))
        return last(hidden(flat(pool(maps))).relu_())


@pytest.fixture
def images():
    return torch.rand(3, 3, 10, 10, dtype=torch.float64)


@pytest.mark.parametrize("net", [small(), small(inplace=True), Functional(), small().requires_grad_(False)])
def test_guided_gradients__equal_captum_on_modules(net, images):
    attr = pytest.importorskip("captum.attr")
    with pytest.warns(UserWarning, match="hooks"):
        peer = attr.GuidedBackprop(small()).attribute(images.clone().requires_grad_(), target=1).detach()
    torch.testing.assert_close(guided_gradients(net, images, target=class_index(1)), peer)


@pytest.mark.filterwarnings("ignore:Setting backward hooks")
def test_guided_gradients__equal_captum_on_a_residual_network():
    attr = pytest.importorskip("captum.attr")
    net, images = torchvision.models.resnet18(weights=None).double().eval(), torch.rand(2, 3, 64, 64).double()
    found = guided_gradients(net, images, target=class_index(7))
    for module in net.modules():  # captum cannot tell the uses of one ReLU apart from changes in place
        if isinstance(module, nn.ReLU):
            module.inplace = False
    peer = attr.GuidedBackprop(net).attribute(images.clone().requires_grad_(), target=7).detach()
    torch.testing.assert_close(found, peer)


def test_guided_gradients__stop_above_the_bound_of_relu6():
    net = nn.Sequential(nn.Flatten(), nn.ReLU6(inplace=True), nn.Linear(4, 1, bias=False))
    nn.init.ones_(net[2].weight)
    found = guided_gradients(net, torch.tensor([[[[-1.0, 3.0], [6.5, 5.0]]]]))
    assert found.tolist() == [[[[0, 1], [0, 1]]]]


def test_guided_gradients__of_functional_relu6_and_hardtanh_agree():
    class Bounded(nn.Module):
        def __init__(self, function):
            super().__init__()
            self.function = function

        def forward(self, x):
            return self.function(x).flatten(1).sum(1, keepdim=True)

    image = torch.tensor([[[[-1.0, 3.0], [6.5, 5.0]]]])
    spellings = [
        F.relu6,
        lambda x: F.hardtanh(x, 0.0, 6.0),
        lambda x: F.hardtanh(x, max_val=6.0, min_val=0.0, inplace=True),
    ]
    for function in spellings:
        assert guided_gradients(Bounded(function), image).tolist() == [[[[0, 1], [0, 1]]]]


def test_guided_gradients__of_a_network_without_relu_are_refused(images):
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.SiLU(), nn.Flatten(), nn.Linear(128, 2)).double()
    with pytest.raises(MethodError, match="Sequential ran none"):
        guided_gradients(net, images)


@pytest.mark.parametrize("method", [guided_backpropagation, guided_grad_cam])
def test_guided__of_a_batch_equals_that_of_each_image(method, images):
    net = small(inplace=True)
    alone = [method(net, image[None]) for image in images]
    torch.testing.assert_close(method(net, images), torch.cat(alone))


@pytest.mark.parametrize("method", [guided_backpropagation, guided_grad_cam])
def test_guided__leaves_the_model_and_the_images_as_they_were(method, images):
    net = small(inplace=True).train()
    before, pixels, random = copy.deepcopy(net.state_dict()), images.clone(), torch.get_rng_state()
    method(net, images)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(module.training for module in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert torch.equal(images, pixels)
    assert images.grad is None
    assert not images.requires_grad
    assert torch.equal(random, torch.get_rng_state())


def test_guided__afterwards_the_gradient_is_the_true_one(images):
    net = small()
    leaf = images.clone().requires_grad_()
    expected = torch.autograd.grad(net(leaf)[:, 0].sum(), leaf)[0]
    guided_gradients(net, images)
    assert torch.equal(torch.autograd.grad(net(leaf)[:, 0].sum(), leaf)[0], expected)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_guided__works_where_gradients_are_off(context, images):
    net = small()
    expected = guided_grad_cam(net, images)
    with context():
        found = guided_grad_cam(net, images.clone())
    torch.testing.assert_close(found, expected)


def test_guided_grad_cam__is_the_product(images):
    from camtrain.cam import capture, resize

    net = small()
    captured = capture(net, images, "4", class_index(2))
    coarse = resize(grad_cam(captured.activations[0], captured.gradients[0]), (10, 10))
    fine = guided_gradients(net, images, target=class_index(2)).abs().sum(1)
    torch.testing.assert_close(guided_grad_cam(net, images, "4", target=class_index(2)), coarse * fine)


def test_guided_grad_cam__refuses_other_upsampling(images):
    with pytest.raises(MethodError, match="linear or nearest, not 'cubic'"):
        guided_grad_cam(small(), images, upsampling="cubic")
