"""What each task reads: against numbers worked by hand, and one task written as another."""

from math import exp, log
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from camtrain.errors import BatchError, ConfigurationError
from camtrain.tasks import (
    Binary,
    Captioning,
    Detection,
    MultiLabel,
    QuestionAnswering,
    Regression,
    Segmentation,
    SingleLabel,
    resolve_task,
)

IMAGES = torch.zeros(2, 3, 4, 4)
NAN = float("nan")


def batch(labels=None, masks=None, images=IMAGES):
    return SimpleNamespace(images=images, labels=labels, masks=masks)


def logits_of(*values):
    return torch.tensor(values, requires_grad=True)


@pytest.mark.parametrize("unknown", [-1, -100])
def test_single_label__unknown_labels_are_neither_right_nor_wrong(unknown):
    (unit,) = SingleLabel().units(logits_of([0.0, 2.0], [3.0, 0.0]), batch(torch.tensor([1, unknown])))
    assert unit.predictions.tolist() == [1, 0]
    assert unit.right.tolist() == [True, False]
    assert unit.are_known.tolist() == [True, False]
    assert unit.true_probability[0].item() == pytest.approx(1 / (1 + exp(-2)))
    assert unit.true_probability[1].isnan()
    assert unit.loss[1].isnan()
    assert unit.scores.tolist() == [2.0, 3.0]


def test_single_label__takes_a_column_of_labels():
    (unit,) = SingleLabel().units(logits_of([0.0, 2.0], [3.0, 0.0]), batch(torch.tensor([[1], [1]])))
    assert unit.right.tolist() == [True, False]


def test_single_label__evidence_is_the_log_likelihood_and_nothing_where_unknown():
    logits = logits_of([0.0, 2.0, 1.0], [3.0, 0.0, 1.0])
    evidence = SingleLabel().evidence(logits, torch.tensor([2, -100]))
    torch.testing.assert_close(evidence[0], -F.cross_entropy(logits[:1], torch.tensor([2])))
    assert evidence[1].item() == 0
    evidence.sum().backward()
    assert logits.grad[1].abs().sum() == 0


@pytest.mark.parametrize("labels", [torch.tensor([0.5, 1.0]), torch.tensor([[1, 0], [0, 1]])])
def test_single_label__refuses_other_labels(labels):
    with pytest.raises(BatchError, match="class index"):
        SingleLabel().units(logits_of([0.0, 2.0], [3.0, 0.0]), batch(labels))


@pytest.mark.parametrize("form", [lambda z: z, lambda z: z.unsqueeze(1)])
@pytest.mark.parametrize("labels", [torch.tensor([1, 0]), torch.tensor([1.0, 0.0]), torch.tensor([[1.0], [0.0]])])
def test_binary__equals_two_logits_of_which_the_first_is_zero(form, labels):
    single, pair = logits_of(1.5, -0.5), logits_of([0.0, 1.5], [0.0, -0.5])
    one, two = (
        task.units(output, batch(truth))[0]
        for task, output, truth in (
            (Binary(), form(single), labels),
            (SingleLabel(), pair, labels.reshape(-1).long()),
        )
    )
    for name in ("labels", "predictions", "right", "confidence", "true_probability", "loss"):
        torch.testing.assert_close(getattr(one, name), getattr(two, name))
    likelihood = Binary().evidence(form(single), labels), SingleLabel().evidence(pair, labels.reshape(-1).long())
    torch.testing.assert_close(*likelihood)
    gradients = [torch.autograd.grad(e.sum(), z)[0] for e, z in zip(likelihood, (single, pair), strict=True)]
    torch.testing.assert_close(gradients[0], gradients[1][:, 1])


def test_binary__each_answer_is_explained_by_its_own_evidence():
    (unit,) = Binary().units(logits_of(1.5, -0.5), batch())
    assert unit.scores.tolist() == [1.5, 0.5]
    assert unit.confidence.tolist() == pytest.approx([1 / (1 + exp(-1.5)), 1 / (1 + exp(-0.5))])


def test_binary__refuses_a_label_between():
    with pytest.raises(BatchError, match=r"0 or 1.*got 0\.9"):
        Binary().units(logits_of(1.5, -0.5), batch(torch.tensor([0.9, 0.0])))


def test_multi_label__units_are_labels_present_or_predicted_surest_first():
    logits = logits_of([2.0, -1.0, 0.5], [-1.0, -2.0, -3.0])
    rounds = MultiLabel().units(logits, batch(torch.tensor([[1, 1, 0], [0, 0, 0]])))
    assert len(rounds) == 3
    assert [unit.about[0].item() for unit in rounds] == [0, 2, 1]
    assert [unit.right[0].item() for unit in rounds] == [True, False, False]
    assert [unit.asked.tolist() for unit in rounds] == [[True, False]] * 3
    assert [unit.scores[0].item() for unit in rounds] == [2.0, 0.5, 1.0]  # absent is argued for by the negative
    assert rounds[2].true_probability[0].item() == pytest.approx(1 / (1 + exp(1)))


def test_multi_label__a_label_has_its_own_mask():
    masks = torch.stack([torch.full((2, 4, 4), float(index)) for index in (0, 1)], dim=1)
    rounds = MultiLabel().units(logits_of([2.0, 3.0], [1.0, -1.0]), batch(torch.tensor([[1, 1], [1, 0]]), masks))
    assert rounds[0].masks.amax((1, 2)).tolist() == [1.0, 0.0]
    assert rounds[1].masks.amax((1, 2))[0].item() == 0.0


def test_multi_label__of_one_label_equals_binary_label_by_label():
    logits, labels = logits_of([2.0, -1.0], [0.3, 0.7]), torch.tensor([[1, 0], [0, 1]])
    for view, column in zip(MultiLabel().views(logits, labels), range(2), strict=True):
        (binary,) = Binary().views(logits[:, column], labels[:, column])
        assert view.about == column
        torch.testing.assert_close(view.logits, binary.logits)
        assert view.labels.tolist() == binary.labels.tolist()


def test_multi_label__unknown_labels_count_nowhere():
    logits = logits_of([2.0, -1.0])
    losses = MultiLabel().losses(logits, torch.tensor([[1.0, NAN]]))
    assert losses.item() == pytest.approx(log(1 + exp(-2)))
    losses.sum().backward()
    assert logits.grad[0, 1] == 0


def test_regression__speaks_in_spreads_and_for_its_answer():
    task = Regression(center=10.0, spread=4.0)
    (unit,) = task.units(logits_of(13.0, 6.0), batch(torch.tensor([12.0, NAN])))
    assert unit.scores.tolist() == [13.0, -6.0]
    assert unit.about.tolist() == [1, 0]
    assert unit.right.tolist() == [True, False]
    assert unit.loss[0].item() == pytest.approx(0.0625)
    assert unit.loss[1].isnan()
    assert unit.confidence.isnan().all()


def test_regression__refuses_labels_that_do_not_vary():
    with pytest.raises(BatchError, match="spread"):
        resolve_task("regression", torch.zeros(2, 1), batch(torch.tensor([3.0, 3.0])))


def test_segmentation__units_are_regions_largest_first():
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    labels[:, :2] = 1
    labels[0, 3, 3] = 2
    answered = F.one_hot(labels, 3).permute(0, 3, 1, 2).float() * 5
    answered[0, :, 3, 3] = torch.tensor([5.0, 0.0, 0.0])  # class 2 is missed
    first, second = Segmentation().units(answered.requires_grad_(), batch(labels, images=IMAGES[:1]))
    assert (first.about.item(), first.right.item()) == (1, True)
    assert (second.about.item(), second.right.item(), second.predictions.item()) == (2, False, 0.0)
    assert first.scores.item() == pytest.approx(8 * 5.0)
    assert first.masks.sum().item() == 8
    assert second.scores.item() == pytest.approx(0.0)  # the class's logit where the region is missed


def test_segmentation__unknown_pixels_are_in_no_region():
    labels = torch.full((1, 2, 2), 255)
    labels[0, 0, 0] = 1
    logits = torch.zeros(1, 2, 2, 2)
    (unit,) = Segmentation().units(logits, batch(labels, images=torch.zeros(1, 3, 2, 2)))[:1]
    assert (unit.masks == -1).sum().item() == 3
    assert Segmentation().losses(logits, labels).item() == pytest.approx(log(2))


def boxes(*rows, scores=None, labels=None):
    held = {"boxes": torch.tensor(rows).reshape(-1, 4), "labels": torch.tensor(labels or [1] * len(rows))}
    return held if scores is None else {**held, "scores": torch.tensor(scores, requires_grad=True)}


def test_detection__tells_right_missed_and_invented_boxes():
    predicted = [boxes([0.0, 0, 2, 2], [3.0, 3, 4, 4], scores=[0.9, 0.8], labels=[1, 1])]
    annotated = [boxes([0.0, 0, 2, 2], [0.0, 2, 2, 4], labels=[1, 2])]
    right, missed, invented = Detection().units(predicted, batch(annotated, images=IMAGES[:1]))
    assert [u.right.item() for u in (right, missed, invented)] == [True, False, False]
    assert [u.predictions.item() for u in (right, missed, invented)] == [1.0, 0.0, 1.0]
    assert [u.labels.item() for u in (right, missed, invented)] == [1.0, 1.0, 0.0]
    assert [u.about.item() for u in (right, missed, invented)] == [1, 2, 1]
    assert right.masks.sum().item() == 4
    assert (invented.masks == -1).all()
    assert missed.scores.item() == 0


def test_captioning__units_are_words_that_count():
    logits = torch.zeros(1, 3, 4)
    logits[0, 0, 2] = 1.0
    first, second, third = Captioning(ignore=(0,)).units(logits, batch(torch.tensor([[2, 1, 0]]), images=IMAGES[:1]))
    assert [u.asked.item() for u in (first, second, third)] == [True, True, False]
    assert [u.right.item() for u in (first, second)] == [True, False]
    assert second.scores.item() == pytest.approx(-log(4))
    expected = (1 - log(exp(1) + 3) - log(4)) / 2
    assert Captioning(ignore=(0,)).evidence(logits, torch.tensor([[2, 1, 0]])).item() == pytest.approx(expected)


FOUR = torch.tensor([0, 1, 1, 0])


@pytest.mark.parametrize(
    ("outputs", "labels", "task"),
    [
        (torch.zeros(4, 3), torch.tensor([0, 1, 2, -1]), SingleLabel),
        (torch.zeros(4, 3), torch.tensor([[0], [1], [2], [0]]), SingleLabel),
        (torch.zeros(4, 3, 1, 1), torch.tensor([0, 1, 2, -100]), SingleLabel),
        (torch.zeros(4, 3), None, SingleLabel),
        ((torch.zeros(4, 3), torch.zeros(4, 8)), FOUR, SingleLabel),
        (torch.zeros(4), FOUR, Binary),
        (torch.zeros(4, 1), FOUR.float(), Binary),
        (torch.zeros(4, 1), FOUR.float().unsqueeze(1), Binary),
        (torch.zeros(4), torch.tensor([0.0, 1.0, NAN, -1.0]), Binary),
        ({"logits": torch.zeros(4, 2)}, torch.tensor([[0, 1], [1, 1], [-1, 0], [0, 0]]), MultiLabel),
        (torch.zeros(4, 1), torch.tensor([0.5, 2.0, 31.0, -4.0]), Regression),
        (torch.zeros(4, 3, 8, 8), torch.zeros(4, 8, 8, dtype=torch.long), Segmentation),
        (torch.zeros(4, 1, 8, 8), torch.zeros(4, 1, 8, 8, dtype=torch.long), Segmentation),
        ([boxes([0.0, 0, 2, 2], scores=[0.9])], [boxes([0.0, 0, 2, 2])], Detection),
    ],
)
def test_resolve_task__decides_by_what_is_observed(outputs, labels, task):
    asked = batch(labels, images=torch.zeros(4, 3, 8, 8))
    assert type(resolve_task("auto", outputs, asked)) is task


@pytest.mark.parametrize(
    ("outputs", "labels", "choices"),
    [
        (torch.zeros(4, 1), None, "'binary' or 'regression'"),
        (torch.zeros(4, 1), torch.tensor([1, 2, 3, 4]), "'binary' or 'regression'"),
        (torch.zeros(4, 3), torch.full((4, 3), 1 / 3), "'single_label' or 'multi_label'"),
        (torch.zeros(4, 3), torch.zeros(4), "'single_label'"),
        (torch.zeros(4, 5, 9), torch.zeros(4, 5, dtype=torch.long), "'captioning' or 'segmentation'"),
        (torch.zeros(4, 3, 8, 8), torch.zeros(4, 4, 4, dtype=torch.long), "'segmentation'"),
        (torch.zeros(4, 2), torch.full((4, 2), -1), "'single_label'"),
    ],
)
def test_resolve_task__names_the_choices_where_it_cannot_tell(outputs, labels, choices):
    with pytest.raises(BatchError, match=choices):
        resolve_task("auto", outputs, batch(labels, images=torch.zeros(4, 3, 8, 8)))


def test_resolve_task__refuses_a_head_that_is_too_small():
    with pytest.raises(BatchError, match="2 classes, and a label is 5"):
        resolve_task("auto", torch.zeros(2, 2), batch(torch.tensor([0, 5])))


def test_resolve_task__takes_names_and_tasks():
    assert isinstance(resolve_task("question_answering", torch.zeros(2, 3), batch()), QuestionAnswering)
    task = MultiLabel(2)
    assert resolve_task(task, torch.zeros(2, 3), batch()) is task
    with pytest.raises(ConfigurationError, match="'binry' is none"):
        resolve_task("binry", torch.zeros(2, 3), batch())


def test_resolve_task__fits_a_regression_to_the_first_labels():
    task = resolve_task("auto", torch.zeros(2, 1), batch(torch.tensor([2.0, 6.0])))
    assert (task.center, task.spread) == (4.0, pytest.approx(8**0.5))
