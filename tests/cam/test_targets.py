"""Targets, against numbers worked by hand and each formula's own gradient."""

import pytest
import torch

from camtrain.cam.targets import (
    class_index,
    find_logits,
    finer,
    log_probability,
    margin,
    multi_label,
    nth_class,
    predicted_class,
    sampled_positive,
    score_of,
    settled,
    top_k,
    true_class,
)
from camtrain.errors import BatchError

LOGITS = torch.tensor([[1.0, 5.0, 3.0, -2.0], [4.0, 0.0, 2.0, 3.0]])
LABELS = torch.tensor([2, 0])


def test_class_targets__pick_their_logit():
    assert predicted_class(LOGITS).tolist() == [5.0, 4.0]
    assert true_class(LOGITS, LABELS).tolist() == [3.0, 4.0]
    assert class_index(-1)(LOGITS, None).tolist() == [-2.0, 3.0]
    assert class_index(torch.tensor([3, 1]))(LOGITS, None).tolist() == [-2.0, 0.0]
    assert margin(1, 3)(LOGITS, None).tolist() == [7.0, -3.0]


@pytest.mark.parametrize("index", [4, -5, torch.tensor([0, 9])])
def test_class_index__outside_the_classes_is_refused(index):
    with pytest.raises(BatchError, match="outside the 4 classes"):
        class_index(index)(LOGITS, None)


def test_top_k__is_the_classes_by_rank():
    assert [target(LOGITS, None).tolist() for target in top_k(3)] == [[5.0, 4.0], [3.0, 3.0], [1.0, 2.0]]


def test_nth_class__beyond_the_classes_is_refused():
    with pytest.raises(BatchError, match="nth_class\\(4\\)"):
        nth_class(4)(LOGITS, None)


def test_log_probability__is_that_of_the_label_or_the_predicted_class():
    expected = LOGITS.double().softmax(1).log()
    torch.testing.assert_close(log_probability(LOGITS, LABELS).double(), expected[[0, 1], [2, 0]])
    torch.testing.assert_close(log_probability(LOGITS).double(), expected[[0, 1], [1, 0]])


def test_log_probability__of_half_logits_is_computed_in_float32():
    assert log_probability(torch.tensor([[0.0, 60000.0]]).half(), torch.tensor([0])).tolist() == [-60000.0]


def test_multi_label__sums_the_present_classes():
    assert multi_label(LOGITS, torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0]])).tolist() == [4.0, 0.0]
    assert multi_label(LOGITS).tolist() == [9.0, 9.0]


def test_multi_label__refuses_class_numbers():
    with pytest.raises(BatchError, match="multi-hot labels \\(2, 4\\), not \\(2,\\)"):
        multi_label(LOGITS, LABELS)


def test_sampled_positive__draws_every_class_that_is_present_and_no_other():
    labels = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0]])
    generator = torch.Generator().manual_seed(0)
    drawn = {round(sampled_positive(LOGITS, labels, generator=generator)[0].item(), 4) for _ in range(30)}
    expected = {round(torch.nn.functional.logsigmoid(torch.tensor(logit)).item(), 4) for logit in (1.0, 3.0)}
    assert drawn == expected
    assert sampled_positive(LOGITS, labels)[1] == 0


def test_sampled_positive__of_no_images_is_empty():
    assert sampled_positive(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0,)


def test_sampled_positive__refuses_class_numbers():
    with pytest.raises(BatchError, match="multi-hot labels \\(2, 4\\); got \\(2,\\)"):
        sampled_positive(LOGITS, LABELS)


def finer_as_written(logits, chosen):
    """The formula of Finer-CAM on one row: the three classes closest in logit, weighted by their probability."""
    others = [j for j in range(len(logits)) if j != chosen]
    rivals = sorted(others, key=lambda j: abs(float((logits[chosen] - logits[j]).detach())))[:3]
    p = logits.softmax(0)
    return sum(p[j] * (logits[chosen] - logits[j]) for j in rivals) / sum(p[j] for j in rivals)


@pytest.mark.parametrize("labels", [None, LABELS])
def test_finer__and_its_gradient_equal_the_formula(labels):
    logits = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    chosen = logits.argmax(1) if labels is None else labels
    expected = torch.stack([finer_as_written(row, c) for row, c in zip(logits, chosen, strict=True)])
    found = finer()(logits, labels)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(s.sum(), logits)[0] for s in (found, expected)))


def test_finer__equals_pytorch_grad_cam():
    peer = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    logits = torch.randn(7, dtype=torch.float64)
    order = logits.sub(logits[2]).abs().argsort()
    target = peer.FinerWeightedTarget(2, [int(order[i]) for i in (1, 2, 3)], alpha=1)
    torch.testing.assert_close(finer(index=2)(logits[None], None)[0], target(logits), rtol=1e-6, atol=1e-8)


def test_finer__of_two_classes_is_their_margin():
    logits = torch.tensor([[1.0, 4.0]])
    assert finer()(logits, None).tolist() == margin(1, 0)(logits, None).tolist()


def test_finer__of_one_class_is_refused():
    with pytest.raises(BatchError, match="only one"):
        finer()(torch.zeros(1, 1), None)


@pytest.mark.parametrize("target", [predicted_class, log_probability, multi_label, nth_class(1), finer()])
def test_settled__keeps_the_choice_on_other_logits(target):
    fixed = settled(target, LOGITS)
    torch.testing.assert_close(fixed(LOGITS, None), target(LOGITS, None))
    moved = LOGITS - 20 * torch.nn.functional.one_hot(LOGITS.argmax(1), 4)  # another class is predicted now
    assert not torch.allclose(fixed(moved, None), target(moved, None))
    torch.testing.assert_close(settled(predicted_class, LOGITS)(moved, None), torch.tensor([-15.0, -16.0]))


def test_settled__leaves_a_target_without_choices_alone():
    assert settled(true_class, LOGITS) is true_class


def test_score_of__hands_the_output_to_a_target_that_wants_it():
    def target(output, labels=None):
        return output["extra"]

    target.wants_output = True
    output = {"logits": LOGITS, "extra": torch.tensor([7.0, 8.0])}
    assert score_of(target, output).tolist() == [7.0, 8.0]
    assert score_of(predicted_class, output).tolist() == [5.0, 4.0]


@pytest.mark.parametrize("output", [LOGITS, (LOGITS, None), {"loss": torch.tensor(1.0), "logits": LOGITS}])
def test_find_logits__reads_tensors_tuples_and_mappings(output):
    assert find_logits(output) is LOGITS
