"""Alignment where outputs, labels, steps or parts of the network are of an odd kind."""

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchvision.ops import roi_align

from camtrain.callbacks import AttentionAlignment
from camtrain.errors import GradientError, LayerError
from tests.callbacks.modules import Explained, Foreign, Given, fit, loader, network, pair, samples

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*have no logger configured"),
]


class Returning(nn.Module):
    """Features, logits, and what a function makes of both."""

    def __init__(self, what):
        super().__init__()
        self.body, self.head, self.what = network()[:6], nn.Linear(5, 3), what

    def forward(self, x):
        features = self.body(x)
        return self.what(features, self.head(features))


class Stepping(Foreign):
    """A step of one's own."""

    def __init__(self, step, net=None):
        super().__init__(net)
        self.step = step

    def training_step(self, batch, batch_idx):
        return self.step(self, *batch)


def aligned(**arguments):
    return AttentionAlignment(**{"weight": 2.0, "twins": 0.0, **arguments})


class Watch(pl.Callback):
    """Sees each step once its loss is known."""

    def __init__(self, callback):
        self.alignment, self.plans = callback.alignment, []

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        (layer,) = self.alignment.network.layers
        self.layer = layer.name
        self.plans.append(self.alignment._step.plan)


def watched(make_trainer, module, callback, *batches):
    watch = Watch(callback)
    make_trainer(callbacks=[callback, watch]).fit(module, loader(*batches))
    return watch


@pytest.mark.parametrize(
    ("what", "pick"),
    [
        (lambda features, logits: (features, logits), lambda out: out[1]),
        (lambda features, logits: {"features": features, "scores": logits}, lambda out: out["scores"]),
        (lambda features, logits: (logits.sum() * 0, logits), lambda out: out[1]),
        (lambda features, logits: (features.detach(), logits), lambda out: out[1]),
        (lambda features, logits: logits[..., None, None], lambda out: out[..., 0, 0]),
    ],
)
def test_outputs__hold_logits_beside_other_things(make_trainer, what, pick):
    target = Explained()
    module = Stepping(lambda self, x, y: F.cross_entropy(pick(self.net(x)), y), Returning(what))
    callback = aligned(target=target, layers="net.body.2", twins=1.0)
    fit(make_trainer, module, callback, pair(*samples()), pair(*samples(seed=1)))
    assert [logits.shape for logits in target.logits] == [(4, 3)] * 2
    assert callback.alignment.skipped == 0


def test_outputs__of_a_single_logit_may_be_one_number_an_image(make_trainer):
    target = Explained()
    net = nn.Sequential(*network()[:6], nn.Linear(5, 1), nn.Flatten(0))
    module = Stepping(lambda self, x, y: F.binary_cross_entropy_with_logits(self.net(x), (y > 0).float()), net)
    images, labels, masks = samples()
    fit(make_trainer, module, aligned(target=target, layers="net.2"), pair(images, labels.clamp(max=1), masks))
    assert target.logits[0].shape == (4, 1)


def test_outputs__of_two_tasks_are_said_to_be_read_by_the_first(make_trainer):
    net = Returning(lambda features, logits: (logits, features[:, :2] * 1))
    module, target = Stepping(lambda self, x, y: F.cross_entropy(self.net(x)[0], y), net), Explained()
    with pytest.warns(UserWarning, match=r"reads the first of several outputs \(4, 3\), \(4, 2\) of 'net'.*'logits'"):
        fit(make_trainer, module, aligned(target=target, layers="net.body.2"), pair(*samples()))
    assert target.logits[0].shape == (4, 3)


@pytest.mark.parametrize("made", [nn.Softmax(1), nn.LogSoftmax(1), nn.Sigmoid()])
@pytest.mark.parametrize("in_loss", [False, True])
def test_logits__are_those_before_a_softmax(make_trainer, made, in_loss):
    def step(self, x, y):
        logits = self.net(x)
        shown = self.act(logits)
        return F.cross_entropy(logits, y) + (shown.sum() if in_loss else 0)

    module, target = Stepping(step), Explained()
    module.act = made
    callback = aligned(target=target, layers="net.2")
    fit(make_trainer, module, callback, pair(*samples()))
    assert callback.state_dict()["network"] == "net"
    torch.testing.assert_close(target.logits[0], network()(samples()[0]))


def test_logits__that_the_loss_does_not_use_are_others(make_trainer):
    def step(self, x, y):
        logits = self.net(x)
        self.watched = self.probe(logits)
        return F.cross_entropy(logits, y)

    module = Stepping(step)
    module.probe = nn.Linear(3, 4)
    callback = aligned(layers="net.2")
    fit(make_trainer, module, callback, pair(*samples()))
    assert callback.state_dict()["network"] == "net"


def test_losses__of_a_module_are_no_logits(make_trainer):
    def step(self, x, y):
        return self.loss(self.net(x), y).mean()

    class PerImage(nn.Module):
        def forward(self, logits, labels):
            return F.cross_entropy(logits, labels, reduction="none")

    for made in (PerImage(), nn.CrossEntropyLoss(reduction="none")):
        module = Stepping(step)
        module.loss = made
        callback = aligned(layers="net.2")
        fit(make_trainer, module, callback, pair(*samples()))
        assert callback.state_dict()["network"] == "net"


def test_validation__that_calls_the_training_step_is_not_aligned(make_trainer):
    class Both(Foreign):
        def validation_step(self, batch, batch_idx):
            self.shown = self.training_step(batch, batch_idx)
            self.log("val", self.shown)

        def on_validation_epoch_end(self):
            self.expected = F.cross_entropy(self.net(samples(seed=3)[0]), samples(seed=3)[1])

    module, callback = Both(), AttentionAlignment()
    trainer = make_trainer(callbacks=[callback], max_epochs=3)
    trainer.fit(module, loader(pair(*samples())), loader(samples(seed=3)[:2]))  # no masks there
    assert callback.alignment.steps == 3
    torch.testing.assert_close(trainer.callback_metrics["val"], module.expected)


@pytest.mark.parametrize("label", [-1, -100])
@pytest.mark.parametrize("annotated", [False, True])
def test_labels__below_zero_are_of_no_class(make_trainer, label, annotated):
    images, labels, masks = samples()
    labels = labels.clone()
    labels[1] = label
    if not annotated:
        masks[1] = -1
    kept = samples()[2]
    kept[1] = -1
    states = []
    for given in (masks, kept):
        module = Stepping(lambda self, x, y: F.cross_entropy(self.net(x), y, ignore_index=label))
        fit(make_trainer, module, AttentionAlignment(), *[pair(images, labels, given)] * 3)
        states.append(module.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))


def test_labels__of_one_column_are_classes(make_trainer):
    images, labels, masks = samples()
    module = Stepping(lambda self, x, y: F.cross_entropy(self.net(x), y.squeeze(1)))
    callback = AttentionAlignment()
    fit(make_trainer, module, callback, *[pair(images, labels.unsqueeze(1), masks)] * 2)
    assert callback.state_dict()["seen"][1] == 8


@pytest.mark.parametrize("unknown", [-1.0, float("nan")])
def test_labels__of_several_classes_may_be_unknown(make_trainer, unknown):
    images, _, masks = samples()
    labels = torch.tensor([[1.0, 0.0, unknown]] * 2 + [[0.0, 1.0, unknown]] * 2)

    def step(self, x, y):
        return F.binary_cross_entropy_with_logits(self.net(x)[:, :2], y[:, :2])

    module, before = Stepping(step), network()[-1]
    callback = aligned(weight=0.0, twins=1.0, twins_place="add")
    fit(make_trainer, module, callback, pair(images, labels, masks))
    assert callback.alignment.skipped == 0
    assert torch.equal(module.net[-1].bias[2], before.bias[2])
    assert not torch.equal(module.net[-1].bias[:2], before.bias[:2])


def test_batches__of_one_class_get_twins_of_earlier_ones_and_no_tolerance(make_trainer):
    images, _, masks = samples()
    batches = [pair(images + shift, torch.full((4,), shift), masks) for shift in (0, 1, 2)] * 2
    module = Foreign(Given())
    callback = AttentionAlignment()
    watch = watched(make_trainer, module, callback, *batches)
    assert all(plan.tolerance == 0 for plan in watch.plans)
    assert sum(map(len, module.net.given)) > 6 * 4


def test_steps__whose_loss_is_asked_for_several_times_see_the_same_twins(make_trainer):
    class Thrice(Foreign):
        def __init__(self):
            super().__init__()
            self.losses = []

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.losses.append(loss.item())
            return loss

        def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
            for _ in range(3):
                optimizer_closure()
            optimizer.step()

    images, labels, masks = samples()
    masks[3] = -1  # so that twins are added of earlier batches as well
    batches = [pair(images + 0.1 * shift, labels, masks) for shift in range(4)]
    module, callback = Thrice(), AttentionAlignment(weight=0.0)
    fit(make_trainer, module, callback, *batches)
    assert callback.alignment.steps == 4
    assert callback.state_dict()["seen"][0] == 16
    assert len(callback.alignment.twins.memory) == 12
    for at in range(0, 12, 3):
        assert module.losses[at] == module.losses[at + 1] == module.losses[at + 2]


class Regions(nn.Module):
    """Its pooling has no second derivative."""

    def __init__(self):
        super().__init__()
        self.body, self.head = network()[:4], nn.Linear(20, 3)

    def forward(self, x):
        boxes = torch.tensor([[i, 0.0, 0.0, 7.0, 7.0] for i in range(len(x))])
        return self.head(roi_align(self.body(x), boxes, 2).flatten(1))


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        s = x.sigmoid()
        return gradient * (s * (1 + x * (1 - s)))


class Swish(nn.Module):
    def forward(self, x):
        return Once.apply(x)


@pytest.mark.parametrize("weight", ["auto", 2.0])
@pytest.mark.parametrize("made", [Regions, lambda: nn.Sequential(*network()[:4], Swish(), *network()[4:])])
def test_second_order__that_a_part_does_not_have_names_the_first(make_trainer, made, weight):
    with pytest.raises(GradientError, match="second_order=False"):
        fit(make_trainer, Foreign(made()), aligned(weight=weight), pair(*samples()))
    callback = aligned(weight=weight, second_order=False)
    fit(make_trainer, Foreign(made()), callback, pair(*samples()))
    assert callback.alignment.steps == 1


@pytest.mark.parametrize("layers", ["auto", "net.net.1"])
def test_frozen_backbone__within_a_checkpoint_takes_the_same_step(make_trainer, layers):
    class Checkpointed(nn.Module):
        def __init__(self, saves):
            super().__init__()
            self.net, self.saves = network(), saves
            self.net[:4].requires_grad_(False)

        def forward(self, x):
            return checkpoint(self.net, x, use_reentrant=False) if self.saves else self.net(x)

    states = []
    for saves in (False, True):
        module = Foreign(Checkpointed(saves))
        fit(make_trainer, module, aligned(layers=layers, twins=1.0), *[pair(*samples(seed=seed)) for seed in range(3)])
        states.append(module.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))


def test_layers__of_a_network_that_takes_other_images_than_the_batch_holds(make_trainer):
    images, labels, masks = samples()
    batches = [pair(images[:, :1] + 0.1 * step, labels, masks) for step in range(3)]
    module = Stepping(lambda self, x, y: F.cross_entropy(self.net(x.expand(-1, 3, -1, -1)), y))
    target = Explained()
    callback = aligned(target=target)
    watch = watched(make_trainer, module, callback, *batches)
    assert len(target.logits) == 2  # the first step finds the layer
    assert watch.layer == "net.2"


def test_layers__say_what_a_network_without_a_map_answered(make_trainer):
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    with pytest.raises(LayerError, match=r"needs a part that takes images.*tried net: "):
        fit(make_trainer, Foreign(net), aligned(), pair(*samples()))
    callback = aligned(weight=0.0, twins=1.0)
    fit(make_trainer, Foreign(net), callback, pair(*samples()))  # twins need no map
    assert callback.alignment.steps == 1


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
def test_modules__that_take_no_hooks_are_left_alone(make_trainer):
    def step(self, x, y):
        with torch.no_grad():
            taught = self.teacher(x)
        return F.cross_entropy(self.net(x), y) + 0 * taught.sum()

    module = Stepping(step)
    module.teacher = torch.jit.script(network())
    callback = aligned(layers="net.2")
    fit(make_trainer, module, callback, pair(*samples()))
    assert callback.state_dict()["network"] == "net"


def test_modules__that_are_lazy_have_their_layers_found(make_trainer):
    net = nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(3))
    callback = aligned()
    fit(make_trainer, Foreign(net), callback, pair(*samples()))
    assert callback.alignment.steps == 1


@pytest.mark.parametrize("teacher", [False, True])
def test_answers__to_two_views_are_said_not_to_be_exchanged_alike(make_trainer, teacher):
    def step(self, x, y):
        other = self.teacher(x) if teacher else self.net(x + 0.1)
        return F.cross_entropy(self.net(x), y) + F.mse_loss(self.net(x), other.detach())

    module = Stepping(step)
    module.teacher = network().requires_grad_(False)
    with pytest.warns(UserWarning, match=r"answers to others as well.*twins_place='add'"):
        fit(make_trainer, module, AttentionAlignment(), pair(*samples()))


def test_heatmaps__of_a_convolutional_head_are_not_of_its_classes(make_trainer):
    class Squeezed(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.features = network()[:4]
            self.classifier = nn.Sequential(nn.Conv2d(5, 3, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))

        def forward(self, x):
            return self.classifier(self.features(x)).flatten(1)

        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    callback = aligned()
    assert watched(make_trainer, Squeezed(), callback, pair(*samples())).layer.startswith("classifier.")


class Chained(Foreign):
    """Backbone and head, one after the other."""

    def __init__(self):
        super().__init__(nn.Identity())
        self.backbone, self.head = network()[:6], network()[6:]

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.head(self.backbone(batch[0])), batch[1])


def test_layers__of_a_head_are_those_of_what_feeds_it(make_trainer):
    callback = aligned(model="head")
    assert watched(make_trainer, Chained(), callback, pair(*samples())).layer == "backbone.2"


def test_resume__of_backbone_and_head_finds_the_layer_again(make_trainer, tmp_path):
    first = aligned()
    trainer = fit(make_trainer, Chained(), first, pair(*samples()))
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    target = Explained()
    resumed = aligned(target=target)
    watch = Watch(resumed)
    make_trainer(callbacks=[resumed, watch], max_epochs=2).fit(
        Chained(), loader(pair(*samples())), ckpt_path=tmp_path / "one.ckpt"
    )
    assert watch.layer == "backbone.2"
    assert len(target.logits) == 1


def test_step__that_mirrors_the_images_is_said_to_be_taught_other_places(make_trainer):
    mirrored = Stepping(lambda module, x, y, masks: F.cross_entropy(module.net(x.flip(-1)), y))
    callback = aligned()
    with pytest.warns(UserWarning, match="teaches other places than the masks mark"):
        fit(make_trainer, mirrored, callback, samples())
