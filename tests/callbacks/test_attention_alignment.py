"""AttentionAlignment under a real Trainer, against gradients worked out by hand."""

import copy
from contextlib import nullcontext

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn

from camtrain.callbacks import AttentionAlignment
from camtrain.cam import contribution_cam, gradients_of, log_probability, record_activations
from camtrain.errors import ConfigurationError, GradientError, LayerError, MaskError, MethodError
from camtrain.losses import AlignmentLoss, deal_backgrounds, outside_l1
from tests.callbacks.modules import Foreign, fit, loader, mapping, network, pair, samples

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*have no logger configured"),
]


PENALTY_ALONE = {"weight": 1.0, "twins": 0.0, "twins_share": 1.0, "twins_place": "add", "memory": 0}


def aligned(**arguments):
    """The penalty alone with a weight of 1, or what a test asks for; twins are added to whole batches."""
    return AttentionAlignment(**{**PENALTY_ALONE, **arguments})


class ByMapping(Foreign):
    def forward(self, images):
        return {"logits": self.net(images)}

    def training_step(self, batch):
        loss = F.cross_entropy(self(batch["image"])["logits"], batch["label"])
        return {"loss": loss, "seen": len(batch["label"])}


class Manual(Foreign):
    def __init__(self, parts=1):
        super().__init__()
        self.automatic_optimization = False
        self.parts = parts

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        loss = F.cross_entropy(self.net(batch[0]), batch[1]) / self.parts
        self.manual_backward(loss)
        if (batch_idx + 1) % self.parts == 0:
            optimizer.step()
            optimizer.zero_grad()


def task_gradients(net, images, labels):
    return torch.autograd.grad(F.cross_entropy(net(images), labels), list(net.parameters()))


def hand_gradients(net, images, labels, masks, weight, layer=2, loss=AlignmentLoss()):  # noqa: B008
    """Gradients of cross-entropy plus weight times the penalty, written out."""
    with record_activations(net[layer]) as activations:
        logits = net(images)
    (gradients,) = gradients_of(log_probability(logits, labels), activations, create_graph=True)
    penalty = loss(contribution_cam(activations[0], gradients), masks)
    return torch.autograd.grad(F.cross_entropy(logits, labels) + weight * penalty, list(net.parameters()))


def moved(before, after):
    return [(b - a).detach() / 0.5 for b, a in zip(before.parameters(), after.parameters(), strict=True)]


@pytest.mark.parametrize(("kind", "shape"), [(Foreign, pair), (ByMapping, mapping), (Manual, pair)])
def test_training__takes_the_step_of_the_hand_worked_gradient(make_trainer, kind, shape):
    module, data = kind(), samples()
    before = copy.deepcopy(module.net)
    trainer = fit(make_trainer, module, aligned(weight=3.0), shape(*data))
    torch.testing.assert_close(moved(before, module.net), list(hand_gradients(before, *data, weight=3.0)))
    assert trainer.callback_metrics["alignment/weight"] == 3
    assert 0 < trainer.callback_metrics["alignment/penalty"] < 1
    assert trainer.callback_metrics["alignment/dead_maps"] == 0


def test_layers__are_named_and_several_are_averaged(make_trainer):
    module, data = Foreign(), samples()
    before = copy.deepcopy(module.net)
    fit(make_trainer, module, aligned(weight=2.0, layers=["net.0", "net.2"]), pair(*data))
    first, second = (hand_gradients(before, *data, weight=1.0, layer=layer) for layer in (0, 2))
    base = task_gradients(before, *data[:2])
    expected = [a + b - c for a, b, c in zip(first, second, base, strict=True)]
    torch.testing.assert_close(moved(before, module.net), expected)


def test_loss__of_another_kind_is_used(make_trainer):
    module, data, loss = Foreign(), samples(), AlignmentLoss(outside_l1)
    before = copy.deepcopy(module.net)
    fit(make_trainer, module, aligned(weight=2.0, loss=loss), pair(*data))
    expected = hand_gradients(before, *data, weight=2.0, loss=loss)
    torch.testing.assert_close(moved(before, module.net), list(expected))


def test_second_order__can_be_switched_off(make_trainer):
    module, data = Foreign(), samples()
    before = copy.deepcopy(module.net)
    fit(make_trainer, module, aligned(weight=2.0, second_order=False), pair(*data))
    with record_activations(before[2]) as activations:
        logits = before(data[0])
    (gradients,) = gradients_of(log_probability(logits, data[1]), activations, retain_graph=True)
    penalty = AlignmentLoss()(contribution_cam(activations[0], gradients), data[2])
    total = F.cross_entropy(logits, data[1]) + 2 * penalty
    torch.testing.assert_close(moved(before, module.net), list(torch.autograd.grad(total, list(before.parameters()))))


@pytest.mark.parametrize("kind", [Foreign, Manual])
def test_accumulation__is_the_mean_of_the_hand_worked_gradients(make_trainer, kind):
    module = kind(parts=2) if kind is Manual else kind()
    one, two = samples(seed=1), samples(seed=2)
    before = copy.deepcopy(module.net)
    options = {} if kind is Manual else {"accumulate_grad_batches": 2}
    callback = aligned(weight=3.0, accumulate=2 if kind is Manual else 1)
    fit(make_trainer, module, callback, pair(*one), pair(*two), **options)
    halves = (hand_gradients(before, *data, weight=3.0) for data in (one, two))
    expected = [(a + b) / 2 for a, b in zip(*halves, strict=True)]
    torch.testing.assert_close(moved(before, module.net), expected)


def test_manual__adds_the_penalty_once_to_the_loss_that_depends_on_the_layer(make_trainer):
    class TwoLosses(Manual):
        def __init__(self):
            super().__init__()
            self.other = nn.Linear(3, 1)

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            logits = self.net(batch[0])
            self.manual_backward(self.other(batch[0].mean((2, 3))).sum())
            self.manual_backward(F.cross_entropy(logits, batch[1]), retain_graph=True)
            self.manual_backward(0 * logits.sum())
            optimizer.step()

    module, data = TwoLosses(), samples()
    before = copy.deepcopy(module.net)
    fit(make_trainer, module, aligned(weight=3.0), pair(*data))
    torch.testing.assert_close(moved(before, module.net), list(hand_gradients(before, *data, weight=3.0)))
    assert "manual_backward" not in vars(module)


def dropped_out():
    return Foreign(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), network()[2:]))


def trained(make_trainer, callback, *batches, kind=dropped_out):
    torch.manual_seed(5)
    module = kind()
    fit(make_trainer, module, callback, *batches, max_epochs=2)
    return module.state_dict(), torch.get_rng_state()


@pytest.mark.parametrize(
    ("callback", "masks"),
    [
        ({"weight": 0.0}, None),
        ({"weight": 5.0, "start_when": 9}, None),
        ({"weight": 5.0, "schedule": lambda progress: 0.0}, None),
        ({"weight": 5.0, "twins": 1.0}, "unannotated"),
        ({"weight": 5.0, "twins": 1.0}, "full"),
    ],
)
@pytest.mark.filterwarnings("ignore:AttentionAlignment (begins|saw):UserWarning")
def test_training__is_bit_identical_where_nothing_is_added(make_trainer, callback, masks):
    batches = [pair(*samples(seed=seed)) for seed in (1, 2)]
    for batch in batches:
        if masks:
            batch.masks.fill_(1 if masks == "full" else -1)
    plain, rng = trained(make_trainer, None, *batches)
    with_it, rng_with_it = trained(make_trainer, aligned(**callback), *batches)
    assert all(torch.equal(plain[key], with_it[key]) for key in plain)
    assert torch.equal(rng, rng_with_it)


def test_training__leaves_the_forward_alone_when_it_aligns(make_trainer):
    """BatchNorm and dropout see the same single forward: statistics and random state agree after a step."""
    batch = pair(*samples())
    states = []
    for callback in (None, aligned(weight=5.0)):
        torch.manual_seed(5)
        module = dropped_out()
        fit(make_trainer, module, callback, batch)
        states.append((module.net[1].running_mean, module.net[1].num_batches_tracked, torch.get_rng_state()))
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


def test_unannotated_images__are_left_out_of_the_mean(make_trainer):
    module, (images, labels, masks) = Foreign(), samples()
    before = copy.deepcopy(module.net)
    masks[1:] = -1
    fit(make_trainer, module, aligned(weight=3.0), pair(images, labels, masks))
    penalty = hand_gradients(before, images[:1], labels[:1], masks[:1], weight=3.0)
    base, all_task = task_gradients(before, images[:1], labels[:1]), task_gradients(before, images, labels)
    expected = [p - b + t for p, b, t in zip(penalty, base, all_task, strict=True)]
    torch.testing.assert_close(moved(before, module.net), expected)


def test_penalty__falls_when_trained_on(make_trainer):
    seen = []

    class Watch(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            seen.append(trainer.callback_metrics["alignment/penalty"].item())

    trainer = make_trainer(callbacks=[aligned(weight=3.0), Watch()], max_epochs=15)
    trainer.fit(Foreign(), loader(pair(*samples(8))))
    assert seen[-1] < 0.8 * seen[0]


def test_twins__add_their_cross_entropy_and_use_their_own_random_numbers(make_trainer):
    module, data = Foreign(), samples()
    before = copy.deepcopy(module.net)
    trainer = fit(make_trainer, module, aligned(weight=0.0, twins=2.0), pair(*data))
    gained = [a - b for a, b in zip(moved(before, module.net), task_gradients(before, *data[:2]), strict=True)]
    assert any(g.abs().max() > 1e-4 for g in gained)
    assert 0.5 < trainer.callback_metrics["alignment/twins"] < 3
    assert "alignment/penalty" not in trainer.callback_metrics
    _, rng = trained(make_trainer, None, pair(*data), kind=Foreign)
    _, rng_with_twins = trained(make_trainer, aligned(twins=2.0), pair(*data), kind=Foreign)
    assert torch.equal(rng, rng_with_twins)


@pytest.mark.parametrize("kind", [Foreign, Manual])
def test_twins__are_the_same_in_every_run_and_bounded_in_number(make_trainer, kind):
    sizes, states = [], []
    for _ in range(2):
        module = kind()
        module.net.register_forward_pre_hook(lambda net, inputs: sizes.append(len(inputs[0])))
        fit(make_trainer, module, aligned(weight=1.0, twins=1.0, twins_share=0.5), pair(*samples()))
        states.append(module.state_dict())
    assert sizes[-1] == 2
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def exchanged(before, images, labels, masks, twins):
    """Gradients of the first step's loss on the batch as it was dealt, written out."""
    dealt, _, index = deal_backgrounds(images, masks, labels, generator=torch.Generator().manual_seed(0))
    assert 0 < len(index) < len(images)
    logits = before(dealt)
    loss = F.cross_entropy(logits, labels)
    loss = loss + (twins - 1) * len(index) / len(images) * F.cross_entropy(logits[index], labels[index])
    return dealt, torch.autograd.grad(loss, list(before.parameters()))


@pytest.mark.parametrize(("kind", "shape"), [(Foreign, pair), (ByMapping, mapping), (Manual, pair)])
@pytest.mark.parametrize("twins", [1.0, 3.0])
def test_twins__are_exchanged_for_their_images_in_one_forward_pass(make_trainer, kind, shape, twins):
    module, data, seen = kind(), samples(8), []
    before = copy.deepcopy(module.net)
    module.net[0].register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    callback = aligned(weight=0.0, twins=twins, twins_share=0.5, twins_place="exchange", model="net", layers="net.2")
    trainer = fit(make_trainer, module, callback, shape(*data))
    dealt, expected = exchanged(before, *data, twins=twins)
    torch.testing.assert_close(moved(before, module.net), list(expected))
    assert len(seen) == 1
    assert torch.equal(seen[0], dealt)
    assert trainer.callback_metrics["alignment/twins"] > 0


def test_twins__are_exchanged_from_the_second_step_on_where_the_network_has_to_be_found(make_trainer):
    module, sizes = Foreign(), []
    module.net.register_forward_pre_hook(lambda net, inputs: sizes.append(len(inputs[0])))
    callback = AttentionAlignment(layers="net.2")
    fit(make_trainer, module, callback, *(pair(*samples(8, seed)) for seed in range(3)))
    assert sizes == [8, 4, 8, 8]


def test_checkpoint__of_a_module_with_other_parts_is_gone_on_from(make_trainer):
    callback = AttentionAlignment(layers="net.2")
    callback.load_state_dict({**callback.state_dict(), "network": "backbone.gone"})
    trainer = fit(make_trainer, Foreign(), callback, pair(*samples(8)), max_epochs=2)
    assert trainer.callback_metrics["alignment/twins"] > 0
    assert callback.alignment.steps == 2


def test_twins__are_exchanged_until_the_backward_pass_is_over_and_no_longer(make_trainer):
    hooks = []

    class Watch(pl.Callback):
        def on_after_backward(self, trainer, pl_module):
            hooks.append(len(pl_module.net._forward_pre_hooks))

        on_train_batch_end = lambda self, trainer, pl_module, *_: self.on_after_backward(trainer, pl_module)  # noqa: E731

    callbacks = [AttentionAlignment(model="net", layers="net.2"), Watch()]
    make_trainer(callbacks=callbacks, max_epochs=2).fit(Foreign(), loader(pair(*samples(8))))
    assert hooks == [1, 0, 1, 0]


def test_twins__that_are_added_are_made_of_images_as_they_were_before_the_exchange(make_trainer):
    images, labels, masks = samples(8)
    masks[4:] = -1
    callback = AttentionAlignment(model="net", layers="net.2", memory=4)
    fit(make_trainer, Foreign(), callback, pair(images, labels, masks), max_epochs=3)
    kept, _, _ = callback.alignment.twins.memory.recall(4, torch.Generator())
    assert sorted(kept.flatten(1).sum(dim=1).tolist()) == sorted(images[:4].flatten(1).sum(dim=1).tolist())


def test_twins__that_are_added_follow_the_schedule(make_trainer):
    steps = []
    for how in ({"twins": 2.0, "schedule": lambda progress: 0.5}, {"twins": 1.0}):
        module, data = Foreign(), samples()
        before = copy.deepcopy(module.net)
        fit(make_trainer, module, aligned(weight=0.0, **how), pair(*data))
        steps.append(moved(before, module.net))
    torch.testing.assert_close(*steps)


def test_twins__that_are_exchanged_follow_the_schedule(make_trainer):
    shares = []

    class Spy(pl.Callback):
        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            shares.append(callback.alignment._step.dealer.share)

    callback = AttentionAlignment(model="net", schedule=lambda progress: 1 - progress)
    make_trainer(callbacks=[callback, Spy()], max_epochs=4).fit(Foreign(), loader(pair(*samples(8))))
    assert shares == [1, 0.75, 0.5, 0.25]


def test_twins__that_are_exchanged_move_the_masks_of_the_penalty(make_trainer):
    seen = []

    def loss(maps, masks):
        seen.append(masks)
        return maps.mean()

    data = samples(8)
    callback = AttentionAlignment(model="net", jitter=0.9, loss=loss)
    fit(make_trainer, Foreign(), callback, pair(*data))
    changed = (seen[0] != data[2]).flatten(1).any(dim=1)
    assert 0 < changed.sum() < 8


@pytest.mark.parametrize(("twins", "measured"), [("auto", 2), (2.0, 0)])
def test_twins__that_are_added_are_compared_with_images_for_their_dose(make_trainer, twins, measured):
    images, labels, masks = samples(8)
    masks[2:] = -1
    callback = AttentionAlignment(twins=twins, twins_place="add")
    trainer = fit(make_trainer, Foreign(), callback, pair(images, labels, masks), max_epochs=2)
    assert callback.alignment.twins.dose.measured == measured
    if measured:
        assert callback.alignment.twins.dose.twins_loss == pytest.approx(1.1, abs=0.3)
        assert callback.alignment.twins.dose.images_loss == pytest.approx(1.1, abs=0.3)
        assert callback.alignment.twins.dose.twins_loss != callback.alignment.twins.dose.images_loss
    assert trainer.callback_metrics["alignment/twins"] > 0


@pytest.mark.parametrize(
    ("arguments", "annotated", "expected"),
    [
        ({}, 8, [0.0, 1.0]),
        ({}, 6, [0.0, 0.5]),
        ({}, 4, [0.0, 0.0]),  # as many backgrounds go on telling the class
        ({"model": "net"}, 8, [0.0, 1.0]),  # the first step tells whether the penalty has a gradient
        ({"twins_place": "add"}, 8, [0.0, 0.0]),
        ({"twins": 0.0}, 8, [0.0, 0.0]),
    ],
)
def test_loss__by_default_tolerates_only_what_dealing_answers_for(
    make_trainer, monkeypatch, arguments, annotated, expected
):
    tolerances = []

    def spy(tolerance):
        tolerances.append(tolerance)
        return AlignmentLoss(tolerance=tolerance)

    monkeypatch.setattr("camtrain.alignment.penalty.AlignmentLoss", spy)
    callback = AttentionAlignment(**arguments)
    batches = [samples(8, seed) for seed in range(2)]
    for _, _, masks in batches:
        masks[annotated:] = -1
    fit(make_trainer, Foreign(), callback, *(pair(*batch) for batch in batches))
    assert tolerances == expected


def test_reuse__bounds_how_often_a_twin_is_made_of_one_image(make_trainer):
    images, labels, masks = samples(count=8)
    masks[1:] = -1
    sizes = []

    class Counting(Foreign):
        def training_step(self, batch, batch_idx):
            sizes.clear()
            return super().training_step(batch, batch_idx)

    module = Counting()
    module.net.register_forward_hook(lambda net, args, output: sizes.append(len(output)))
    callback = aligned(weight=0.0, twins=1.0, memory=4, reuse=2.0)
    more = [pair(images, labels, masks.roll(turn, 0)) for turn in range(3)]
    fit(make_trainer, module, callback, *more)
    assert sizes == [8, 2]  # one of eight is annotated: 2 twins of it in an epoch


def test_reuse__goes_on_from_a_checkpoint():
    callback, after = (aligned(weight=0.0, twins=1.0, reuse=2.0) for _ in range(2))
    callback.alignment.twins.dose.see(80, annotated=10)
    after.load_state_dict(callback.state_dict())
    assert after.alignment.twins.dose.limit(8) == callback.alignment.twins.dose.limit(8) == 2


def test_weight__follows_the_schedule_from_the_start(make_trainer):
    seen = []

    class Watch(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            seen.append(trainer.callback_metrics.get("alignment/weight", torch.tensor(torch.nan)).item())

    callback = aligned(weight=4.0, schedule=lambda progress: 1 - progress, start_when=2)
    make_trainer(callbacks=[callback, Watch()], max_epochs=4).fit(Foreign(), loader(pair(*samples())))
    assert seen == pytest.approx([torch.nan, torch.nan, 4, 2], nan_ok=True)  # nothing is logged before the start


def test_start_when__a_metric_turns_positive(make_trainer):
    class Flagging(Foreign):
        def validation_step(self, batch, batch_idx):
            self.log("reliance/flagged", float(self.current_epoch == 1))

    seen = []

    class Watch(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            seen.append(trainer.callback_metrics.get("alignment/weight", torch.tensor(torch.nan)).item())

    trainer = make_trainer(callbacks=[aligned(weight=4.0, start_when="reliance/flagged"), Watch()], max_epochs=4)
    data = loader(pair(*samples()))
    trainer.fit(Flagging(), data, data)
    assert seen == pytest.approx([torch.nan, torch.nan, 4, 4], nan_ok=True)


def test_stop_when__ends_it_for_good(make_trainer):
    class Learning(Foreign):
        def validation_step(self, batch, batch_idx):
            self.log("val/accuracy", 0.31 * (self.current_epoch + 1) if self.current_epoch < 3 else 0.0)

    seen = []

    class Watch(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            seen.append(trainer.callback_metrics.get("alignment/active", torch.tensor(torch.nan)).item())

    callback = aligned(start_when=1, stop_when="val/accuracy >= 0.9")
    data = loader(pair(*samples()))
    make_trainer(callbacks=[callback, Watch()], max_epochs=5).fit(Learning(), data, data)
    assert seen == pytest.approx([torch.nan, 1, 1, 0, 0], nan_ok=True)


def test_weight__auto_keeps_the_penaltys_gradient_at_its_ratio_of_the_tasks(make_trainer):
    norms, weights = [], []

    class Spy(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            weights.append(callback.alignment.penalty.weight)

        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            norms.append(callback.alignment._step.result.norms)

    callback = AttentionAlignment(gradient_ratio=0.5, twins=0.0)
    make_trainer(callbacks=[callback, Spy()], max_epochs=6).fit(Foreign(), loader(pair(*samples())))
    assert weights[0] == 0  # the first step only measures
    task, penalty = norms[0].tolist()
    assert weights[1] == pytest.approx(0.5 * (task / penalty) ** 0.5)
    assert all(weight > 0 for weight in weights[1:])


def test_mask_kind__forbidden_is_the_complement(make_trainer):
    images, labels, masks = samples()
    states = []
    for kind, given in (("object", masks), ("forbidden", 1 - masks)):
        module = Foreign()
        fit(make_trainer, module, aligned(weight=3.0, mask_kind=kind), pair(images, labels, given))
        states.append(module.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_defaults__align_with_both_terms_and_say_where_there_can_be_no_twins(make_trainer):
    module = Foreign()
    trainer = fit(make_trainer, module, AttentionAlignment(), pair(*samples()), max_epochs=3)
    assert trainer.callback_metrics["alignment/weight"] > 0
    assert trainer.callback_metrics["alignment/twins"] > 0

    class OfFeatures(Foreign):
        def __init__(self):
            super().__init__()
            self.stem, self.head = nn.Sequential(*network()[:2]), nn.Sequential(*network()[2:])

        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self.head(self.stem(batch[0])), batch[1])

    with pytest.warns(UserWarning, match=r"no twins: 'head'.* is not given the batch's images\. Call one module"):
        trainer = fit(make_trainer, OfFeatures(), AttentionAlignment(layers="head.1"), pair(*samples()), max_epochs=2)
    assert trainer.callback_metrics["alignment/weight"] > 0


def test_start_when__a_metric_that_is_never_logged_is_warned_about(make_trainer):
    class Validating(Foreign):
        def validation_step(self, batch, batch_idx):
            self.log("val/loss", 1.0)

    data = loader(pair(*samples()))
    trainer = make_trainer(callbacks=[aligned(start_when="reliance/flaged")], max_epochs=2)
    with pytest.warns(UserWarning, match=r"waits for 'reliance/flaged'.*known: .*val/loss"):
        trainer.fit(Validating(), data, data)


@pytest.mark.parametrize("place", ["add", "exchange"])
def test_checkpoint__goes_on_where_it_stopped(make_trainer, tmp_path, place):
    batches = [pair(*samples(seed=seed)) for seed in (1, 2)]

    def callback():
        how = {"twins_place": place, "schedule": lambda progress: 1 - progress, "start_when": 1, "loss": None}
        return aligned(weight=3.0, twins=1.0, **how)

    torch.manual_seed(0)
    whole = Foreign()
    fit(make_trainer, whole, callback(), *batches, max_epochs=4)
    half = Foreign()
    trainer = make_trainer(callbacks=[callback()], max_epochs=4)
    trainer.fit_loop.max_epochs = 4

    class Stop(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                trainer.save_checkpoint(tmp_path / "half.ckpt")
                trainer.should_stop = True

    trainer.callbacks.append(Stop())
    trainer.fit(half, loader(*batches))
    resumed, after = Foreign(), callback()
    make_trainer(callbacks=[after], max_epochs=4).fit(resumed, loader(*batches), ckpt_path=tmp_path / "half.ckpt")
    assert after.span.started_at == 0.25
    assert after.alignment.steps == 6
    for key, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value)


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_precision__gives_finite_penalties_and_nearly_the_same_step(make_trainer, precision):
    module, data = ByMapping(), samples()
    before = copy.deepcopy(module.net)
    trainer = fit(make_trainer, module, aligned(weight=3.0), mapping(*data), precision=precision)
    expected = hand_gradients(before, *data, weight=3.0)
    for got, want in zip(moved(before, module.net.float()), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=0.1, atol=0.02)
    assert trainer.callback_metrics["alignment/skipped"] == 0


def test_penalty__that_is_not_finite_is_left_out_and_counted(make_trainer):
    batches = [pair(*samples(seed=seed)) for seed in (1, 2)]
    plain, _ = trained(make_trainer, None, *batches, kind=Foreign)
    callback = aligned(weight=3.0, loss=lambda heatmaps, masks: heatmaps.sum() * torch.inf)
    with pytest.warns(UserWarning, match="not finite"):
        poisoned, _ = trained(make_trainer, callback, *batches, kind=Foreign)
    assert callback.alignment.skipped == 4
    assert all(torch.equal(plain[key], poisoned[key]) for key in plain)


def test_compiled_modules__run_eagerly_with_the_same_step(make_trainer):
    module, data = Foreign(), samples()
    before = copy.deepcopy(module.net)
    module.net = torch.compile(module.net, backend="eager")
    with pytest.warns(UserWarning, match="eagerly"):
        fit(make_trainer, module, aligned(weight=3.0), pair(*data))
    torch.testing.assert_close(moved(before, module.net._orig_mod), list(hand_gradients(before, *data, weight=3.0)))


def test_compiled_modules__exchange_twins_too(make_trainer):
    steps = []
    for compiled in (False, True):
        module, data = Foreign(), samples(8)
        before = copy.deepcopy(module.net)
        if compiled:
            module.net = torch.compile(module.net, backend="eager")
        how = {"weight": 0.0, "twins": 1.0, "twins_share": 0.5, "twins_place": "exchange", "layers": "net.2"}
        with pytest.warns(UserWarning, match="eagerly") if compiled else nullcontext():
            fit(make_trainer, module, aligned(**how), pair(*data), max_epochs=2)
        steps.append(moved(before, module.net._orig_mod if compiled else module.net))
    torch.testing.assert_close(*steps)


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true", "bf16-true"])
def test_twins__that_are_exchanged_train_in_any_precision(make_trainer, precision):
    module = ByMapping()
    trainer = fit(make_trainer, module, AttentionAlignment(), mapping(*samples(8)), precision=precision, max_epochs=3)
    assert trainer.callback_metrics["alignment/skipped"] == 0
    assert 0 < trainer.callback_metrics["alignment/twins"] < 3
    assert all(p.isfinite().all() for p in module.parameters())


def test_logits__are_found_behind_a_backbone_and_a_head(make_trainer):
    class TwoParts(Foreign):
        def __init__(self):
            super().__init__()
            self.head = self.net[-1]
            self.net = self.net[:-1]

        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self.head(self.net(batch[0])), batch[1])

    module, data = TwoParts(), samples()
    before = nn.Sequential(*copy.deepcopy(module.net), copy.deepcopy(module.head))
    fit(make_trainer, module, aligned(weight=3.0), pair(*data))
    after = nn.Sequential(*module.net, module.head)
    torch.testing.assert_close(moved(before, after), list(hand_gradients(before, *data, weight=3.0)))


class TwoHeads(Foreign):
    def __init__(self):
        super().__init__()
        self.head, self.net = self.net[-1], self.net[:-1]
        self.extra = nn.Linear(5, 2)

    def training_step(self, batch, batch_idx):
        features = self.net(batch[0])
        return F.cross_entropy(self.head(features), batch[1]) + self.extra(features).square().mean()


def test_logits__of_two_heads_are_not_guessed(make_trainer):
    with pytest.raises(ConfigurationError, match=r"'head' gave \(4, 3\), 'extra' gave.*model='\.\.\.'"):
        fit(make_trainer, TwoHeads(), aligned(), pair(*samples()))


def test_model__names_the_part_with_the_logits(make_trainer):
    trainer = fit(make_trainer, TwoHeads(), aligned(model="head", layers="net.2"), pair(*samples()))
    assert trainer.callback_metrics["alignment/penalty"] > 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"weight": -1.0}, ConfigurationError, "at least 0.*got -1"),
        ({"weight": float("nan")}, ConfigurationError, "finite"),
        ({"twins": -0.5}, ConfigurationError, "twins is 'auto' or a finite number"),
        ({"twins_share": 0.0}, ConfigurationError, r"\(0, 1\]; got 0"),
        ({"accumulate": 0}, ConfigurationError, "at least 1; got 0"),
        ({"start_when": -2}, ConfigurationError, "epoch from 0 on"),
        ({"method": "gradcam"}, MethodError, "'gradcam'"),
    ],
)
def test_arguments__that_cannot_be_meant_are_refused_at_once(arguments, error, message):
    with pytest.raises(error, match=message):
        aligned(**arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"layers": "net.layer5"}, LayerError, "No layer named 'net.layer5' in Foreign"),
        ({"model": "nett"}, ConfigurationError, "model='nett' is no submodule of Foreign, which has: net"),
        ({"layers": "net.6"}, LayerError, "cannot be read as a map"),
        ({"schedule": lambda progress: -1.0}, ConfigurationError, "finite factor of at least 0"),
    ],
)
def test_arguments__that_do_not_fit_the_module_are_refused_in_fit(make_trainer, arguments, error, message):
    module = Foreign()
    with pytest.raises(error, match=message):
        fit(make_trainer, module, aligned(**arguments), pair(*samples()))
    assert "training_step" not in vars(module)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


@pytest.mark.filterwarnings("ignore:AttentionAlignment begins:UserWarning")
@pytest.mark.parametrize("start_when", [0, 5])
def test_data__without_masks_is_refused_at_the_first_batch(make_trainer, start_when):
    with pytest.raises(ConfigurationError, match=r"holds none: a list of 2.*batch_adapter"):
        fit(make_trainer, Foreign(), aligned(start_when=start_when), list(samples()[:2]))


@pytest.mark.parametrize(
    ("masks", "message"),
    [(torch.ones(4, 4, 4), r"expected \(4, 8, 8\)"), (torch.full((4, 8, 8), 255.0), "255")],
)
def test_masks__that_cannot_be_meant_are_refused(make_trainer, masks, message):
    images, labels, good = samples()
    with pytest.raises(MaskError, match=message):
        fit(make_trainer, Foreign(), aligned(), pair(images, labels, masks))
    with pytest.raises(MaskError, match=message):  # later ones, too
        fit(make_trainer, Foreign(), aligned(), pair(images, labels, good), pair(images, labels, masks))


def test_penalty__without_a_gradient_is_refused(make_trainer):
    module = Foreign()
    module.net.requires_grad_(False)
    module.bias = nn.Parameter(torch.zeros(3))
    module.training_step = lambda batch, batch_idx: (module.net(batch[0].requires_grad_()) + module.bias).sum()
    with pytest.raises(GradientError, match="does not depend on any trainable parameter"):
        fit(make_trainer, module, aligned(layers="net.2"), pair(*samples()))


def test_module__is_left_as_it_was_after_an_exception_and_after_success(make_trainer):
    class Failing(Foreign):
        def training_step(self, batch, batch_idx):
            self.net(batch[0])
            raise KeyError("mine")

    failing, fine = Failing(), Foreign()
    with pytest.raises(KeyError, match="mine"):
        fit(make_trainer, failing, aligned(), pair(*samples()))
    fit(make_trainer, fine, aligned(), pair(*samples()))
    for module in (failing, fine):
        assert "training_step" not in vars(module)
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


def test_trainer__takes_one_of_them(make_trainer):
    with pytest.raises(ConfigurationError, match="one AttentionAlignment"):
        make_trainer(callbacks=[aligned(), _Other()]).fit(Foreign(), loader(pair(*samples())))


class _Other(AttentionAlignment):
    @property
    def state_key(self):
        return "other"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed", "32-true"])
def test_precision__on_a_gpu_trains_without_skipping(make_trainer, precision):

    data = loader(*[pair(*samples(8))] * 4)
    callback = AttentionAlignment(weight=3.0, twins=1.0)
    trainer = make_trainer(accelerator="gpu", precision=precision, callbacks=[callback], max_epochs=2)
    trainer.fit(Foreign(), data)
    assert callback.skipped == 0
    assert trainer.callback_metrics["alignment/penalty"].isfinite()
