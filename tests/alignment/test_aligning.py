"""Alignment in a plain loop: the same steps as under a Trainer, each term alone, nothing left behind."""

import copy

import pytest
import torch
import torch.nn.functional as F

from camtrain.alignment import Alignment, Looking, Network, Penalty, Twins
from camtrain.callbacks import AttentionAlignment
from camtrain.cam import contribution_cam, gradients_of, log_probability, record_activations
from camtrain.data.batches import Batch
from camtrain.errors import ConfigurationError, MaskError
from camtrain.losses import AlignmentLoss, deal_backgrounds
from tests.callbacks.modules import Foreign, fit, network, pair, samples

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*have no logger configured"),
]


def few(count=8, seed=0, annotated=None):
    images, labels, masks = samples(count, seed)
    masks[annotated:] = -1 if annotated else masks[annotated:]
    return images, labels, masks


def train(net, alignment, batches, rate=0.5):
    alignment.attach(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=rate)
    for batch in batches:
        with alignment.step(Batch(*batch)) as step:
            loss = F.cross_entropy(net(batch[0]), batch[1])
            optimizer.zero_grad()
            step.add(loss).backward()
            optimizer.step()
    alignment.detach()


@pytest.mark.parametrize("annotated", [None, 3])
def test_plain_loop__takes_the_steps_of_the_callback(make_trainer, annotated):
    batches = [few(seed=seed, annotated=annotated) for seed in range(4)]
    module, net, alignment = Foreign(), network(), Alignment(Penalty(), Twins())
    callback = AttentionAlignment()
    fit(make_trainer, module, callback, *(pair(*batch) for batch in batches))
    train(net, alignment, batches)
    assert all(torch.equal(a, b) for a, b in zip(module.net.parameters(), net.parameters(), strict=True))
    assert callback.state_dict() == {"started_at": 0.0, "stopped": False, **alignment.state(), "network": "net"}


def test_penalty__by_its_automatic_weight_counts_what_the_network_has_learned():
    net, batch = network(), Batch(*samples())
    batch.labels[:] = torch.arange(len(batch)) < len(batch) // 2
    alignment = Alignment(Penalty()).attach(net)
    added = []
    for _ in range(2):  # the first one only measures
        with alignment.step(batch) as step:
            logits = net(batch.images)
            loss = F.cross_entropy(logits, batch.labels)
            added.append((step.add(loss) - loss).item())
    own, swapped = (F.cross_entropy(logits, labels).item() for labels in (batch.labels, 1 - batch.labels))
    learned = max(0.0, 1 - own / swapped)
    expected = alignment.penalty.weight * learned * step.outcome.outside.value.item()
    assert added == [0, pytest.approx(expected, abs=1e-6)]
    assert step.outcome.learned.item() == pytest.approx(learned, abs=1e-5)


def test_penalty__alone_is_the_gradient_by_hand():
    images, labels, masks = samples()
    net = network()
    before = copy.deepcopy(net)
    train(net, Alignment(Penalty(3.0)), [(images, labels, masks)])
    with record_activations(before[2]) as activations:
        logits = before(images)
    (gradients,) = gradients_of(log_probability(logits, labels), activations, create_graph=True)
    total = F.cross_entropy(logits, labels) + 3 * AlignmentLoss()(contribution_cam(activations[0], gradients), masks)
    expected = torch.autograd.grad(total, list(before.parameters()))
    steps = [(a - b) / 0.5 for a, b in zip(before.parameters(), net.parameters(), strict=True)]
    torch.testing.assert_close(steps, list(expected))


def test_twins__alone_are_the_gradient_on_the_batch_as_it_is_dealt():
    images, labels, masks = samples(8)
    net = network()
    before = copy.deepcopy(net)
    train(net, Alignment(twins=Twins(1.0), model=net), [(images, labels, masks)])
    dealt, _, _ = deal_backgrounds(images, masks, labels, generator=torch.Generator().manual_seed(0))
    expected = torch.autograd.grad(F.cross_entropy(before(dealt), labels), list(before.parameters()))
    steps = [(a - b) / 0.5 for a, b in zip(before.parameters(), net.parameters(), strict=True)]
    torch.testing.assert_close(steps, list(expected))


def test_alignment__without_terms_trains_as_without_it():
    nets = [network(), network()]
    batches = [samples(8, seed) for seed in range(2)]
    train(nets[0], Alignment(), batches)
    optimizer = torch.optim.SGD(nets[1].parameters(), lr=0.5)
    for images, labels, _ in batches:
        optimizer.zero_grad()
        F.cross_entropy(nets[1](images), labels).backward()
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))


def test_phases__look_for_the_network_once_and_then_watch_it_alone():
    net, alignment, batch = network(), Alignment(Penalty(1.0)), Batch(*samples())
    alignment.attach(net)
    assert isinstance(alignment.network, Looking)
    watched = []
    for _ in range(2):
        with alignment.step(batch) as step:
            watched.append(len(step.network.parts))
            step.add(F.cross_entropy(net(batch.images), batch.labels)).backward()
    assert isinstance(alignment.network, Network)
    assert [layer.name for layer in alignment.network.layers] == ["2"]
    assert watched == [8, 1]


@pytest.mark.parametrize("fails", ["forward", "backward", "nothing"])
def test_hooks__are_gone_after_the_step_however_it_ends(fails):
    net, alignment, batch = network(), Alignment(Penalty(1.0), Twins(1.0), model="", layers="2"), Batch(*samples(8))
    alignment.attach(net)

    def step_once():
        with alignment.step(batch) as step:
            loss = F.cross_entropy(net(batch.images), batch.labels)
            assert fails != "forward", "forward"
            total = step.add(loss)
            assert net._forward_pre_hooks  # backgrounds are dealt anew where the backward pass asks again
            assert fails != "backward", "backward"
            total.backward()

    if fails == "nothing":
        step_once()
    else:
        with pytest.raises(AssertionError, match=fails):
            step_once()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert alignment.steps == (fails == "nothing")


def test_alignment__says_what_it_needs():
    with pytest.raises(ConfigurationError, match=r"call attach\(network\)"), Alignment().step(Batch(*samples())):
        pass
    images, labels, masks = samples()
    alignment = Alignment(Penalty()).attach(network())
    with pytest.raises(MaskError, match="Divide 8-bit masks"), alignment.step(Batch(images, labels, masks * 255)):
        pass
    with pytest.warns(UserWarning, match=r"Alignment makes no twins: the masks are soft"):
        train(network(), Alignment(twins=Twins()), [(images, labels, masks * 0.5)])


def test_state__is_gone_on_from():
    batches = [samples(8, seed) for seed in range(4)]
    whole, half, alignment = network(), network(), Alignment(Penalty(), Twins())
    train(whole, Alignment(Penalty(), Twins(), model=whole, layers="2"), batches)
    first = Alignment(Penalty(), Twins(), model=half, layers="2")
    train(half, first, batches[:2])
    alignment = Alignment(Penalty(), Twins(), model=half, layers="2")
    alignment.restore(first.state())
    train(half, alignment, batches[2:])
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), half.parameters(), strict=True))


def test_plain_loop__without_masks_is_refused_at_its_first_batch():
    images, labels, _ = few()
    with pytest.raises(ConfigurationError, match="its first batch holds none"):
        train(network(), Alignment(Penalty()), [(images, labels, None)])
