import math

from camtrain.reliance import Verdict, VerdictHistory


def verdict(index: int, answer: str, effect: float = 0.3) -> Verdict:
    return Verdict(index, "abc"[index], answer, effect, effect, effect, 0.0, 0.01, 20, "background", "")


def test_history__only_the_first_flag_of_a_run_is_the_first():
    history = VerdictHistory()
    assert not history.keep([verdict(0, "not reliant", 0.01)], epoch=0)
    assert history.keep([verdict(0, "reliant")], epoch=1)
    assert not history.keep([verdict(0, "reliant"), verdict(1, "reliant")], epoch=2)
    assert history.flagged_since == {"a": 1, "b": 2}


def test_history__a_class_that_was_not_judged_keeps_its_last_effect():
    history = VerdictHistory()
    history.keep([verdict(0, "reliant", 0.3), verdict(1, "undecided", math.nan)], epoch=0)
    history.keep([verdict(2, "suspect", 0.1)], epoch=1)
    assert history.values["reliance/effect/a"] == 0.3
    assert history.values["reliance/effect"] == 0.1
    assert history.values["reliance/flagged"] == 0


def test_history__is_restored_from_its_state():
    history = VerdictHistory(rounds=3, examined_epoch=4)
    history.keep([verdict(0, "reliant")], epoch=4)
    restored = VerdictHistory.restored(history.state())
    assert restored == history
    assert not restored.is_due(4, start=0, every=1, last=9)


def test_history__nothing_is_due_before_the_start():
    assert [VerdictHistory().is_due(epoch, start=2, every=1, last=1) for epoch in (1, 2)] == [False, True]
