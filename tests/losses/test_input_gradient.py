"""Right for the right reasons against a closed form."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from camtrain.errors import GradientError
from camtrain.losses import InputGradientLoss, input_gradients, outside_gradient


def linear_batch(dtype=torch.float64):
    torch.manual_seed(2)
    images = torch.rand(2, 3, 2, 2, dtype=dtype, requires_grad=True)
    return images, torch.randn(12, 5, dtype=dtype), torch.tensor([[[1.0, 0.0], [0.5, 0.0]]] * 2, dtype=dtype)


def test_input_gradients__of_a_linear_network_have_a_closed_form():
    """d/dx sum_k log p_k = sum_k W_k - K sum_k p_k W_k."""
    images, weights, _ = linear_batch()
    logits = images.flatten(1) @ weights
    expected = weights.sum(1) - 5 * logits.softmax(1) @ weights.T
    torch.testing.assert_close(input_gradients(images, logits).flatten(1), expected)


def test_input_gradient_loss__is_the_squared_gradient_off_the_mask():
    images, weights, masks = linear_batch()
    logits = images.flatten(1) @ weights
    gradients = (weights.sum(1) - 5 * logits.softmax(1) @ weights.T).view(2, 3, 2, 2)
    expected = ((1 - masks.unsqueeze(1)) * gradients).pow(2).sum() / 2
    torch.testing.assert_close(InputGradientLoss()(images, logits, masks), expected)


def test_input_gradient_loss__leaves_unannotated_images_out():
    images, weights, masks = linear_batch()
    logits = images.flatten(1) @ weights
    first = InputGradientLoss()(images[:1].detach().requires_grad_(), logits[:1], -torch.ones(1, 2, 2))
    assert first.item() == 0
    half = torch.cat([masks[:1], -torch.ones(1, 2, 2, dtype=torch.float64)])
    whole = outside_gradient(input_gradients(images, logits), masks)
    torch.testing.assert_close(InputGradientLoss()(images, logits, half), whole[0])


def test_input_gradient_loss__has_the_right_gradient_for_the_weights():
    images, weights, masks = linear_batch()

    def loss(weights):
        return InputGradientLoss()(images, (images.flatten(1) @ weights).square(), masks)

    assert gradcheck(loss, weights.requires_grad_())
    assert gradgradcheck(loss, weights)


def test_outside_gradient__passes_gradcheck_and_gradgradcheck():
    gradients = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    masks = torch.rand(2, 2, 2, dtype=torch.float64)
    assert gradcheck(lambda g: outside_gradient(g, masks), gradients)
    assert gradgradcheck(lambda g: outside_gradient(g, masks), gradients)


def test_input_gradient_loss__says_how_to_get_a_gradient():
    images, weights, masks = linear_batch()
    logits = images.flatten(1) @ weights
    with pytest.raises(GradientError, match="requires_grad_"):
        InputGradientLoss()(images.detach(), logits, masks)
    with pytest.raises(GradientError, match="no graph"):
        InputGradientLoss()(images, logits.detach(), masks)
    with pytest.raises(GradientError, match="very tensor"):
        InputGradientLoss()(torch.rand_like(images, requires_grad=True), logits, masks)
