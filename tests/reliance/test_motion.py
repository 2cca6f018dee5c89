"""What clips owe to motion: on networks that see it, or see a frame alone."""

import pytest
import torch

from camtrain.reliance.decide import unmeasured
from camtrain.reliance.motion import ORDERS, motion_of, reordered, with_motion
from camtrain.reliance.records import Pool

FRAMES = 4


def pool():
    """Of two classes, a spot that becomes brighter or darker from frame to frame."""
    steps = torch.linspace(-1, 1, FRAMES).repeat_interleave(2)
    labels = torch.arange(20) % 2
    images = torch.where(labels.bool().view(-1, 1, 1, 1), steps, -steps) * torch.ones(20, 1, 3, 1)
    return Pool(images, labels, torch.zeros(20, 3, 2 * FRAMES))


def by_motion(strips):
    return torch.stack([strips[..., 0], strips[..., -1]], dim=0).mean(dim=(2, 3)).T * 9


def test_reordered__shows_frames_of_the_clip_alone():
    strips = torch.arange(8.0).view(1, 1, 1, 8)
    assert reordered(strips, FRAMES, "still").flatten().tolist() == [4, 5] * 4
    assert reordered(strips, FRAMES, "reversed").flatten().tolist() == [6, 7, 4, 5, 2, 3, 0, 1]
    shuffled = reordered(strips, FRAMES, "shuffled").view(4, 2)
    assert sorted(shuffled.tolist()) == strips.view(4, 2).tolist()


def test_motion__is_what_the_answer_loses_without_it():
    losses = motion_of(by_motion, pool(), FRAMES)
    still, _, backwards = torch.tensor(losses[1]).mean(dim=0).tolist()
    assert still == pytest.approx(0.5, abs=1e-3)
    assert backwards == pytest.approx(1, abs=1e-3)
    assert set(losses) == {0, 1}


def test_motion__is_said_in_the_note_of_a_verdict_and_accuses_nobody():
    verdicts = with_motion(unmeasured(["left", "right"], "why"), [motion_of(by_motion, pool(), FRAMES)] * 2)
    assert [each.verdict for each in verdicts] == ["undecided"] * 2
    assert "its 20 clips lose with frames still 0.50 ± 0.00, shuffled" in verdicts[0].note
    assert all(order in verdicts[1].note for order in ORDERS)
    assert "not measured: why" in verdicts[1].note
