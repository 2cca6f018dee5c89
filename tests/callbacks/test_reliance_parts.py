import math

import pytest
import torch

from camtrain.callbacks._reliance_collecting import Collecting
from camtrain.callbacks._reliance_history import History
from camtrain.callbacks._reliance_images import Images
from camtrain.errors import ConfigurationError
from camtrain.reliance import Collector, Verdict


def verdict(index: int, answer: str, effect: float = 0.3) -> Verdict:
    return Verdict(index, "abc"[index], answer, effect, effect, effect, 0.0, 0.01, 20, "background", "")


def test_history__only_the_first_flag_of_a_run_is_the_first():
    history = History()
    assert not history.keep([verdict(0, "not reliant", 0.01)], epoch=0)
    assert history.keep([verdict(0, "reliant")], epoch=1)
    assert not history.keep([verdict(0, "reliant"), verdict(1, "reliant")], epoch=2)
    assert history.flagged_since == {"a": 1, "b": 2}


def test_history__a_class_that_was_not_judged_keeps_its_last_effect():
    history = History()
    history.keep([verdict(0, "reliant", 0.3), verdict(1, "undecided", math.nan)], epoch=0)
    history.keep([verdict(2, "suspect", 0.1)], epoch=1)
    assert history.values["reliance/effect/a"] == 0.3
    assert history.values["reliance/effect"] == 0.1
    assert history.values["reliance/flagged"] == 0


def test_history__is_restored_from_its_state():
    history = History(rounds=3, examined_epoch=4)
    history.keep([verdict(0, "reliant")], epoch=4)
    restored = History.restored(history.state())
    assert restored == history
    assert not restored.is_due(4, start=0, every=1, last=9)


def test_history__nothing_is_due_before_the_start():
    assert [History().is_due(epoch, start=2, every=1, last=1) for epoch in (1, 2)] == [False, True]


def images() -> Images:
    return Images(lambda annotated: Collector(annotated=annotated, per_class=8, most=16))


def batch(annotation: float = 1.0) -> dict[str, torch.Tensor]:
    masks = torch.full((4, 8, 8), annotation)
    masks[:, 4:] = min(0.0, annotation)
    return {"image": torch.rand(4, 3, 8, 8).half(), "label": torch.arange(4), "mask": masks}


def collecting(lend: bool = True) -> Collecting:
    return Collecting(None, lend=lend)


def test_collecting__lenders_are_those_of_the_first_epoch():
    held = collecting()
    held.begin_training_epoch(images)
    held.add_training(batch())
    first = held.lenders
    held.begin_training_epoch(images)
    held.add_training(batch())
    assert held.lenders is first
    assert len(first.annotated) == 4


def test_collecting__nothing_lends_where_that_is_not_wanted():
    held = collecting(lend=False)
    held.begin_training_epoch(images)
    held.add_training(batch())
    assert held.lenders is None


def test_collecting__after_a_training_batch_that_cannot_be_read_no_further_one_is():
    held = collecting()
    held.begin_training_epoch(images)
    held.add_training([torch.rand(4, 7)])
    held.add_training(batch())
    assert len(held.lenders.annotated) == 0


def test_collecting__what_an_epoch_brought_is_taken_once():
    held = collecting()
    held.add_validation(batch())  # an epoch that is not examined
    assert held.take() is None
    held.begin_validation_epoch(images)
    held.add_validation(batch())
    assert len(held.take().annotated) == 4
    assert held.take() is None
    assert held.dtype == torch.float16


def test_collecting__a_validation_batch_without_labels_is_refused():
    held = collecting()
    held.begin_validation_epoch(images)
    with pytest.raises(ConfigurationError, match="needs labels"):
        held.add_validation({"image": torch.rand(4, 3, 8, 8)})
