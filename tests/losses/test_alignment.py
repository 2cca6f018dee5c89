"""Alignment penalties against hand-worked numbers and finite differences."""

import pytest
import torch
from jsonargparse import ArgumentParser
from torch.autograd import gradcheck, gradgradcheck

from camtrain.cam import contribution_cam, grad_cam, gradients_of, hires_cam, layer_cam, log_probability
from camtrain.errors import ConfigurationError
from camtrain.losses import (
    AlignmentLoss,
    dice_distance,
    inside_cross_entropy,
    inside_hinge,
    iou_distance,
    outside_energy,
    outside_l1,
    outside_squared,
    squared_error,
)
from camtrain.losses.alignment import find_penalty

PENALTIES = [
    outside_energy,
    outside_l1,
    inside_cross_entropy,
    outside_squared,
    squared_error,
    dice_distance,
    iou_distance,
    inside_hinge,
]
MAP = torch.tensor([[[4.0, 2.0], [1.0, 1.0]]])
MASK = torch.tensor([[[1.0, 0.0], [0.0, 0.5]]])


def test_outside_energy__of_a_hand_worked_map():
    assert outside_energy(MAP, MASK).item() == pytest.approx((2 + 1 + 0.5) / 8)


def test_outside_l1__of_a_hand_worked_map():
    assert outside_l1(MAP, MASK).item() == pytest.approx((0 + 0.5 + 0.25 + 0.25) / 4)


def test_inside_cross_entropy__of_a_hand_worked_map():
    expected = -(1 * torch.tensor(1.0).log() + 0.5 * torch.tensor(0.25).log()) / 1.5
    assert inside_cross_entropy(MAP, MASK).item() == pytest.approx(expected.item())


def test_outside_squared__of_a_hand_worked_map():
    assert outside_squared(MAP, MASK).item() == pytest.approx(0.25 + 1 / 16 + 0.5 / 16)


def test_squared_error__of_a_hand_worked_map():
    assert squared_error(MAP, MASK).item() == pytest.approx((0 + 0.25 + 1 / 16 + 1 / 16) / 4)


def test_dice_distance__of_a_hand_worked_map():
    assert dice_distance(MAP, MASK).item() == pytest.approx(1 - 2 * 1.125 / (1.5 + 2))


def test_iou_distance__of_a_hand_worked_map():
    assert iou_distance(MAP, MASK).item() == pytest.approx(1 - 1.125 / (1.5 + 2 - 1.125))


def test_inside_hinge__of_a_hand_worked_map():
    assert inside_hinge(MAP, MASK).item() == pytest.approx(0.8 - 4.5 / 8)
    assert inside_hinge(MAP, MASK, enough=0.5).item() == 0


@pytest.mark.parametrize(
    ("mask", "tolerated"),
    [
        ([1.0, 1.0, 1.0, 0.0], 0.25),  # a small region that must not matter: its fair share
        ([1.0, 0.0, 0.0, 0.0], 0.25),  # a small object: its background may keep what the object would have by chance
        ([1.0, 1.0, 0.0, 0.0], 0.5),
        ([1.0, 1.0, 1.0, 1.0], 0.0),
        ([0.0, 0.0, 0.0, 0.0], 0.0),
    ],
)
def test_tolerance__is_taken_off_the_energy_outside(mask, tolerated):
    maps, masks = torch.tensor([[1.0, 2.0, 3.0, 10.0]]), torch.tensor([mask])
    outside = outside_energy(maps, masks).item()
    assert AlignmentLoss(tolerance=1.0)(maps, masks).item() == pytest.approx(max(0, outside - tolerated))
    assert AlignmentLoss(tolerance=0.5)(maps, masks).item() == pytest.approx(max(0, outside - tolerated / 2))
    assert AlignmentLoss()(maps, masks).item() == outside


def test_tolerance__is_that_of_the_batch_as_a_whole():
    masks = torch.tensor([[1.0, 1.0, 1.0, 0.0]]).repeat(2, 1)
    maps = torch.tensor([[1.0, 1.0, 0.0, 2.0], [4.0, 4.0, 4.0, 0.0]], requires_grad=True)
    loss = AlignmentLoss(tolerance=1.0)
    assert loss(maps[:1], masks[:1]).item() == pytest.approx(0.25)
    satisfied = loss(maps, masks)  # (0.5 + 0) / 2 outside, 0.25 tolerated
    satisfied.backward()
    assert (satisfied.item(), torch.count_nonzero(maps.grad)) == (0, 0)


def test_tolerance__leaves_no_room_for_others_where_maps_are_dead_or_not_annotated():
    masks = torch.tensor([[1.0, 1.0, 1.0, 0.0]]).repeat(3, 1)
    masks[2] = -1
    maps = torch.tensor([[1.0, 1.0, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    assert AlignmentLoss(tolerance=1.0)(maps, masks).item() == pytest.approx((0.5 - 0.25) / 2)


@pytest.mark.parametrize("tolerance", [-0.1, float("nan"), float("inf")])
def test_tolerance__that_cannot_be_meant_is_refused(tolerance):
    with pytest.raises(ConfigurationError, match="tolerance is a finite number and at least 0"):
        AlignmentLoss(tolerance=tolerance)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_penalties__do_not_see_the_scale_of_a_map(penalty):
    torch.testing.assert_close(penalty(1e-6 * MAP, MASK), penalty(MAP, MASK))


@pytest.mark.parametrize("penalty", PENALTIES)
def test_penalties__of_a_dead_map_are_zero_with_a_zero_gradient(penalty):
    maps = torch.zeros(2, 3, 3, requires_grad=True)
    value = penalty(maps, torch.rand(2, 3, 3))
    value.sum().backward()
    assert value.tolist() == [0, 0]
    assert torch.equal(maps.grad, torch.zeros(2, 3, 3))


@pytest.mark.parametrize("penalty", PENALTIES)
def test_penalties__have_finite_gradients_for_tiny_and_huge_maps(penalty):
    for scale in (1e-37, 1e30):
        maps = (MAP * scale).requires_grad_()
        (gradient,) = torch.autograd.grad(penalty(maps, MASK).sum(), maps)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("penalty", PENALTIES)
def test_penalties__pass_gradcheck_and_gradgradcheck(penalty):
    maps = (torch.rand(3, 2, 4, dtype=torch.float64) + 0.1).requires_grad_()
    masks = torch.rand(3, 2, 4, dtype=torch.float64).round(decimals=1)
    assert gradcheck(lambda m: penalty(m, masks), maps)
    assert gradgradcheck(lambda m: penalty(m, masks), maps)


@pytest.mark.parametrize(("tolerance", "satisfied"), [(0.1, False), (3.0, True)])
def test_tolerance__passes_gradcheck_and_gradgradcheck(tolerance, satisfied):
    maps = (torch.rand(3, 2, 4, dtype=torch.float64) + 0.1).requires_grad_()
    masks = torch.rand(3, 2, 4, dtype=torch.float64).round(decimals=1)
    loss = AlignmentLoss(tolerance=tolerance)
    assert bool(loss(maps, masks) == 0) == satisfied
    assert gradcheck(lambda m: loss(m, masks), maps)
    assert gradgradcheck(lambda m: loss(m, masks), maps)


@pytest.mark.parametrize("tolerance", [0.0, 1.0])
def test_outside_energy__under_a_full_mask_is_exactly_zero_with_a_zero_gradient(tolerance):
    maps = torch.rand(4, 7, 7, requires_grad=True)
    value = AlignmentLoss(tolerance=tolerance)(maps, torch.ones(4, 224, 224))
    value.backward()
    assert value.item() == 0
    assert torch.count_nonzero(maps.grad) == 0


def test_outside_energy__under_an_empty_mask_is_one():
    assert outside_energy(MAP, torch.zeros_like(MAP)).item() == 1


def test_inside_cross_entropy__under_an_empty_mask_is_zero():
    assert inside_cross_entropy(MAP, torch.zeros_like(MAP)).item() == 0


def test_inside_cross_entropy__of_an_empty_cell_is_large_and_finite():
    value = inside_cross_entropy(torch.tensor([[1.0, 0.0]]), torch.ones(1, 2))
    assert 7 < value.item() < 9


def test_alignment_loss__pools_masks_by_area():
    masks = torch.zeros(1, 4, 4)
    masks[:, :, :3] = 1  # cells of the 2x2 grid: 1 and 1/2
    assert AlignmentLoss()(torch.ones(1, 2, 2), masks).item() == pytest.approx(0.25)


def test_alignment_loss__takes_volumes():
    assert AlignmentLoss()(torch.ones(1, 2, 2, 2), torch.zeros(1, 4, 4, 4)).item() == 1


def test_alignment_loss__leaves_unannotated_images_out_whatever_their_maps_hold():
    maps = torch.stack([MAP[0], torch.full((2, 2), torch.nan)]).requires_grad_()
    masks = torch.stack([MASK[0], -torch.ones(2, 2)])
    value = AlignmentLoss()(maps, masks)
    value.backward()
    assert value.item() == pytest.approx(3.5 / 8)
    assert torch.equal(maps.grad[1], torch.zeros(2, 2))


def test_alignment_loss__of_an_unannotated_batch_is_a_zero_without_a_graph():
    weight = torch.ones(1, requires_grad=True)
    value = AlignmentLoss()(weight * torch.full((2, 3, 3), torch.inf), -torch.ones(2, 6, 6))
    assert value.item() == 0
    assert not value.requires_grad
    (weight.sum() + value).backward()
    assert weight.grad.item() == 1


def test_alignment_loss__takes_any_penalty():
    loss = AlignmentLoss(lambda heatmaps, masks: heatmaps.flatten(1).sum(dim=1))
    assert loss(MAP, MASK).item() == 8


@pytest.mark.parametrize("penalty", PENALTIES)
def test_alignment_loss__finds_a_penalty_by_name(penalty):
    assert torch.equal(AlignmentLoss(penalty.__name__)(MAP, MASK), AlignmentLoss(penalty)(MAP, MASK))


@pytest.mark.parametrize("penalty", ["outside_l2", "torch", ""])
def test_find_penalty__names_those_that_are_known(penalty):
    with pytest.raises(ConfigurationError, match=f"one of outside_energy, outside_l1, .*; got '{penalty}'"):
        find_penalty(penalty)


@pytest.mark.parametrize("penalty", ["outside_l1", "camtrain.losses.outside_l1"])
def test_alignment_loss__takes_a_name_or_an_import_path_in_yaml(penalty):
    parser = ArgumentParser()
    parser.add_class_arguments(AlignmentLoss, "loss")
    parsed = parser.parse_string(f"loss: {{penalty: {penalty}}}")
    assert AlignmentLoss(**parsed.loss).penalty is outside_l1
    assert f"penalty: {penalty}\n" in parser.dump(parsed)


@pytest.mark.parametrize("method", [contribution_cam, grad_cam, hires_cam, layer_cam])
@pytest.mark.parametrize("penalty", PENALTIES)
def test_alignment_loss__has_the_right_gradient_through_a_network(method, penalty):
    """Second order: the map holds a gradient, and the weights see it through finite differences."""
    torch.manual_seed(1)
    images, labels = torch.rand(2, 2, 4, 4, dtype=torch.float64), torch.tensor([0, 2])
    masks = torch.rand(2, 4, 4, dtype=torch.float64)
    head = torch.rand(3, 3, dtype=torch.float64)

    def loss(kernel, weights):
        activations = torch.nn.functional.softplus(torch.nn.functional.conv2d(images, kernel, padding=1))
        logits = (activations.square().mean((2, 3))) @ weights
        (gradients,) = gradients_of(log_probability(logits, labels), [activations], create_graph=True)
        return AlignmentLoss(penalty)(method(activations, gradients), masks)

    kernel = torch.randn(3, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(loss, (kernel, head.requires_grad_()))
