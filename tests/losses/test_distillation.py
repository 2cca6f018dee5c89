"""Explanation distillation against hand-worked numbers."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from camtrain.losses import HeatmapDistillationLoss, heatmap_distance, match_grid, unit_norm


def test_heatmap_distillation_loss__is_cross_entropy_plus_alpha_times_the_squared_distance():
    logits, labels = torch.randn(2, 3), torch.tensor([0, 2])
    student = torch.tensor([[[1.0, 2.0]], [[0.0, 0.0]]])
    teacher = torch.tensor([[[0.0, 4.0]], [[1.0, 1.0]]])  # squared distances 5 and 2
    value = HeatmapDistillationLoss(alpha=0.1)(logits, labels, student, teacher)
    torch.testing.assert_close(value, F.cross_entropy(logits, labels) + 0.1 * 3.5)


def test_heatmap_distillation_loss__without_alpha_is_cross_entropy():
    value = HeatmapDistillationLoss(alpha=0.0)(
        torch.zeros(1, 4), torch.tensor([1]), torch.rand(1, 2, 2), torch.rand(1, 3, 3)
    )
    assert value.item() == pytest.approx(math.log(4))


def test_heatmap_distillation_loss__gives_the_teacher_no_gradient():
    student, teacher = (torch.rand(2, 2, 2, requires_grad=True) for _ in range(2))
    HeatmapDistillationLoss()(torch.zeros(2, 2), torch.tensor([0, 1]), student, teacher).backward()
    assert teacher.grad is None
    torch.testing.assert_close(student.grad, (student - teacher).detach())  # 2 (s - t) over a batch of 2


def test_heatmap_distillation_loss__refuses_a_negative_alpha():
    with pytest.raises(ValueError, match=r"at least 0; got -1"):
        HeatmapDistillationLoss(alpha=-1.0)


def test_match_grid__averages_down_and_interpolates_up():
    fine = torch.tensor([[[0.0, 2.0], [4.0, 6.0]]])
    assert match_grid(fine, torch.Size([1, 1])).item() == 3
    assert match_grid(fine, torch.Size([4, 4])).shape == (1, 4, 4)
    torch.testing.assert_close(match_grid(torch.full((1, 2, 2), 0.5), torch.Size([5, 3])), torch.full((1, 5, 3), 0.5))


def test_heatmap_distance__compares_a_seven_by_seven_with_a_fourteen_by_fourteen_map():
    coarse = torch.rand(3, 7, 7)
    fine = coarse.repeat_interleave(2, 1).repeat_interleave(2, 2)
    torch.testing.assert_close(heatmap_distance(coarse, fine), torch.zeros(3))


def test_heatmap_distance__passes_gradcheck_and_gradgradcheck():
    student = torch.rand(2, 3, 3, dtype=torch.float64, requires_grad=True)
    teacher = torch.rand(2, 5, 4, dtype=torch.float64)
    assert gradcheck(lambda s: heatmap_distance(s, teacher), student)
    assert gradgradcheck(lambda s: heatmap_distance(s, teacher), student)


def test_unit_norm__passes_gradcheck_and_leaves_a_dead_map():
    maps = torch.rand(2, 3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(unit_norm, maps)
    assert gradgradcheck(unit_norm, maps)
    dead = torch.zeros(1, 3, requires_grad=True)
    unit_norm(dead).sum().backward()
    assert dead.grad.tolist() == [[0, 0, 0]]
