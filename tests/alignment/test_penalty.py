"""The penalty of a recorded call, by hand."""

import pytest
import torch
from torch import nn

from camtrain.alignment.network import recording
from camtrain.alignment.penalty import penalize, require_gradient, squared_norms
from camtrain.cam import Layer, annotated, contribution_cam, log_probability
from camtrain.data.batches import Batch
from camtrain.errors import BatchError, GradientError
from camtrain.losses import AlignmentLoss


def recorded(net, images):
    layer = Layer("0", net[0])
    with recording({"net": net}, [layer]) as calls:
        net(images)
    (call,) = calls.made
    return call, [layer]


def small_net(width=4):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3))


def batch_of(count=4):
    masks = torch.zeros(count, 8, 8)
    masks[:, :4] = 1
    return Batch(torch.rand(count, 3, 8, 8), torch.arange(count) % 3, masks)


def penalty_of(call, layers, batch):
    how = {"method": contribution_cam, "target": log_probability, "loss": AlignmentLoss()}
    return penalize(call, layers, batch, **how, annotated=annotated(batch.masks))


def test_penalty__of_confident_answers_survives_half_precision():
    """The gradient of a log-probability of 0.9999 is far below what float16 can hold."""
    net, batch = small_net(), batch_of()
    with torch.no_grad():
        net[4].weight.mul_(0.01)
        net[4].bias.copy_(torch.tensor([12.0, 0.0, 0.0]))
    batch = Batch(batch.images, torch.zeros(4, dtype=torch.long), batch.masks)
    exact = penalty_of(*recorded(net, batch.images), batch)
    with torch.autocast("cpu", dtype=torch.float16):
        call, layers = recorded(net, batch.images)
        half = penalty_of(call, layers, batch)
    assert call.activations[0].dtype == torch.float16
    assert half.dead == 0
    torch.testing.assert_close(half.value, exact.value, rtol=0.02, atol=0)
    gradients = torch.autograd.grad(half.value, list(net.parameters()), allow_unused=True)
    assert all(g.isfinite().all() for g in gradients if g is not None)


def test_penalty__counts_dead_maps_among_annotated_images():
    net, batch = small_net(), batch_of()
    net[0].weight.data.zero_()
    net[0].bias.data.zero_()
    penalty = penalty_of(*recorded(net, batch.images), batch)
    assert penalty.dead == 1
    assert penalty.value == 0


def test_penalty__of_another_number_of_rows_is_refused():
    net, batch = small_net(), batch_of()
    call, layers = recorded(net, torch.cat([batch.images, batch.images]))
    with pytest.raises(BatchError, match="holds 4 images and net returned 8 rows"):
        penalty_of(call, layers, batch)


def test_require_gradient__tells_zero_from_none():
    weight = nn.Linear(2, 1)
    assert require_gradient(weight(torch.ones(1, 2)).sum(), weight)
    assert not require_gradient(0 * weight(torch.ones(1, 2)).sum(), weight)
    for value in (torch.tensor(1.0), torch.ones((), requires_grad=True) * 2):
        with pytest.raises(GradientError, match="any trainable parameter"):
            require_gradient(value, weight)


def test_squared_norms__of_a_task_and_a_penalty_by_hand():
    x = torch.ones(2, 2, requires_grad=True) * 1.0
    norms = squared_norms((3 * x).sum(), x.square().sum(), [x])
    assert [norm.item() for norm in norms] == [36.0, 16.0]
    assert [norm.item() for norm in squared_norms(torch.tensor(1.0), x.sum(), [x])] == [0.0, 4.0]
