"""Alignment of modules that do the unexpected: other calls, other layouts, copies of themselves, other labels."""

import contextlib
import copy
import io

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn

from camtrain.alignment.batch import Processes, count
from camtrain.callbacks import AttentionAlignment
from camtrain.data.batches import Batch
from camtrain.errors import ConfigurationError
from camtrain.losses import AlignmentLoss
from tests.callbacks.modules import Explained, Foreign, Given, fit, loader, mapping, network, pair, samples

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*have no logger configured"),
    pytest.mark.filterwarnings("ignore:.*asks for answers to others as well"),
]


def aligned(**arguments):
    return AttentionAlignment(**{"weight": 2.0, "twins": 0.0, "layers": "net.2", **arguments})


class Heard:
    """A loss that keeps the shapes of the maps."""

    def __init__(self):
        self.shapes = []

    def __call__(self, heatmaps, masks):
        self.shapes.append(tuple(heatmaps.shape))
        return AlignmentLoss()(heatmaps, masks)


class Manual(Foreign):
    def __init__(self, net=None):
        super().__init__(net)
        self.automatic_optimization = False

    def step(self, loss):
        self.optimizers().zero_grad()
        self.manual_backward(loss)
        self.optimizers().step()


# Several calls of one network


class SemiSupervised(Foreign):
    """Answers other images after the batch's own."""

    other = 4

    def training_step(self, batch, batch_idx):
        unlabeled = torch.full((self.other, 3, 8, 8), 0.5)
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        return loss + 0 * self.net(unlabeled).sum()


@pytest.mark.parametrize("other", [4, 6])
@pytest.mark.parametrize("twins", [0.0, "auto"])
def test_calls__the_one_on_the_batchs_images_is_read(make_trainer, other, twins):
    module, target = SemiSupervised(), Explained()
    module.other = other
    before, (images, labels, masks) = copy.deepcopy(module.net), samples()
    fit(make_trainer, module, aligned(target=target, twins=twins), pair(images, labels, masks))
    torch.testing.assert_close(target.logits[0], before(images).detach())


def test_calls__other_images_are_dealt_nothing_from_the_second_step_on(make_trainer):
    class TwoCalls(Foreign):
        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self.net(batch[0]), batch[1]) + 0 * self.net(torch.full((6, 3, 8, 8), 0.5)).sum()

    module = TwoCalls(Given())
    batch = samples(6)
    fit(make_trainer, module, AttentionAlignment(weight=0.0, twins=1.0), pair(*batch), max_epochs=2)
    own, other = module.net.given[-2:]
    assert not torch.equal(own, batch[0])
    assert torch.equal(other, torch.full((6, 3, 8, 8), 0.5))


def test_calls__on_two_views_of_which_neither_is_the_batchs_are_refused(make_trainer):
    class Views(Foreign):
        def training_step(self, batch, batch_idx):
            views = batch[0] * 2, batch[0].flip(-1)
            return sum(F.cross_entropy(self.net(view), batch[1]) for view in views)

    with pytest.raises(ConfigurationError, match=r"calls 'net' 2 times on 4 images each, none of them the batch's own"):
        fit(make_trainer, Views(), aligned(), pair(*samples()))


def test_calls__of_the_same_tensor_are_alike(make_trainer):
    class Twice(Foreign):
        def training_step(self, batch, batch_idx):
            images = batch[0] * 2
            return F.cross_entropy(self.net(images), batch[1]) + F.cross_entropy(self.net(images), batch[1])

    trainer = fit(make_trainer, Twice(), aligned(), pair(*samples()))
    assert trainer.callback_metrics["alignment/penalty"] > 0


def test_calls__on_generated_images_are_no_answer_to_the_batchs(make_trainer):
    class Discriminator(Manual):
        def training_step(self, batch, batch_idx):
            fake = torch.full_like(batch[0], 0.5)
            self.step(F.cross_entropy(self.net(batch[0]), batch[1]) + self.net(fake).square().mean())
            self.step(self.net(fake).square().mean())

    module, target = Discriminator(), Explained()
    trainer = fit(make_trainer, module, aligned(target=target), *[pair(*samples(seed=s)) for s in (1, 2, 3)])
    assert len(target.logits) == 3
    assert all(logits.std(dim=0).max() > 0 for logits in target.logits)  # fakes are all answered alike
    assert trainer.callback_metrics["alignment/penalty"] > 0


def test_manual__every_backward_of_the_batchs_images_gets_the_penalty(make_trainer):
    class Sharpness(Manual):
        """Two passes a step, as sharpness-aware minimization makes them."""

        def training_step(self, batch, batch_idx):
            for _ in range(2):
                self.step(F.cross_entropy(self.net(batch[0]), batch[1]))

    target = Explained()
    fit(make_trainer, Sharpness(), aligned(target=target), *[pair(*samples(seed=s)) for s in (1, 2, 3)])
    assert len(target.logits) == 1 + 2 + 2  # the first step finds the network


def test_manual__every_pass_of_a_step_is_dealt_alike_and_none_after_it(make_trainer):
    class Sharpness(Manual):
        def training_step(self, batch, batch_idx):
            for _ in range(2):
                self.step(F.cross_entropy(self.net(batch[0]), batch[1]))

    class Looking(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            with torch.no_grad():
                pl_module.net(batch[0])

    module, batch = Sharpness(Given()), samples(6)
    callback = AttentionAlignment(weight=0.0, twins=1.0)
    trainer = make_trainer(callbacks=[Looking(), callback])
    trainer.fit(module, loader(*[pair(*batch)] * 2))
    first, second, looked_at = module.net.given[-3:]
    assert not torch.equal(first, batch[0])
    assert torch.equal(first, second)
    assert torch.equal(looked_at, batch[0])


def test_manual__a_look_without_gradients_before_the_backward_pass_hides_nothing(make_trainer):
    class Looking(Manual):
        def training_step(self, batch, batch_idx):
            loss = F.cross_entropy(self.net(batch[0]), batch[1])
            with torch.no_grad():
                self.net(batch[0]).argmax(dim=1)
            self.step(loss)

    trainer = fit(make_trainer, Looking(), aligned(), pair(*samples()))
    assert trainer.callback_metrics["alignment/penalty"] > 0


def test_manual__a_step_without_manual_backward_is_told_and_logs_no_penalty(make_trainer):
    class Bare(Manual):
        def training_step(self, batch, batch_idx):
            F.cross_entropy(self.net(batch[0]), batch[1]).backward()

    with pytest.warns(UserWarning, match=r"added nothing to a manual step: it acts in self\.manual_backward"):
        trainer = fit(make_trainer, Bare(), aligned(), pair(*samples()))
    assert trainer.callback_metrics["alignment/penalty"].isnan()


def test_manual__accumulation_leaves_the_automatic_weight_as_it_is(make_trainer):
    class Accumulating(Manual):
        def training_step(self, batch, batch_idx):
            self.manual_backward(F.cross_entropy(self.net(batch[0]), batch[1]) / 4)

    weights = []
    for module, accumulate in ((Foreign(), 1), (Accumulating(), 4)):
        callback = aligned(weight="auto", accumulate=accumulate)
        trainer = fit(make_trainer, module, callback, *[pair(*samples())] * 2, accumulate_grad_batches=1)
        weights.append(trainer.callback_metrics["alignment/weight"].item())
        assert callback.alignment.steps == 2
    assert weights[0] > 0
    assert weights[1] == pytest.approx(weights[0], rel=1e-4)


def test_steps__that_leave_the_network_out_are_left_out(make_trainer):
    class Sometimes(Foreign):
        def training_step(self, batch, batch_idx):
            if batch_idx == 1:
                return sum(p.sum() for p in self.parameters())
            if batch_idx == 2:
                with torch.no_grad():
                    self.net(batch[0])
                return sum(p.sum() for p in self.parameters())
            return super().training_step(batch, batch_idx)

    for weight in (0.0, 2.0):
        trainer = fit(make_trainer, Sometimes(), aligned(weight=weight, twins=1.0), *[pair(*samples(6))] * 4)
        assert trainer.global_step == 4


def test_steps__a_forward_that_fails_and_is_caught_does_no_harm(make_trainer):
    class Trying(Foreign):
        def training_step(self, batch, batch_idx):
            with contextlib.suppress(RuntimeError):
                self.net(torch.rand(2, 7, 8, 8))
            return super().training_step(batch, batch_idx)

    trainer = fit(make_trainer, Trying(), aligned(), pair(*samples()))
    assert trainer.callback_metrics["alignment/penalty"] > 0


def test_steps__the_network_is_given_its_images_again_once_the_loss_is_known(make_trainer):
    class Curious(Foreign):
        def training_step(self, batch, batch_idx):
            self.images = batch[0]
            return super().training_step(batch, batch_idx)

        def on_before_optimizer_step(self, optimizer):
            with torch.no_grad():
                self.net(self.images)

    module, batch = Curious(Given()), samples(6)
    fit(make_trainer, module, AttentionAlignment(weight=0.0, twins=1.0), pair(*batch), max_epochs=2)
    answered, looked_at = module.net.given[-2:]
    assert not torch.equal(answered, batch[0])
    assert torch.equal(looked_at, batch[0])


def test_inputs__the_images_are_exchanged_and_not_what_looks_like_them(make_trainer):
    class Fused(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.given = network(), []

        def forward(self, depth, rgb):
            self.given.append((depth.detach().clone(), rgb.detach().clone()))
            return self.net(rgb + depth)

    class Two(Foreign):
        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self.net(batch[0][:, :1] * 2, batch[0]), batch[1])

    module, batch = Two(Fused()), samples(6)
    callback = AttentionAlignment(weight=0.0, twins=1.0, layers="net.net.2", model="net")
    fit(make_trainer, module, callback, pair(*batch))
    depth, rgb = module.net.given[-1]
    assert torch.equal(depth, batch[0][:, :1] * 2)
    assert not torch.equal(rgb, batch[0])


def test_inputs__that_are_not_the_batchs_are_refused_where_twins_are_asked_for(make_trainer):
    class Resizing(Foreign):
        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self.net(F.interpolate(batch[0], scale_factor=2)), batch[1])

    with pytest.raises(ConfigurationError, match="Twins need a module that takes images"):
        fit(make_trainer, Resizing(), aligned(twins=1.0, model="net"), pair(*samples()))
    with pytest.warns(UserWarning, match="'net', which returns the logits, is not given the batch's images"):
        fit(make_trainer, Resizing(), aligned(twins="auto"), *[pair(*samples())] * 2)


# Layers and networks


class ChannelsLast(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.mix, self.head = nn.Conv2d(3, 16, 2, stride=2), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.mix(self.stem(x).permute(0, 2, 3, 1)).relu().mean(dim=(1, 2)))


class Attention(nn.Module):
    """Patches that look at each other through the fused kernel."""

    def __init__(self):
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, 16, 2, stride=2), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x):
        tokens = self.block(self.stem(x).flatten(2).transpose(1, 2))
        mixed = F.scaled_dot_product_attention(tokens, tokens, tokens)
        return self.head(mixed.mean(dim=1))


def test_layers__named_ones_are_read_as_their_shape_says(make_trainer):
    loss = Heard()
    fit(make_trainer, Foreign(ChannelsLast()), aligned(layers="net.mix", loss=loss), pair(*samples()))
    assert loss.shapes == [(4, 4, 4)]


def test_layers__of_tokens_are_read_anew_where_the_images_have_another_size(make_trainer):
    images, labels, masks = samples()
    wide = images.repeat(1, 1, 1, 2), labels, masks.repeat(1, 1, 2)
    loss = Heard()
    callback = aligned(layers="net.block", loss=loss)
    fit(make_trainer, Foreign(Attention()), callback, pair(images, labels, masks), pair(*wide))
    assert loss.shapes == [(4, 4, 4), (4, 4, 8)]


def test_attention__is_differentiated_twice_and_left_as_it_was(make_trainer):
    assert torch.backends.cuda.flash_sdp_enabled()
    trainer = fit(make_trainer, Foreign(Attention()), AttentionAlignment(weight=1.0), pair(*samples()), max_epochs=2)
    assert trainer.callback_metrics["alignment/penalty"] > 0
    assert torch.backends.cuda.flash_sdp_enabled()


def test_layers__auto_looks_at_what_is_trained_before_a_larger_teacher(make_trainer):
    class Taught(Foreign):
        def __init__(self):
            super().__init__()
            wide = nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU()
            head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 3)
            self.teacher = nn.Sequential(*wide, *head).requires_grad_(False)

        def training_step(self, batch, batch_idx):
            self.teacher(batch[0])
            return super().training_step(batch, batch_idx)

    trainer = fit(make_trainer, Taught(), aligned(layers="auto"), pair(*samples()))
    assert trainer.callback_metrics["alignment/penalty"] > 0


def test_copies__of_a_network_made_in_a_step_are_left_alone(make_trainer):
    class Averaging(Foreign):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.copies = [*getattr(self, "copies", []), copy.deepcopy(self.net)]
            return loss

    module, batch = Averaging(), samples(6)
    fit(make_trainer, module, AttentionAlignment(weight=1.0, twins=1.0), pair(*batch), max_epochs=3)
    for copied in module.copies:
        plain = network()
        plain.load_state_dict(copied.state_dict())
        assert torch.equal(copied(batch[0]), plain(batch[0]))


def test_copies__of_the_module_have_its_own_training_step(make_trainer):
    class Saving(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            pl_module._trainer, kept = None, pl_module._trainer
            pl_module._fabric, fabric = None, pl_module._fabric
            self.copied = copy.deepcopy(pl_module)
            torch.save(pl_module, file := io.BytesIO())
            pl_module._trainer, pl_module._fabric = kept, fabric
            self.loaded = torch.load(io.BytesIO(file.getvalue()), weights_only=False)

    saving, (images, labels, masks) = Saving(), samples()
    trainer = make_trainer(callbacks=[aligned(), saving])
    module = Foreign()
    trainer.fit(module, loader(pair(images, labels, masks)))
    for other in (saving.copied, saving.loaded):
        other.net[-1].bias.data.fill_(50.0)
        loss = other.training_step((images, labels), 0)
        torch.testing.assert_close(loss, F.cross_entropy(other.net(images), labels))
        assert loss != F.cross_entropy(module.net(images), labels)


# Labels, masks and batches


class Binary(Foreign):
    def __init__(self):
        super().__init__(nn.Sequential(*network()[:-1], nn.Linear(5, 1)))

    def training_step(self, batch, batch_idx):
        logits = self.net(batch["image"]).squeeze(1)
        return F.binary_cross_entropy_with_logits(logits, batch["label"].float())


@pytest.mark.parametrize("dtype", [torch.long, torch.float32])
@pytest.mark.parametrize("twins_loss", ["cross_entropy", "consistency"])
def test_labels__of_a_single_logit_are_two_classes(make_trainer, dtype, twins_loss):
    images, labels, masks = samples(6)
    target = Explained()
    callback = aligned(twins=1.0, target=target, twins_loss=twins_loss)
    trainer = fit(make_trainer, Binary(), callback, *[mapping(images, (labels % 2).to(dtype), masks)] * 2)
    assert target.logits[0].shape == (6, 1)
    assert trainer.callback_metrics["alignment/dead_maps"] < 1
    assert trainer.callback_metrics["alignment/twins"] > 0


def test_labels__of_images_without_an_annotation_may_be_none(make_trainer):
    class Ignoring(Foreign):
        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self.net(batch[0]), batch[1].long())

    images, labels, masks = samples(6)
    labels[4:], masks[4:] = -100, -1
    trainer = fit(make_trainer, Ignoring(), aligned(twins=1.0), *[pair(images, labels.int(), masks)] * 2)
    assert trainer.callback_metrics["alignment/penalty"] > 0


def test_labels__that_are_no_classes_are_asked_no_twins_and_say_so(make_trainer):
    class Unlabeled(Foreign):
        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self.net(batch["image"]), batch["target"])

    images, labels, masks = samples()
    with pytest.warns(UserWarning, match=r"makes no twins: the batch holds no labels; give them as .*'label'"):
        fit(make_trainer, Unlabeled(), AttentionAlignment(), {"image": images, "target": labels, "mask": masks})


def test_masks__of_zero_where_nothing_is_forbidden_lend_and_are_lent(make_trainer):
    labels = torch.arange(12) % 2
    images = labels.float().view(12, 1, 1, 1).repeat(1, 3, 8, 8)
    masks = torch.zeros(12, 8, 8)
    masks[::2, :4, :4] = 1  # a watermark in class 0 alone
    images[masks.unsqueeze(1).repeat(1, 3, 1, 1) > 0] = 9
    for place in ("exchange", "add"):
        module = Foreign(Given())
        callback = AttentionAlignment(
            weight=0.0, mask_kind="forbidden", model="net", twins_place=place, twins_share=1.0
        )
        fit(make_trainer, module, callback, *[pair(images, labels, masks)] * 3)
        seen = {(x[0, 7, 7].item(), x[0, 0, 0].item()) for given in module.net.given for x in given}
        assert {(0, 1), (1, 9)} <= seen  # class 0 with the other's corner, class 1 with the watermark


@pytest.mark.filterwarnings("ignore:AttentionAlignment saw:UserWarning")
def test_masks__that_forbid_nothing_train_as_without_the_callback(make_trainer):
    images, labels, masks = samples(6)
    trained = []
    for callback in (None, aligned(weight="auto", twins=1.0, mask_kind="forbidden", second_order=True)):
        module = Foreign()
        fit(make_trainer, module, callback, *[pair(images, labels, torch.zeros_like(masks))] * 3)
        trained.append(module.state_dict())
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


def test_masks__that_cover_all_are_no_objects_to_make_twins_of(make_trainer):
    plans = []
    for others in (1.0, -1.0):
        images, labels, masks = samples(8)
        masks[1:] = others
        callback = AttentionAlignment(weight=0.0, model="net")
        fit(make_trainer, Foreign(), callback, *[pair(images, labels, masks)] * 3)
        plans.append(callback.alignment.twins.dose.plan(8, kin=0.3))
    assert plans[0] == plans[1]
    assert plans[0].added > 0


def test_masks__missing_from_a_later_batch_are_no_annotation(make_trainer):
    images, labels, masks = samples(6)
    batches = mapping(images, labels, masks), {"image": images, "label": labels}

    class ByKey(Foreign):
        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self.net(batch["image"]), batch["label"])

    trainer = fit(make_trainer, ByKey(), AttentionAlignment(twins=1.0), *batches, *batches)
    assert trainer.callback_metrics["alignment/penalty"] > 0


def test_masks__none_in_an_epoch_or_most_of_them_empty_is_told(make_trainer):
    images, labels, masks = samples()
    with pytest.warns(UserWarning, match="saw no annotation on any of the 4 images"):
        fit(make_trainer, Foreign(), aligned(), pair(images, labels, -torch.ones_like(masks)))
    with pytest.warns(UserWarning, match="saw 4 masks in an epoch, and none of them leaves a background"):
        fit(make_trainer, Foreign(), aligned(), pair(images, labels, torch.ones_like(masks)))
    masks[:3] = 0
    with pytest.warns(UserWarning, match="saw 4 masks in an epoch, 3 of them empty"):
        fit(make_trainer, Foreign(), aligned(), pair(images, labels, masks))


def test_masks__that_a_precision_loses_are_missed_with_the_remedy(make_trainer):
    with pytest.raises(ConfigurationError, match=r"a MaskedPair without any.*give a mapping"):
        fit(make_trainer, Foreign(), aligned(), pair(*samples()), precision="64-true")


def test_labels__that_are_smoothed_are_said_to_be_read_as_several(make_trainer):
    images, labels, masks = samples()
    smoothed = 0.8 * F.one_hot(labels, 3) + 0.2 / 3
    with pytest.warns(UserWarning, match=r"lie between 0 and 1.*batch_adapter"):
        fit(make_trainer, Foreign(), aligned(), pair(images, smoothed, masks))


def test_masks__that_are_soft_get_no_twins_by_default(make_trainer):
    images, labels, masks = samples()
    batch = pair(images, labels, masks * 0.5)
    with pytest.warns(UserWarning, match=r"makes no twins: the masks are soft.*twins=1"):
        trainer = fit(make_trainer, Foreign(Given()), AttentionAlignment(layers="net.net.2"), batch)
    assert "alignment/twins" not in trainer.callback_metrics
    trainer = fit(make_trainer, Foreign(), AttentionAlignment(twins=1.0), batch)
    assert trainer.callback_metrics["alignment/twins"] > 0


def test_memory__of_images_of_another_size_is_no_use(make_trainer):
    images, labels, masks = samples(6)
    masks[2:] = -1
    larger = images.repeat(1, 1, 2, 2), labels, masks.repeat(1, 2, 2)
    batches = [pair(images, labels, masks), pair(*larger)] * 2
    trainer = fit(make_trainer, Foreign(), AttentionAlignment(weight=0.0, twins=1.0), *batches)
    assert trainer.callback_metrics["alignment/twins"] > 0


def test_twins__a_single_one_passes_batch_norm(make_trainer):
    images, labels, masks = samples()
    masks[1:] = -1
    net = nn.Sequential(*network()[:-1], nn.BatchNorm1d(5), nn.Linear(5, 3))
    trainer = fit(make_trainer, Foreign(net), AttentionAlignment(weight=0.0, twins=1.0), pair(images, labels, masks))
    assert trainer.callback_metrics["alignment/twins"] > 0


# Processes, fits and checkpoints


def test_census__a_refusal_of_one_process_is_everybodys():
    two = Processes(2, total=lambda counts: counts + torch.tensor([0, 0, 0, 0, 0, 0, 1]))
    images, labels, masks = samples()
    assert count(Batch(images, labels, masks), 4, two).of("refused", all_processes=True)
    assert not count(Batch(images, labels, masks), 4).of("refused")


def test_fits__begin_anew_unless_a_state_was_loaded(make_trainer):
    callback = aligned(weight="auto", start_when=1, stop_when=2)
    for _ in range(2):
        target = Explained()
        callback.alignment.penalty.target = target
        fit(make_trainer, Foreign(), callback, pair(*samples()), max_epochs=3)
        assert len(target.logits) == 1
        assert callback.alignment.steps == 1
    state = callback.state_dict()
    target = Explained()
    resumed = aligned(weight="auto", start_when=1, stop_when=2, target=target)
    resumed.load_state_dict(state)
    fit(make_trainer, Foreign(), resumed, pair(*samples()), max_epochs=3)
    assert resumed.span.stopped
    assert target.logits == []


def test_fits__of_one_trainer_go_on(make_trainer):
    target, module = Explained(), Foreign()
    callback = aligned(start_when=1, stop_when=2, target=target)
    trainer = fit(make_trainer, module, callback, pair(*samples()), max_epochs=3)
    trainer.fit_loop.max_epochs = 5
    trainer.fit(module, loader(pair(*samples())))
    assert len(target.logits) == 1


def test_state__of_an_earlier_version_is_gone_on_from(make_trainer):
    callback, older = aligned(weight="auto"), aligned(weight="auto")
    state = {"started_at": 0.25, "stopped": False, "steps": 12, "skipped": 1, "network": "net", "takes_own": True}
    state |= {"balance": [3.0, 4.0, 1.0, 1.0], "seen": [96.0, 48.0, 0.5, 1.0, 2.0]}
    callback.load_state_dict(state)
    assert callback.state_dict() == state
    assert callback.alignment.penalty.weight == 2
    older.load_state_dict({"started_at": None, "steps": 3, "skipped": 0})  # as the first ones were
    fit(make_trainer, Foreign(), older, pair(*samples()))
    assert older.state_dict()["steps"] == 4


def test_state__knows_the_network_after_the_fit_too(make_trainer):
    callback = aligned()
    fit(make_trainer, Foreign(), callback, pair(*samples()))
    assert callback.state_dict()["network"] == "net"
    assert callback.state_dict()["takes_own"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start_when": 2, "stop_when": 2}, "would end before it begins: stop_when=2"),
        ({"start_when": True}, "start_when is an epoch from 0 on.*True"),
        ({"loss": AlignmentLoss}, r"loss is a function.*AlignmentLoss\('outside_l1'\)"),
    ],
)
def test_arguments__that_cannot_be_meant_are_refused_at_once(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        AttentionAlignment(**arguments)


def test_start_when__a_condition_on_nothing_that_is_logged_is_told_without_a_validation_too(make_trainer):
    with pytest.warns(UserWarning, match="never began: nothing logged 'reliance/flagged'"):
        fit(make_trainer, Foreign(), aligned(start_when="reliance/flagged"), pair(*samples()))
