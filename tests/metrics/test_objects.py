import math

import pytest
import torch

from camtrain.metrics import class_discrimination, instance_coverage

NUMBERS = torch.tensor([[[1, 1, 0, 2], [0, 0, 0, 3]]])
CAT = torch.tensor([[[1.0, 1.0, 0.0, 0.0]]])
DOG = torch.tensor([[[0.0, 0.0, 0.0, 1.0]]])


@pytest.mark.parametrize(
    ("heat", "share"),
    [
        ([[6.0, 6.0, 0.0, 6.0], [0.0, 0.0, 0.0, 6.0]], 1.0),
        ([[9.0, 0.0, 0.0, 0.5], [0.0, 0.0, 0.0, 2.0]], 2 / 3),  # mean 1.4375; 4.5, 0.5 and 2 on the objects
        ([[0.0, 0.0, 9.0, 0.0], [0.0, 0.0, 0.0, 0.0]], 0.0),
        ([[2.0, 2.0, 2.0, 2.0], [2.0, 2.0, 2.0, 2.0]], 0.0),
    ],
    ids=["all", "two of three", "between", "uniform"],
)
def test_instance_coverage__is_the_hand_worked_share(heat, share):
    assert instance_coverage(torch.tensor([heat]), NUMBERS).item() == pytest.approx(share)


def test_instance_coverage__asks_images_of_several_objects_only():
    numbers = torch.cat([NUMBERS, (NUMBERS == 1).long(), torch.full_like(NUMBERS, -1), NUMBERS])
    heat = torch.rand(4, 2, 4)
    heat[3] = 0
    assert instance_coverage(heat, numbers).isnan().tolist() == [False, True, True, True]


def test_instance_coverage__does_not_depend_on_scale_or_numbering():
    heat, numbers = torch.rand(5, 4, 6), torch.randint(0, 5, (5, 4, 6))
    found = instance_coverage(heat, numbers)
    torch.testing.assert_close(instance_coverage(1e3 * heat, torch.where(numbers > 0, 10 - numbers, 0)), found)


def test_instance_coverage__of_an_empty_batch_is_empty():
    assert instance_coverage(torch.zeros(0, 2, 2), torch.zeros(0, 4, 4, dtype=torch.long)).shape == (0,)


def test_class_discrimination__compares_means_not_sums():
    heat = torch.tensor([[[1.0, 1.0, 5.0, 3.0]]])  # sums 2 and 3, means 1 and 3
    assert class_discrimination(heat, DOG, CAT).item() == pytest.approx(0.75)
    assert class_discrimination(heat, CAT, DOG).item() == pytest.approx(0.25)
    assert class_discrimination(torch.ones(1, 1, 4), CAT, DOG).item() == pytest.approx(0.5)


def test_class_discrimination__counts_nothing_where_objects_overlap():
    heat, both = torch.tensor([[[9.0, 1.0, 5.0, 1.0]]]), torch.tensor([[[1.0, 0.0, 0.0, 1.0]]])
    assert class_discrimination(heat, CAT, both).item() == pytest.approx(1 / 2)


@pytest.mark.parametrize(
    ("heat", "own", "other"),
    [
        (torch.zeros(1, 1, 4), CAT, DOG),
        (torch.full((1, 1, 4), math.nan), CAT, DOG),
        (torch.ones(1, 1, 4), 0 * CAT, DOG),
        (torch.ones(1, 1, 4), CAT, 0 * DOG - 1),
        (torch.tensor([[[0.0, 0.0, 1.0, 0.0]]]), CAT, DOG),
    ],
    ids=["empty map", "nan map", "no object", "unannotated", "evidence on neither"],
)
def test_class_discrimination__of_what_has_no_answer_is_nan(heat, own, other):
    assert class_discrimination(heat, own, other).isnan().all()
