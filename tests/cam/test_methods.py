"""Methods that read activations and gradients, against hand-worked numbers and literal formulas in float64."""

import pytest
import torch
from torch import Tensor

from camtrain.cam import is_empty
from camtrain.cam.methods import (
    METHODS,
    counterfactual_cam,
    eigen_cam,
    elementwise_cam,
    grad_cam,
    grad_cam_plus_plus,
    hires_cam,
    layer_cam,
    resolve_method,
    xgrad_cam,
)
from camtrain.cam.methods import contribution_cam as contribution
from camtrain.errors import MethodError

FUNCTIONS = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
XPLIQUE = torch.tensor([[[1, 1], [1, 1]], [[1, 1], [0, 0]], [[1, 0.5], [0, 0]], [[0.5, 0], [0, 0]]])


def random_pair(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return torch.rand(shape, dtype=dtype), torch.randn(shape, dtype=dtype)


def weights_alone(method, channels: Tensor, gradients: Tensor) -> Tensor:
    """Each channel's weight, read off a map that holds this channel and one of ones without gradient."""
    return method(channels.unsqueeze(1), gradients.unsqueeze(1))[:, 0, 0] / channels[:, 0, 0]


def test_grad_cam__has_the_published_weights():
    assert weights_alone(grad_cam, XPLIQUE, XPLIQUE).tolist() == [1, 0.5, 0.375, 0.125]


def test_grad_cam_plus_plus__has_the_published_weights():
    channels = XPLIQUE[[0, 1, 3]]
    torch.testing.assert_close(
        weights_alone(grad_cam_plus_plus, channels, channels), torch.tensor([2 / 3, 1 / 2, 2 / 9])
    )


def test_grad_cam_plus_plus__of_a_channel_without_gradient_is_zero():
    assert grad_cam_plus_plus(torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)).eq(0).all()


def test_grad_cam__sums_the_published_channels():
    expected = [[1 + 0.5 + 0.375 + 0.0625, 1 + 0.5 + 0.1875], [1, 1]]
    assert grad_cam(XPLIQUE.unsqueeze(0), XPLIQUE.unsqueeze(0))[0].tolist() == expected


def equation_19(activations: Tensor, gradients: Tensor) -> Tensor:
    """Chattopadhyay 2018, equation 19 as printed, channel by channel, with its cubes."""
    maps = []
    for a, g in zip(activations, gradients, strict=True):
        total = torch.zeros_like(a[0])
        for a_k, g_k in zip(a, g, strict=True):
            denominator = 2 * g_k**2 + a_k.sum() * g_k**3
            alpha = torch.where(denominator != 0, g_k**2 / denominator, 0)
            total += (alpha * g_k.relu()).sum() * a_k
        maps.append(total.relu())
    return torch.stack(maps)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_grad_cam_plus_plus__equals_equation_19_with_its_cubes(scale):
    activations, gradients = random_pair(3, 5, 4, 3)
    gradients = torch.where(torch.rand_like(gradients) < 0.2, 0, scale * gradients)
    expected = equation_19(activations, gradients)
    torch.testing.assert_close(grad_cam_plus_plus(activations, gradients), expected, rtol=1e-12, atol=0)


def test_grad_cam_plus_plus__equals_equation_19_for_negative_activations():
    activations, gradients = torch.randn(4, 6, 3, 3, dtype=torch.float64), torch.randn(4, 6, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(grad_cam_plus_plus(activations, gradients), equation_19(activations, gradients))


def test_grad_cam_plus_plus__is_finite_at_its_pole():
    assert grad_cam_plus_plus(torch.full((1, 1, 1, 2), -1.0), torch.ones(1, 1, 1, 2)).tolist() == [[[0.0, 0.0]]]


def test_grad_cam_plus_plus__has_a_finite_gradient_at_its_pole():
    activations = torch.full((1, 1, 1, 2), -1.0, requires_grad=True)
    gradients = torch.ones(1, 1, 1, 2, requires_grad=True)
    grad_cam_plus_plus(activations, gradients).sum().backward()
    assert activations.grad.isfinite().all()
    assert gradients.grad.isfinite().all()


def test_hires_layer_xgrad_elementwise_contribution__by_hand():
    activations = torch.tensor([[[[1.0, 2.0]], [[3.0, 1.0]]]])
    gradients = torch.tensor([[[[2.0, -1.0]], [[-1.0, 4.0]]]])
    assert hires_cam(activations, gradients).tolist() == [[[0.0, 2.0]]]  # 2 - 3, -2 + 4
    assert layer_cam(activations, gradients).tolist() == [[[2.0, 4.0]]]
    assert elementwise_cam(activations, gradients).tolist() == [[[2.0, 4.0]]]
    assert contribution(activations, gradients).tolist() == [[[5.0, 6.0]]]
    assert xgrad_cam(activations, gradients).tolist() == [[[0.75, 0.25]]]  # weights 0 / 3 and 1 / 4


def test_layer_cam__differs_from_elementwise_where_an_activation_is_negative():
    activations, gradients = torch.tensor([[[-2.0], [3.0]]]), torch.tensor([[[1.0], [1.0]]])
    assert (layer_cam(activations, gradients).item(), elementwise_cam(activations, gradients).item()) == (1.0, 3.0)


def test_xgrad_cam__of_a_channel_that_sums_to_zero_ignores_it():
    activations, gradients = torch.tensor([[[1.0, -1.0], [1.0, 1.0]]]), torch.tensor([[[5.0, -5.0], [1.0, 1.0]]])
    assert xgrad_cam(activations, gradients).tolist() == [[1.0, 1.0]]


def test_counterfactual__is_grad_cam_of_the_opposite_score():
    activations, gradients = random_pair(2, 3, 4, 4)
    torch.testing.assert_close(counterfactual_cam(activations, gradients), grad_cam(activations, -gradients))


def test_grad_cam_and_counterfactual__never_overlap():
    activations, gradients = random_pair(2, 3, 4, 4)
    assert torch.minimum(grad_cam(activations, gradients), counterfactual_cam(activations, gradients)).max() == 0


def principal_component(activations: Tensor, centered: bool) -> Tensor:
    """The covariance's leading eigenvector, by power iteration."""
    samples = activations.flatten(1).T
    features = samples - samples.mean(0) if centered else samples
    direction = torch.ones(samples.shape[1], dtype=samples.dtype)
    for _ in range(5000):
        direction = features.T @ (features @ direction)
        direction /= direction.norm()
    projection = features @ direction
    sign = 1 if projection @ samples.mean(1) >= 0 else -1
    return (sign * projection).relu().reshape(activations.shape[1:])


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("shape", [(7, 3, 4), (3, 5, 5), (4, 2, 3, 2)])
def test_eigen_cam__is_the_projection_on_the_first_principal_component(centered, shape):
    activations = torch.rand(2, *shape, dtype=torch.float64)
    expected = torch.stack([principal_component(each, centered) for each in activations])
    found = eigen_cam(activations, torch.zeros_like(activations), centered=centered)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_eigen_cam__has_a_sign_that_the_channels_order_cannot_change():
    activations, gradients = random_pair(3, 6, 4, 4)
    flipped = eigen_cam(activations.flip(1), gradients)
    torch.testing.assert_close(eigen_cam(activations, gradients), flipped)


def test_eigen_cam__equals_pytorch_grad_cam_up_to_its_sign():
    peer = pytest.importorskip("pytorch_grad_cam.utils.svd_on_activations")
    activations, gradients = random_pair(4, 6, 5, 5)
    signed = torch.from_numpy(peer.get_2d_projection(activations.numpy())).double()
    found = eigen_cam(activations, gradients)
    same = torch.stack([(found - signed.relu()).abs().amax((1, 2)), (found - (-signed).relu()).abs().amax((1, 2))])
    assert same.amin(0).max() < 1e-5


@FUNCTIONS
def test_method__of_an_empty_batch_is_empty(method):
    assert method(torch.zeros(0, 3, 2, 2), torch.zeros(0, 3, 2, 2)).shape == (0, 2, 2)


@FUNCTIONS
def test_method__of_a_map_over_time_equals_that_of_one_long_frame(method):
    activations, gradients = random_pair(2, 3, 4, 2, 5)
    long = method(activations.flatten(2, 3), gradients.flatten(2, 3))
    torch.testing.assert_close(method(activations, gradients), long.reshape(2, 4, 2, 5))


@FUNCTIONS
def test_method__of_a_batch_equals_that_of_each_image(method):
    activations, gradients = random_pair(4, 3, 3, 3)
    alone = [method(activations[i : i + 1], gradients[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(method(activations, gradients), torch.cat(alone))


@FUNCTIONS
def test_method__is_never_negative_for_negative_activations(method):
    activations, gradients = torch.randn(4, 3, 3, 3), torch.randn(4, 3, 3, 3)
    assert method(activations, gradients).min() >= 0


@FUNCTIONS
def test_method__of_zeros_is_zero(method):
    zeros = torch.zeros(2, 3, 2, 2)
    assert is_empty(method(zeros, zeros)).all()
    assert method(zeros, zeros).eq(0).all()


@FUNCTIONS
def test_method__keeps_nan_within_its_image(method):
    activations, gradients = random_pair(3, 4, 3, 3)
    expected = method(activations, gradients)
    activations[1, 2, 0, 0] = torch.nan
    gradients[1, 2, 0, 0] = torch.nan
    found = method(activations, gradients)
    assert is_empty(found)[1]
    assert found[[0, 2]].isfinite().all()
    torch.testing.assert_close(found[[0, 2]], expected[[0, 2]])


@FUNCTIONS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_method__of_half_precision_is_computed_in_float32(method, dtype):
    activations, gradients = (100 * torch.rand(2, 8, 7, 7)).to(dtype), (100 * torch.randn(2, 8, 7, 7)).to(dtype)
    found = method(activations, gradients)
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    torch.testing.assert_close(found, method(activations.float(), gradients.float()))


@FUNCTIONS
def test_method__is_the_same_under_autocast(method):
    activations, gradients = random_pair(2, 8, 4, 4, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = method(activations, gradients)
    assert torch.equal(found, method(activations, gradients))
    assert found.dtype == torch.float32


@FUNCTIONS
def test_method__leaves_what_it_reads_alone(method):
    activations, gradients = random_pair(2, 3, 3, 3)
    copies = activations.clone(), gradients.clone()
    method(activations, gradients)
    assert torch.equal(activations, copies[0])
    assert torch.equal(gradients, copies[1])


@pytest.mark.parametrize("method", [contribution, grad_cam, hires_cam, layer_cam, grad_cam_plus_plus, elementwise_cam])
def test_method__can_be_differentiated_twice(method):
    activations, gradients = (tensor.requires_grad_() for tensor in random_pair(2, 2, 2, 2))
    assert torch.autograd.gradcheck(method, (activations, gradients))
    assert torch.autograd.gradgradcheck(method, (activations, gradients))


def test_resolve_method__of_an_unknown_name_lists_the_known():
    with pytest.raises(MethodError, match=r"'grad_cma'.*elementwise_cam, grad_cam,"):
        resolve_method("grad_cma")
