"""Both forms of HINT against loops and hand-worked numbers."""

import torch
from torch.autograd import gradcheck, gradgradcheck

from camtrain.losses import HINTLoss, SquaredHINTLoss, misranking, squared_misalignment


def by_loops(importance, human):
    total = 0.0
    for r in range(len(human)):
        for s in range(len(human)):
            if human[r] > human[s] and importance[s] > importance[r]:
                total += abs(importance[s] - importance[r])
    return total


def test_misranking__equals_the_sum_over_pairs():
    importance, human = torch.randn(5, 9), torch.randint(0, 4, (5, 9)).float()
    expected = torch.tensor([by_loops(i.tolist(), h.tolist()) for i, h in zip(importance, human, strict=True)])
    torch.testing.assert_close(misranking(importance, human), expected)


def test_misranking__of_the_human_order_is_zero():
    human = torch.rand(2, 6)
    assert misranking(3 * human - 1, human).tolist() == [0, 0]


def test_misranking__of_regions_ranked_equal_is_zero():
    assert misranking(torch.rand(1, 6), torch.ones(1, 6)).item() == 0


def test_misranking__pushes_the_two_regions_toward_each_other():
    importance = torch.tensor([[1.0, 3.0]], requires_grad=True)
    misranking(importance, torch.tensor([[1.0, 0.0]])).sum().backward()
    assert importance.grad.tolist() == [[-1, 1]]


def test_misranking__passes_gradcheck_and_gradgradcheck():
    importance = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    human = torch.rand(2, 5, dtype=torch.float64)
    assert gradcheck(lambda i: misranking(i, human), importance)
    assert gradgradcheck(lambda i: misranking(i, human).square(), importance)


def test_hint_loss__averages_over_annotated_images_with_pooled_masks():
    maps = torch.tensor([[[1.0, 3.0]], [[9.0, 0.0]]])
    masks = torch.stack([torch.tensor([[1.0, 1.0, 0.0, 0.0]] * 2), -torch.ones(2, 4)])
    assert HINTLoss()(maps, masks).item() == 2


def test_hint_loss__of_an_unannotated_batch_is_a_zero_without_a_graph():
    value = HINTLoss()(torch.rand(2, 2, 2, requires_grad=True), -torch.ones(2, 4, 4))
    assert value.item() == 0
    assert not value.requires_grad


def test_squared_misalignment__equals_the_mean_over_regions_of_each_rescaled_map():
    importance, human = torch.randn(4, 9, dtype=torch.float64), torch.rand(4, 9, dtype=torch.float64)
    for row, wanted, found in zip(importance, human, squared_misalignment(importance, human), strict=True):
        rescaled = [(x - min(row)) / (max(row) - min(row)) for x in row]
        torch.testing.assert_close(found, sum((x - y) ** 2 for x, y in zip(rescaled, wanted, strict=True)) / 9)


def test_squared_misalignment__does_not_depend_on_scale_and_offset():
    importance, human = torch.randn(2, 5), torch.rand(2, 5)
    torch.testing.assert_close(squared_misalignment(3 * importance - 7, human), squared_misalignment(importance, human))


def test_squared_misalignment__takes_a_constant_map_as_zero_without_a_gradient():
    importance = torch.full((1, 4), 2.0, requires_grad=True)
    value = squared_misalignment(importance, torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
    assert value.tolist() == [0.25]
    value.sum().backward()
    assert importance.grad.tolist() == [[0, 0, 0, 0]]


def test_squared_misalignment__passes_gradcheck_and_gradgradcheck():
    importance = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    human = torch.rand(2, 5, dtype=torch.float64)
    assert gradcheck(lambda i: squared_misalignment(i, human), importance)
    assert gradgradcheck(lambda i: squared_misalignment(i, human), importance)


def test_squared_hint_loss__averages_over_annotated_images_with_pooled_masks():
    maps = torch.tensor([[[1.0, 3.0]], [[9.0, 0.0]]])
    masks = torch.stack([torch.tensor([[1.0, 1.0, 0.0, 0.0]] * 2), -torch.ones(2, 4)])
    assert SquaredHINTLoss()(maps, masks).item() == 1


def test_squared_hint_loss__of_an_unannotated_batch_is_a_zero_without_a_graph():
    value = SquaredHINTLoss()(torch.rand(2, 2, 2, requires_grad=True), -torch.ones(2, 4, 4))
    assert value.item() == 0
    assert not value.requires_grad
