"""Consistency under a flip, by hand."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from camtrain.losses import ConsistencyLoss, flip_inconsistency

MAP = torch.tensor([[[3.0, 1.0], [0.0, 0.0]]])


def test_flip_inconsistency__is_zero_where_the_map_moves_with_the_image():
    assert flip_inconsistency(MAP, 5 * MAP.flip(-1)).tolist() == [0]
    assert flip_inconsistency(MAP, MAP.flip(-2), dim=-2).tolist() == [0]


def test_flip_inconsistency__of_a_map_that_stays_by_hand():
    assert flip_inconsistency(MAP, MAP).item() == pytest.approx((0.5 + 0.5) / 2)


def test_flip_inconsistency__is_one_without_a_common_cell():
    left = torch.tensor([[2.0, 0.0]])
    assert flip_inconsistency(left, left).tolist() == [1]


def test_consistency_loss__leaves_dead_maps_out():
    pairs = torch.cat([MAP, torch.zeros_like(MAP)])
    assert ConsistencyLoss()(pairs, pairs).item() == pytest.approx(0.5)
    dead = torch.zeros(2, 2, 2, requires_grad=True)
    assert ConsistencyLoss()(dead, dead).item() == 0
    assert ConsistencyLoss()(MAP[:0], MAP[:0]).item() == 0


def test_flip_inconsistency__passes_gradcheck_and_gradgradcheck():
    maps = (torch.rand(2, 2, 3, dtype=torch.float64) + 0.1).requires_grad_()
    others = (torch.rand(2, 2, 3, dtype=torch.float64) + 0.1).requires_grad_()
    assert gradcheck(flip_inconsistency, (maps, others))
    assert gradgradcheck(flip_inconsistency, (maps, others))
