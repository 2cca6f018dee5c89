"""When something begins and ends."""

import math
import re
from types import SimpleNamespace

import pytest

from camtrain.callbacks import AttentionAlignment, CueRandomization, LastLayerRetraining
from camtrain.callbacks._conditions import is_due, never_begins, progress
from camtrain.checks import check_arguments
from camtrain.errors import ConfigurationError


def test_progress__is_within_zero_and_one():
    assert [progress(now, 0.5) for now in (0.4, 0.5, 0.75, 1.2)] == [0, 0, 0.5, 1]
    assert progress(1.0, 1.0) == 1


def trainer(epochs, steps, batches, accumulate=1):
    return SimpleNamespace(
        max_epochs=epochs, max_steps=steps, num_training_batches=batches, accumulate_grad_batches=accumulate
    )


@pytest.mark.parametrize(
    ("trained", "start_when", "text"),
    [
        (trainer(3, -1, 10), 3, "begins in epoch 3, and training ends after 3"),
        (trainer(3, -1, 10), 2, ""),
        (trainer(-1, 30, math.inf), 1, "have no length.*a condition on a metric"),
        (trainer(5, -1, math.inf), 1, ""),  # a stream that ends
        (trainer(-1, 20, 10), 2, "ends after 20 steps"),
        (trainer(-1, 20, 10, 2), 2, ""),
        (trainer(-1, 21, 10), 2, ""),
        (trainer(-1, 30, math.inf), 0, ""),
        (trainer(-1, 30, math.inf), "val/accuracy > 0.8", ""),
    ],
)
def test_never_begins__names_what_stands_against_it(trained, start_when, text):
    sentence = never_begins(trained, start_when)
    assert (sentence == "") == (text == "")
    assert re.search(text, sentence)


SLIPS = [
    "val_acc => 0.8",
    "val_acc =< 1",
    "",
    "  ",
    "val_acc >",
    "> 0.5",
    "val_acc = 1",
    "a > b",
    "val_acc > nan",
    "!x",
]


@pytest.mark.parametrize("condition", SLIPS)
def test_conditions__with_a_slip_are_refused_by_every_callback(condition):
    for make in (
        lambda: AttentionAlignment(start_when=condition),
        lambda: AttentionAlignment(stop_when=condition),
        lambda: CueRandomization(start_when=condition),
        lambda: LastLayerRetraining(when=condition),
    ):
        with pytest.raises(ConfigurationError, match="a condition on a metric, as"):
            make()


@pytest.mark.parametrize("condition", [0.5, True, -1, None, float("nan")])
def test_start_when__that_is_no_epoch_is_refused(condition):
    with pytest.raises(ConfigurationError, match="start_when is an epoch from 0 on"):
        check_arguments(start_when=condition)


def test_conditions__take_any_name_of_a_metric_and_any_number():
    metrics = {"val/acc-top 5": 0.7, "loss": 1e-3}
    assert is_due("val/acc-top 5>=.7", 0, metrics)
    assert is_due("loss < 1.0e-2", 0, metrics)
    assert not is_due("loss == 1", 0, metrics)
    assert is_due(" loss ", 0, metrics)
