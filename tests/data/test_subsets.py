import pytest
import torch

from camtrain.data.subsets import annotated_subset, divide, held_out, stratified
from camtrain.errors import DataError


@pytest.mark.parametrize(("fraction", "kept"), [(0.0, 0), (0.001, 1), (0.05, 5), (0.5, 50), (1.0, 100)])
def test_annotated_subset__keeps_the_share_and_at_least_one(fraction, kept):
    assert int(annotated_subset(100, fraction).sum()) == kept


def test_annotated_subset__smaller_ones_lie_in_larger_ones():
    few, many = annotated_subset(100, 0.1, seed=3), annotated_subset(100, 0.4, seed=3)
    assert bool((many | ~few).all())
    assert not torch.equal(few, annotated_subset(100, 0.1, seed=4))


def test_annotated_subset__leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    annotated_subset(10, 0.5)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_annotated_subset__names_a_share_out_of_range(fraction):
    with pytest.raises(DataError, match=f"mask_fraction.*{fraction}"):
        annotated_subset(10, fraction)


def test_held_out__parts_are_disjoint_and_complete():
    kept, held = held_out(50, 0.3, seed=1)
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(50))
    assert len(held) == 15


def test_stratified__every_class_has_its_share():
    labels = torch.tensor([0] * 40 + [1] * 10)
    train, val, test = stratified(labels, [0.2, 0.1])
    assert sorted(train + val + test) == list(range(50))
    assert [torch.bincount(labels[part]).tolist() for part in (train, val, test)] == [[28, 7], [8, 2], [4, 1]]


def test_divide__holds_out_of_training_where_only_validation_is_missing():
    parts = divide(torch.zeros(6), ["train"] * 5 + ["test"], 0.2, 0.5)
    assert len(parts["train"]) == 4
    assert len(parts["val"]) == 1
    assert parts["test"] == [5]


def test_divide__without_test_images_tests_on_validation():
    parts = divide(torch.zeros(10), [None] * 10, 0.3, 0.0)
    assert parts["test"] == parts["val"]
    assert len(parts["val"]) == 3


def test_divide__refuses_an_empty_part():
    with pytest.raises(DataError, match=r"val_fraction=0.1.*give 2 and 0"):
        divide(torch.tensor([0, 1]), [None, None], 0.1, 0.0)
    with pytest.raises(DataError, match="less than 1"):
        divide(torch.zeros(4), [None] * 4, 0.5, 0.5)
