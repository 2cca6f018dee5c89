from dataclasses import replace
from math import isnan

import pytest

from camtrain.reliance.language import QUESTION, WORDS
from camtrain.report.summary import EpochSpan, alignment_start, find_scalar, headline, measures, span, value_at
from camtrain.sinks import CELLS, History, Verdict

NAN = float("nan")


def rows(*verdicts, effect=0.4):
    return [
        Verdict(index, "abcdefgh"[index], verdict, effect - 0.01 * index, 0.3, 0.5, 0.0, 0.01, 9)
        for index, verdict in enumerate(verdicts)
    ]


@pytest.mark.parametrize(
    ("weights", "start"), [({}, None), ({0: 0.0}, None), ({0: 0.0, 3: 0.1, 4: 0.0}, 3), ({0: NAN, 1: 1.0}, 1)]
)
def test_alignment_start__is_the_first_epoch_with_a_weight(weights, start):
    assert alignment_start(History(scalars={"alignment/weight": weights})) == start


def test_span__is_told_from_around_the_start_of_alignment():
    accuracy = dict.fromkeys(range(6), 0.5)
    weights = {epoch: float(epoch >= 4) for epoch in range(6)}
    assert span(History()) == EpochSpan(None, None, False)
    assert span(History(scalars={"val/acc": {2: 0.5}})) == EpochSpan(None, 2, False)
    assert span(History(scalars={"val/acc": accuracy})) == EpochSpan(0, 5, False)
    assert span(History(scalars={"val/acc": accuracy, "alignment/weight": weights})) == EpochSpan(3, 5, True)
    assert span(History(scalars={"alignment/weight": {0: 1.0, 1: 1.0}})) == EpochSpan(None, 1, True)


def test_value_at__is_the_last_that_was_logged_and_no_older_one_past_a_nan():
    assert value_at({0: 0.1, 4: 0.4}, 3) == 0.1
    assert isnan(value_at({0: 0.1, 1: NAN, 4: 0.4}, 3))
    assert isnan(value_at({0: 0.1, 4: 0.4}, 3, after=0))
    assert isnan(value_at({0: 0.1}, None))


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["train/accuracy", "val/accuracy", "test/accuracy", "val/worst_group_accuracy"], "val/accuracy"),
        (["train_acc", "valid_acc"], "valid_acc"),
        (["acc"], "acc"),
        (["train_acc"], "train_acc"),
        (["loss"], None),
    ],
)
def test_find_scalar__prefers_held_out_data(names, found):
    assert find_scalar(names, "acc", without=["worst"]) == found


def test_measures__tell_before_from_after():
    history = History(
        scalars={
            "val/accuracy": {0: 0.8, 1: 0.82, 2: 0.9},
            "val/worst_group_accuracy": {0: 0.3, 1: 0.25, 2: 0.75},
            "cam/inside_energy/grad_cam": {1: 0.2, 2: NAN},
            "alignment/weight": {0: 0.0, 1: 0.0, 2: 1.0},
            "reliance/flagged": {1: 3.0, 2: 0.0},
        },
        cells={1: dict(zip(CELLS, (1, 3, 0, 0), strict=True)), 2: dict(zip(CELLS, (3, 1, 0, 0), strict=True))},
    )
    found = {one.label: one for one in measures(history)}
    assert list(found) == [
        "Accuracy",
        "Worst-group accuracy",
        "Inside energy, grad_cam",
        "Right, heat off the object",
        "Classes flagged",
    ]
    assert found["Worst-group accuracy"].change == pytest.approx(0.5)
    assert (found["Right, heat off the object"].before, found["Right, heat off the object"].after) == (0.75, 0.25)
    assert [one.better for one in found.values()] == [True, True, None, True, True]
    assert isnan(found["Inside energy, grad_cam"].after)


@pytest.mark.parametrize(
    ("cue", "verdicts", "expected"),
    [
        (WORDS, ["reliant", "not reliant"], "1 of 2 words is said without the picture: a."),
        (QUESTION, ["reliant", "reliant"], "2 of 2 questions are answered without the picture: a and b."),
        (QUESTION, ["undecided"], "No question is found to be answered without the picture; 1 of 1 undecided."),
        (WORDS, ["not reliant"], "No word is said without the picture."),
    ],
)
def test_headline__of_sentences_names_no_background(cue, verdicts, expected):
    told = [replace(row, cue=cue) for row in rows(*verdicts)]
    assert headline(History(scalars={"val/accuracy": {0: 0.8}}, verdicts={0: told})) == expected


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([], [], "No heatmap was made, and no class was tested."),
        ([], rows("not reliant", "not reliant"), "No class leans on its background."),
        (
            [],
            rows("undecided", "not reliant"),
            "No class is found to lean on its background; 1 of 2 undecided.",
        ),
        ([], rows("no evidence", "no evidence"), "No evidence that a class leans on its background."),
        (
            [],
            rows("suspect", "undecided", "no evidence"),
            "No class is found to lean on its background; 1 of 3 suspect, 1 undecided.",
        ),
        ([], rows("reliant", "suspect"), "1 of 2 classes leans on its background: a. 1 more suspect."),
        (
            rows("reliant", "suspect"),
            rows("no evidence", "no evidence"),
            "Before alignment, 1 of 2 classes leaned on its background: a. Now there is no evidence of it.",
        ),
        ([], rows("reliant", "not reliant"), "1 of 2 classes leans on its background: a."),
        ([], rows("reliant", "reliant"), "2 of 2 classes lean on their background: a and b."),
        (
            [],
            rows(*["reliant"] * 6, "undecided"),
            "6 of 7 classes lean on their background: most of all a, b, c and d.",
        ),
        (
            rows("reliant", "reliant", "undecided"),
            rows("not reliant", "not reliant", "not reliant"),
            "Before alignment, 2 of 3 classes leaned on their background: a and b. Now none does.",
        ),
        (
            rows("reliant", "undecided"),
            rows("undecided", "undecided"),
            "Before alignment, 1 of 2 classes leaned on its background: a. Now none is found to, 2 undecided.",
        ),
        (
            rows("reliant", "reliant"),
            rows("not reliant", "reliant"),
            "Before alignment, 2 of 2 classes leaned on their background: a and b. Now 1 does: b.",
        ),
    ],
)
def test_headline__says_who_leans_on_what(before, after, expected):
    verdicts = {epoch: some for epoch, some in ((0, before), (1, after)) if some}
    assert headline(History(scalars={"alignment/weight": {0: 0.0, 1: 1.0}}, verdicts=verdicts)) == expected


def test_headline__without_a_detection_since_alignment_started_tells_the_earlier_one():
    history = History(scalars={"alignment/weight": {0: 0.0, 1: 1.0}}, verdicts={0: rows("reliant", "undecided")})
    assert headline(history) == "1 of 2 classes leans on its background: a."
