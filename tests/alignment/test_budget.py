"""How much of each term a batch gets."""

import pytest

from camtrain.alignment.budget import Balance, Dose


def test_balance__keeps_the_ratio_and_leaves_out_what_is_not_finite():
    balance = Balance(0.5)
    assert balance.weight == 0
    balance.add(float("inf"), 1.0)
    assert balance.weight == 0
    for _ in range(50):
        balance.add(task=9.0, penalty=1.0)
    assert balance.weight == pytest.approx(1.5)
    again = Balance(0.5)
    again.restore(balance.state())
    assert again.weight == balance.weight


@pytest.mark.parametrize(
    ("twins", "annotated", "weight"),
    [("auto", 100, 4.0), ("auto", 5, 2.2), ("auto", 1, 2.16), ("auto", 0, 2.0), (3.0, 5, 3.0)],
)
def test_added_twins__weigh_more_where_each_is_of_another_image(twins, annotated, weight):
    dose = Dose(twins, share=0.5, reuse=10.0)
    dose.see(100, annotated)
    assert dose.plan(32).weight == pytest.approx(weight)


@pytest.mark.parametrize(
    ("annotated", "kin", "weight", "added", "dealt"),
    [
        (100, 0.1, 1.0, 0, 1.0),
        (100, 0.5, 1.0, 0, 1.0),
        (90, 0.5, 1.0, 4, 0.9),  # 3.2 keep their own background without an annotation, and 3.2 twins make up for them
        (50, 0.5, 1.0, 16, 0.5),
        (50, 0.25, 15 / 7, 16, 0.5),  # 48 would be needed; 12 dealt and 16 added, for 20 that should be a third of them
        (5, 0.25, 2.2, 16, 0.05),
        (0, 0.25, 2.0, 1, 0.0),
        (100, 1.0, 4.0, 16, None),  # a batch of one class lends no other's: twins of earlier batches are added
    ],
)
def test_plan__adds_and_weighs_what_dealing_leaves_to_do(annotated, kin, weight, added, dealt):
    dose = Dose("auto", share=0.5, reuse=10.0)
    dose.see(100, annotated)
    plan = dose.plan(32, kin)
    assert (plan.added, plan.dealt) == (added, pytest.approx(dealt))
    assert plan.weight == pytest.approx(weight)


@pytest.mark.parametrize(
    ("losses", "added"),
    [
        ([], 13),
        ([(0.4, 0.4)], 13),
        ([(0.6, 0.4)], 13),
        ([(0.3, 0.4)], 5),
        ([(0.0, 0.4)], 1),
        ([(0.2, 0.4), (0.2, 0.0)], 13),
    ],
)
def test_plan__adds_fewer_of_what_is_known_by_heart(losses, added):
    dose = Dose("auto", share=0.4, reuse=10.0)
    dose.see(100, 10)
    for pair in losses:
        dose.compare(*pair)
    assert dose.plan(32).added == added
    assert dose.plan(32).weight == pytest.approx(2 + 2 * 3.2 / 13)  # what each weighs is not changed by that


def test_plan__of_a_given_weight_adds_as_many_whatever_is_known_by_heart():
    dose = Dose(2.0, share=0.5, reuse=10.0)
    dose.see(100, 100)
    dose.compare(0.0, 1.0)
    assert dose.plan(32).added == 16


def test_dose__keeps_running_means_without_what_is_not_finite_and_goes_on_from_a_checkpoint():
    dose, after = Dose("auto", share=0.5, reuse=10.0), Dose("auto", share=0.5, reuse=10.0)
    for twins, images in ((1.0, 2.0), (float("nan"), 2.0), (1.0, float("inf")), (3.0, 4.0)):
        dose.compare(twins, images)
    assert (dose.twins_loss, dose.images_loss, dose.measured) == (2.0, 3.0, 2)
    dose.see(10, 5)
    after.restore(dose.state())
    assert after == dose
    after.restore([7, 3])  # as checkpoints held it before
    assert (after.images, after.annotated, after.measured, after.worth) == (7, 3, 0, 1.0)


@pytest.mark.parametrize("kin", [None, 1.0])
def test_plan__of_an_empty_batch_adds_nothing(kin):
    for annotated in (0, 100):
        dose = Dose("auto", share=0.5, reuse=10.0)
        dose.see(annotated, annotated)
        assert dose.plan(0, kin).added == 0


def test_plan__leaves_a_weight_that_was_given_alone():
    dose = Dose(3.0, share=0.5, reuse=10.0)
    assert dose.plan(32, 0.25).weight == dose.plan(32).weight == 3
    assert dose.plan(32, 0.25).added == 0
