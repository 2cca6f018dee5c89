import pytest
import torch

from camtrain.metrics import GroupAccuracy, WorstGroupAccuracy, group_accuracy, worst_group_accuracy

CORRECT = torch.tensor([True, True, False, True, False])
GROUPS = torch.tensor([0, 0, 0, 2, -1])


def test_group_accuracy__is_the_hand_worked_one():
    accuracies = group_accuracy(CORRECT, GROUPS, 3)
    assert accuracies[0].item() == pytest.approx(2 / 3)
    assert accuracies[1].isnan()
    assert accuracies[2].item() == 1


def test_worst_group__ignores_groups_without_images():
    assert worst_group_accuracy(CORRECT, GROUPS, 5).item() == pytest.approx(2 / 3)


def test_worst_group__of_nothing_is_nan():
    assert worst_group_accuracy(CORRECT[:0], GROUPS[:0], 3).isnan()
    assert WorstGroupAccuracy(2, sync_on_compute=False)._update_count == 0


def test_group_metrics__over_batches_equal_the_function_over_all():
    logits, labels = torch.randn(40, 3), torch.randint(3, (40,))
    groups = torch.randint(-1, 4, (40,))
    worst, each = WorstGroupAccuracy(4), GroupAccuracy(4)
    for part in range(0, 40, 16):
        for metric in (worst, each):
            metric.update(logits[part : part + 16], labels[part : part + 16], groups[part : part + 16])
    correct = logits.argmax(1) == labels
    torch.testing.assert_close(worst.compute(), worst_group_accuracy(correct, groups, 4))
    torch.testing.assert_close(each.compute(), group_accuracy(correct, groups, 4), equal_nan=True)


def test_groups__outside_the_number_of_groups_are_refused():
    with pytest.raises(ValueError, match="Group 2 is outside the 2 groups"):
        group_accuracy(CORRECT, GROUPS, 2)
    with pytest.raises(ValueError, match="num_groups must be at least 1, got 0"):
        WorstGroupAccuracy(0)
