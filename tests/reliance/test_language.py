"""Whether answers hang on the question: on networks whose answers are made up."""

import pytest
import torch

from camtrain.reliance.language import Reply, Word, agreement, judge_questions, judge_words
from camtrain.reliance.records import Criteria

COUNT = 120


def verdicts(answer):
    """Two questions about the same pictures, whose truths are drawn evenly among three."""
    generator = torch.Generator().manual_seed(0)
    truths = torch.randint(3, (2, COUNT), generator=generator).tolist()
    answered = [
        Reply(f"question {question}", answer(question, truth, float(torch.rand(1, generator=generator))), truth)
        for question in (0, 1)
        for truth in truths[question]
    ]
    return judge_questions([answered], Criteria())


def test_agreement__is_that_of_all_pairs():
    values = torch.tensor([0, 0, 1, 2, 2, 2])
    pairs = [values[i] == values[j] for i in range(6) for j in range(6) if i != j]
    assert agreement(values).item() == pytest.approx(float(torch.stack(pairs).double().mean()))


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (lambda question, truth, chance: question, "reliant"),  # the question alone
        (lambda question, truth, chance: question if chance < 0.6 else truth, "reliant"),  # mostly the question
        (lambda question, truth, chance: truth, "not reliant"),
        (lambda question, truth, chance: truth if chance < 0.7 else int(30 * chance) % 3, "not reliant"),  # weak
        (lambda question, truth, chance: 1, "undecided"),  # one answer to all
        (lambda question, truth, chance: int(3 * chance), "undecided"),  # by lot
    ],
)
def test_judge__tells_the_question_from_the_picture(answer, verdict):
    assert [each.verdict for each in verdicts(answer)] == [verdict] * 2


def test_judge__the_effect_is_how_much_more_answers_agree_than_truths():
    first, _ = verdicts(lambda question, truth, chance: question)
    assert first.effect == pytest.approx(2 / 3, abs=0.05)
    assert first.placebo == pytest.approx(1 / 3, abs=0.05)
    assert "answers agree in 100 % of pairs of pictures" in first.note


def test_judge__what_cannot_be_told_is_undecided():
    one_truth = [Reply("is it day", 1, 1) for _ in range(60)] + [Reply("where", k % 3, k % 3) for k in range(60)]
    assert [each.verdict for each in judge_questions([one_truth], Criteria())] == ["undecided", "not reliant"]
    alone = [Reply("where", k % 3, k % 3) for k in range(60)]
    (verdict,) = judge_questions([alone], Criteria())
    assert (verdict.verdict, verdict.effect != verdict.effect) == ("undecided", True)


def words(own, exchanged, elsewhere, follows=False):
    """Each of two words answered after its own one before it; true in half of these places, or in all."""
    return [Word(k % 2, k % 2 if follows else k // 2 % 2, k % 2, 1, own, exchanged, elsewhere) for k in range(80)]


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (words(0.9, 0.9, 0.1), "reliant"),
        (words(0.9, 0.05, 0.05), "not reliant"),
        (words(0.5, 0.5, 0.5), "undecided"),  # whatever the picture, whatever the words
        (words(0.9, 0.9, 0.1, follows=True), "undecided"),  # the data's words tell it as well
    ],
)
def test_judge_words__tells_what_stays_beside_another_picture(row, verdict):
    verdicts = judge_words([row], ["disk", "square"], Criteria())
    assert [(each.class_name, each.verdict, each.cue) for each in verdicts] == [
        ("disk", verdict, "other words"),
        ("square", verdict, "other words"),
    ]


def test_judge_words__takes_off_what_the_word_before_tells():
    (first, _) = judge_words([words(0.9, 0.8, 0.1)], ["disk", "square"], Criteria())
    assert first.effect == pytest.approx(
        0.8 - (20 * 19 + 20 * 20) / 40 / 39
    )  # of 40 places with that word before it, 20 have it
