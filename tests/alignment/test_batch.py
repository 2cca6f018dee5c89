"""What a batch holds, counted and refused."""

import pytest
import torch

from camtrain.alignment.batch import _OF_TASK, _REFUSED, Processes, Subject, asked_of, check_alignable, count, mean_of
from camtrain.data.batches import Batch
from camtrain.errors import ConfigurationError, MaskError
from camtrain.tasks import TASKS


def batch_of(count=4):
    masks = torch.zeros(count, 8, 8)
    masks[:, :4] = 1
    return Batch(torch.rand(count, 3, 8, 8), torch.arange(count) % 3, masks)


def test_count__clamps_twins_and_knows_that_one_image_has_none():
    assert count(batch_of(4), 3).of("twinned") == 3
    assert count(batch_of(1), 3).of("twinned") == 0


def test_count__refuses_a_mask_that_is_none():
    batch = batch_of()
    batch.masks[2, 0, 0] = -0.5
    with pytest.raises(MaskError, match="image 2"):
        count(batch, 4)


def test_census__shares_add_up_to_the_mean_over_all_images():
    two = Processes(2, total=lambda counts: counts + torch.tensor([1, 1, 1, 1, 0, 0, 0]))
    census = count(batch_of(3), 8, two)
    assert census.of("annotated", all_processes=True) == 4
    assert census.share("annotated") / 2 == 3 / 4  # Lightning halves the gradients


@pytest.mark.parametrize(("others", "mean"), [([3.0, 6.0, 1.0], [2.0, 4.0]), ([0.0, 0.0, 0.0], [1.0, 2.0])])
def test_mean_over_processes__leaves_out_those_without_values(others, mean):
    two, alone = Processes(2, total=lambda values: values + torch.tensor(others)), Processes()
    assert mean_of(two.gather(torch.tensor([1.0, 2.0]))) == mean
    if others[2] == 0:
        assert mean_of(two.gather(None)) is None
    assert mean_of(alone.gather(torch.tensor([1.0, 2.0]))) == [1.0, 2.0]
    assert mean_of(alone.gather(None)) is None


LABELS = {
    "classes": torch.tensor([0, 1, 2, 1]),
    "binary": torch.tensor([0, 1, 1, 0]),
    "several": torch.tensor([[0.0, 1], [1, 0], [1, 1], [0, 0]]),
    "values": torch.tensor([-3.0, 5.0, 20.0, 1.0]),
}

TASK_NAMES = {"classes": "single_label", "binary": "binary", "several": "multi_label", "values": "regression"}


@pytest.mark.parametrize("kind", LABELS)
def test_learned__is_what_answers_tell_of_labels(kind):
    labels = LABELS[kind]
    subject = asked_of(Batch(torch.zeros(4, 1, 2, 2), labels), TASK_NAMES[kind])
    if kind == "classes":
        right = 20 * torch.eye(3)[labels]
    else:
        right = (labels if kind == "values" else 40.0 * labels - 20).view(len(labels), -1)
    constant = right[:1].expand_as(right) * 0 + 0.7
    assert subject.learned(constant, labels).item() == pytest.approx(0, abs=1e-6)
    assert subject.learned(right, labels).item() == pytest.approx(1, abs=1e-4)
    assert subject.learned(-right, labels).item() == 0  # surely wrong
    same = labels[:1].expand_as(labels)
    assert subject.learned(constant, same).item() == 1  # the batch cannot tell


def test_learned__leaves_out_images_without_a_label():
    labels = torch.tensor([0, 1, -1, -1])
    logits = torch.tensor([[2.0, 0], [0, 2], [9, 0], [0, 9]])
    assert Subject().learned(logits, labels) == 1  # each known one meets one that is not
    assert Subject().learned(logits, labels.clamp(min=0)) < 1


def test_alignment__has_an_answer_for_every_task():
    for name in TASKS:
        if name not in _OF_TASK:
            assert name in _REFUSED
            with pytest.raises(ConfigurationError, match="neither the penalty nor twins work"):
                check_alignable(name)


def test_alignment__refuses_a_task_that_nobody_placed(monkeypatch):
    monkeypatch.delitem(_REFUSED, "segmentation")
    with pytest.raises(ConfigurationError, match="nothing says yet how"):
        check_alignable("segmentation")
