"""When something begins and ends."""

from camtrain.callbacks._conditions import progress


def test_progress__is_within_zero_and_one():
    assert [progress(now, 0.5) for now in (0.4, 0.5, 0.75, 1.2)] == [0, 0, 0.5, 1]
    assert progress(1.0, 1.0) == 1
