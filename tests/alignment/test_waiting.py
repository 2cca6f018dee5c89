"""On a GPU whoever looks at a value waits for all that was computed before: an aligned step looks at none."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks._waits import Waits
from camtrain.alignment import Alignment, Penalty, Twins
from camtrain.callbacks import AttentionAlignment
from camtrain.cam import ownership
from camtrain.data.batches import Batch
from camtrain.errors import MaskError
from camtrain.losses import AlignmentLoss
from camtrain.swaps import Blend
from tests.callbacks.modules import Foreign, fit, network, pair, samples

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*have no logger configured"),
]


@pytest.fixture
def far(monkeypatch):
    """As on a GPU, where values are not at hand."""
    monkeypatch.setattr(ownership, "are_at_hand", lambda values: False)


def batches(count=16, annotated=8, seed=0):
    for at in range(count):
        images, labels, masks = samples(8, seed + at)
        masks[annotated:] = -1
        yield images, labels, masks


def train(net, alignment, data, loss=F.cross_entropy):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    alignment.attach(net)
    counts = []
    for images, labels, masks in data:
        with Waits() as waits, alignment.step(Batch(images, labels, masks)) as step:
            own = loss(net(images), labels)
            optimizer.zero_grad()
            step.add(own).backward()
            optimizer.step()
        counts.append(dict(waits.counts))
    alignment.detach()
    return counts


@pytest.mark.parametrize("annotated", [8, 2])
@pytest.mark.parametrize(
    "twins",
    [
        {},
        {"place": "add"},
        {"weight": 2.0, "blend": Blend(jitter=0.3)},
        {"weight": 2.0, "loss": "consistency"},
        {"blend": Blend("noise")},
        {"blend": Blend(fill_donors=False)},
        {"memory": 0},
    ],
)
def test_steps__after_the_first_look_at_nothing(far, annotated, twins):
    counts = train(network(), Alignment(Penalty(), Twins(**twins)), batches(annotated=annotated))
    assert counts[0]  # the first one looks for the network
    assert counts[2:] == [{}] * 14


def test_steps__of_several_labels_look_at_nothing(far):
    data = [(images, F.one_hot(labels, 3).float(), masks) for images, labels, masks in batches(6)]
    alignment = Alignment(Penalty(), Twins(2.0))
    assert train(network(), alignment, data, F.binary_cross_entropy_with_logits)[2:] == [{}] * 4


def test_steps__under_a_trainer_look_at_nothing(far, make_trainer):
    counts = []

    class Counting(Foreign):
        def optimizer_step(self, *args, **kwargs):
            with Waits() as waits:
                super().optimizer_step(*args, **kwargs)
            counts.append(dict(waits.counts))

    fit(make_trainer, Counting(), AttentionAlignment(), *(pair(*batch) for batch in batches(4)), max_epochs=2)
    assert counts[4:] == [{}] * 4


def test_steps__with_a_loss_of_ones_own_look_whether_it_is_finite(far):
    for loss, looks in (
        (lambda maps, masks: maps.mean(), {"_local_scalar_dense": 1}),
        (AlignmentLoss("iou_distance"), {}),
    ):
        counts = train(network(), Alignment(Penalty(1.0, loss=loss)), batches(4))
        assert counts[2:] == [looks] * 2


@pytest.mark.parametrize("annotated", [8, 3])
@pytest.mark.parametrize("twins", [{}, {"weight": 2.0, "place": "add"}, {"weight": 3.0, "memory": 0}])
def test_steps__teach_the_same_wherever_values_lie(monkeypatch, annotated, twins):
    nets = []
    for at_hand in (True, False):
        monkeypatch.setattr(ownership, "are_at_hand", lambda values, at_hand=at_hand: at_hand)
        nets.append(network())
        data = [(images, torch.arange(8) % 3, masks) for images, _, masks in batches(6, annotated)]
        train(nets[-1], Alignment(Penalty(), Twins(**twins)), data)
    for near, far_away in zip(*(net.parameters() for net in nets), strict=True):
        torch.testing.assert_close(near, far_away, rtol=1e-4, atol=1e-5)


def test_steps__without_any_annotation_so_far_train_as_without_alignment(far):
    plain, aligned = network(), network()
    data = [(images, labels, masks * 0 - 1) for images, labels, masks in batches(4)]
    train(aligned, Alignment(Penalty(2.0), Twins(1.0)), data)
    train(plain, Alignment(), data)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), aligned.parameters(), strict=True))


def test_masks__that_cannot_be_meant_are_refused_a_step_later_and_teach_nothing(far):
    (good, bad), net = batches(2), network()
    alignment = Alignment(Penalty(2.0), Twins(1.0)).attach(net)

    def step(images, labels, masks):
        with alignment.step(Batch(images, labels, masks)) as one:
            one.add(F.cross_entropy(net(images), labels)).backward()
        return [parameter.grad.clone() for parameter in net.parameters()]

    step(*good)
    net.zero_grad()
    plain = copy.deepcopy(net)
    F.cross_entropy(plain(bad[0]), bad[1]).backward()
    taught = step(bad[0], bad[1], bad[2] * 255)
    torch.testing.assert_close(taught, [parameter.grad for parameter in plain.parameters()])
    with pytest.raises(MaskError, match="Divide 8-bit masks by 255"):
        step(*good)


def test_answers__of_twins_that_are_not_finite_spoil_no_gradient(far):
    class Spoiled(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.calls = network(), 0

        def forward(self, images):
            self.calls += 1
            logits = self.net(images)
            return logits + torch.inf if self.calls == 2 else logits

    net, (batch, *_) = Spoiled(), batches(1)
    alignment = Alignment(twins=Twins(1.0, place="add")).attach(net)
    with alignment.step(Batch(*batch)) as step:
        step.add(F.cross_entropy(net(batch[0]), batch[1])).backward()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())
    with pytest.warns(UserWarning, match="was not finite"):
        alignment.take_in_last_step()
    assert alignment.skipped == 1
