import math

from camtrain.reliance import Verdict, VerdictHistory


def verdict(index: int, answer: str, effect: float = 0.3) -> Verdict:
    return Verdict(index, "abc"[index], answer, effect, effect, effect, 0.0, 0.01, 20, "background", "")


def test_history__only_the_first_flag_of_a_run_is_the_first():
    history = VerdictHistory()
    assert not history.take_in([verdict(0, "not reliant", 0.01)], epoch=0)
    assert history.take_in([verdict(0, "reliant")], epoch=1)
    assert not history.take_in([verdict(0, "reliant"), verdict(1, "reliant")], epoch=2)
    assert history.flagged_since == {"a": 1, "b": 2}


def test_history__a_class_that_was_not_judged_keeps_its_last_effect():
    history = VerdictHistory()
    history.take_in([verdict(0, "reliant", 0.3), verdict(1, "undecided", math.nan)], epoch=0)
    history.take_in([verdict(2, "suspect", 0.1)], epoch=1)
    assert history.values["reliance/effect/a"] == 0.3
    assert history.values["reliance/effect"] == 0.1
    assert history.values["reliance/flagged"] == 0


def test_history__is_restored_from_its_state():
    history = VerdictHistory(rounds=3)
    history.examined(4, 40)
    history.take_in([verdict(0, "reliant")], epoch=4)
    restored = VerdictHistory.restored(history.state())
    assert restored == history
    assert restored.rounds == 4
    assert not restored.is_due(4, 40, start=0, every=1, last=True)


def test_history__of_an_older_checkpoint_examines_no_epoch_twice():
    state = {"values": {}, "flagged_since": {}, "examined_epoch": 4, "rounds": 3}
    due = [VerdictHistory.restored(state).is_due(epoch, 50, start=0, every=1, last=False) for epoch in (4, 5)]
    assert due == [False, True]


def test_history__nothing_is_due_before_the_start():
    assert [VerdictHistory().is_due(e, e, start=2, every=1, last=True) for e in (1, 2)] == [False, True]


def test_history__counts_validations_and_takes_the_last():
    history, due = VerdictHistory(), []
    for step in range(1, 9):
        due.append(history.is_due(0, step, start=0, every=3, last=step == 8))
        if due[-1]:
            history.examined(0, step)
        else:
            history.passes += 1
    assert due == [True, False, False, True, False, False, True, True]


def test_history__before_a_round_and_after_one_that_failed_nothing_is_known():
    history = VerdictHistory()
    before = dict(history.values)
    history.take_in([verdict(0, "not reliant", 0.01)], epoch=0)
    history.forget_values()
    assert all(math.isnan(value) for values in (before, history.values) for value in values.values())
    assert set(before) == {"reliance/flagged", "reliance/effect"}


def test_history__of_a_round_that_measured_no_class_does_not_know_how_many_are_flagged():
    history = VerdictHistory()
    history.take_in([verdict(0, "undecided", math.nan), verdict(1, "undecided", math.nan)], epoch=0)
    assert math.isnan(history.values["reliance/flagged"])
