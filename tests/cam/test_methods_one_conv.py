"""The hand-worked network OneConv: every number is worked out from its sixteen pixels."""

import pytest
import torch
from torch import nn

from camtrain.cam import capture
from camtrain.cam.guided import guided_grad_cam, guided_gradients
from camtrain.cam.methods import grad_cam, grad_cam_plus_plus
from camtrain.cam.targets import class_index

IMAGE = torch.arange(16.0).view(1, 1, 4, 4)
GUIDED = [[0, 0, 4, 4], [0, 0, 12, 8], [28, 84, 97.5, 65], [28, 56, 65, 32.5]]


class Functional(nn.Module):
    """OneConv with functions for its rectifiers, one of them in place on a tensor whose result is not used."""

    def __init__(self, net: nn.Sequential) -> None:
        super().__init__()
        self.conv, self.linear = net[0], net[3]

    def forward(self, images):
        maps = self.conv(images)
        nn.functional.relu_(maps)
        return torch.relu(self.linear(maps.flatten(1)))


def one_conv(*, inplace: bool = False) -> nn.Sequential:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace), nn.Flatten(), nn.Linear(8, 4), nn.ReLU(inplace))
    with torch.no_grad():
        net[0].weight.fill_(1)
        net[0].bias.copy_(torch.tensor([-50.0, -75.0]))
        net[3].weight.copy_(torch.tensor([1.0, 1, 1, 1, 1, -1, -1, -1]).repeat(4, 1))
        net[3].bias.zero_()
    return net


@pytest.fixture(params=["modules", "in place", "frozen", "functional"])
def net(request):
    built = one_conv(inplace=request.param == "in place").requires_grad_(request.param != "frozen")
    return Functional(built) if request.param == "functional" else built


def test_one_conv__gives_54():
    assert one_conv()(IMAGE).tolist() == [[54.0] * 4]


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(
    ("layer", "method", "expected"),
    [
        ("1", grad_cam, [[0, 4], [28, 32.5]]),
        ("0", grad_cam_plus_plus, [[0, 0.1666667], [1.2916667, 1.6666667]]),
        ("1", grad_cam_plus_plus, [[0, 0.2077922], [1.8712592, 2.7300961]]),
    ],
)
def test_one_conv__has_the_maps_worked_by_hand(layer, method, expected, inplace):
    captured = capture(one_conv(inplace=inplace), IMAGE, layer, class_index(0))
    found = method(captured.activations[0], captured.gradients[0])
    torch.testing.assert_close(found, torch.tensor([expected]).float(), rtol=1e-6, atol=1e-6)


def test_one_conv__has_the_signed_map_at_the_convolution():
    captured = capture(one_conv(), IMAGE, "0", class_index(0))
    weights = captured.gradients[0].mean((2, 3), keepdim=True)
    assert (weights * captured.activations[0]).sum(1).tolist() == [[[11.25, 13.5], [20.25, 22.5]]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_one_conv__of_the_doubled_image_stays_finite(dtype):
    net = one_conv().to(dtype)
    captured = capture(net, (2 * IMAGE).to(dtype), "1", class_index(0))
    assert captured.scores.item() > 125  # 130, but for bfloat16's rounding; exp(130) is infinite
    found = grad_cam_plus_plus(captured.activations[0], captured.gradients[0])
    assert found.isfinite().all()
    assert found.max() > 0


def test_guided_grad_cam__has_the_map_worked_by_hand(net):
    layer = net.conv if isinstance(net, Functional) else "1"
    found = guided_grad_cam(net, IMAGE, layer, target=class_index(0), upsampling="nearest")
    if isinstance(net, Functional):  # at the convolution, whose Grad-CAM is [[11.25, 13.5], [20.25, 22.5]]
        expected = torch.tensor([[11.25, 13.5], [20.25, 22.5]]).repeat_interleave(2, 0).repeat_interleave(2, 1)
        torch.testing.assert_close(
            found, expected * torch.tensor([[[0, 1, 1, 1], [1, 3, 3, 2], [1, 3, 3, 2], [1, 2, 2, 1.0]]])
        )
    else:
        assert found.tolist() == [GUIDED]


def test_guided_gradients__pass_positive_gradients_only(net):
    found = guided_gradients(net, IMAGE, target=class_index(0))
    assert found.tolist() == [[[[0, 1, 1, 1], [1, 3, 3, 2], [1, 3, 3, 2], [1, 2, 2, 1]]]]
