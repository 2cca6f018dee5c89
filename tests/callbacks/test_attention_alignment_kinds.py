"""Alignment on modules and annotations of many kinds, each against the gradient written out by hand."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from camtrain.callbacks import AttentionAlignment
from camtrain.cam import contribution_cam, gradients_of, record_activations
from camtrain.data import points_to_masks
from camtrain.errors import BatchError
from camtrain.losses import AlignmentLoss
from camtrain.swaps.twins import Blend
from tests.callbacks.modules import Foreign, Given, fit, mapping, network, pair, samples

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*have no logger configured"),
]


def aligned(**arguments):
    return AttentionAlignment(**{"weight": 2.0, "twins": 0.0, "layers": "net.2", **arguments})


def hand_step(net, batch, *, task=F.cross_entropy, score=None, weight=2.0, layer=2):
    """What every trainable parameter moves by under a learning rate of 0.5."""
    images, labels, masks = batch
    with record_activations(net[layer]) as activations:
        logits = net(images)
    scores = score(logits) if score else logits.log_softmax(1).gather(1, labels.unsqueeze(1)).squeeze(1)
    (gradients,) = gradients_of(scores, activations, create_graph=True)
    penalty = AlignmentLoss()(contribution_cam(activations[0], gradients), masks)
    trainable = [p for p in net.parameters() if p.requires_grad]
    return [-0.5 * g for g in torch.autograd.grad(task(logits, labels) + weight * penalty, trainable)]


def steps(before, after):
    return [b - a for a, b in zip(before.parameters(), after.parameters(), strict=True) if a.requires_grad]


def check(make_trainer, module, batch, **hand):
    before = copy.deepcopy(module.net)
    fit(make_trainer, module, aligned(), pair(*batch))
    torch.testing.assert_close([s.detach() for s in steps(before, module.net)], hand_step(before, batch, **hand))


class MultiLabel(Foreign):
    def training_step(self, batch, batch_idx):
        return F.binary_cross_entropy_with_logits(self.net(batch["image"]), batch["label"])


def test_multi_label__guides_a_class_that_is_present(make_trainer):
    images, labels, masks = samples()
    several = F.one_hot(labels, 3).float()
    module = MultiLabel()
    before = copy.deepcopy(module.net)
    fit(make_trainer, module, aligned(), mapping(images, several, masks))
    expected = hand_step(
        before,
        (images, several, masks),
        task=F.binary_cross_entropy_with_logits,
        score=lambda logits: F.logsigmoid(logits)[torch.arange(len(labels)), labels],
    )
    torch.testing.assert_close([s.detach() for s in steps(before, module.net)], expected)


def test_multi_label__twins_are_asked_for_every_class(make_trainer):
    images, labels, masks = samples()
    several = F.one_hot(labels, 3).float()
    trainer = fit(make_trainer, MultiLabel(), aligned(weight=0.0, twins=1.0), mapping(images, several, masks))
    assert 0.3 < trainer.callback_metrics["alignment/twins"] < 1.5  # binary: log 2 for an answer of one half


def test_multi_label__twins_refuse_labels_of_another_number_of_classes(make_trainer):
    images, labels, masks = samples()

    class Wide(MultiLabel):
        def training_step(self, batch, batch_idx):
            return self.net(batch["image"]).square().mean()

    batch = mapping(images, F.one_hot(labels, 5).float(), masks)
    with pytest.raises(BatchError, match=r"logits' shape \(2, 3\); got torch.float32 of shape \(2, 5\)"):
        fit(make_trainer, Wide(), aligned(weight=0.0, twins=1.0), batch)


def test_twins_loss__of_consistency_is_zero_where_the_background_does_not_matter(make_trainer):
    class Blinkered(Foreign):
        """Sees the object's box alone."""

        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self.net(batch[0]), batch[1])

    images, labels, masks = samples()
    divergences = []
    for net in (network(), nn.Sequential(Crop(), network())):
        callback = AttentionAlignment(weight=0.0, twins=1.0, twins_loss="consistency", twins_share=1.0, layers="net")
        callback.alignment.twins.blend = Blend(feather=0)
        trainer = fit(make_trainer, Blinkered(net), callback, pair(images, labels, masks))
        divergences.append(trainer.callback_metrics["alignment/twins"].item())
    assert divergences[0] > 1e-6
    assert divergences[1] == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("place", ["exchange", "add"])
def test_mask_kind__of_a_forbidden_region_lends_what_other_images_have_there(make_trainer, place):
    labels = torch.arange(8) % 2
    images = labels.float().view(8, 1, 1, 1).repeat(1, 3, 8, 8)
    masks = torch.zeros(8, 8, 8)
    masks[::2, :4, :4], masks[1::2, 4:, 4:] = 1, 1  # a sticker of another color in opposite corners
    images[masks.unsqueeze(1).repeat(1, 3, 1, 1) > 0] = 9
    net = Given()
    callback = AttentionAlignment(weight=0.0, mask_kind="forbidden", model="net", twins_place=place, twins_share=1.0)
    fit(make_trainer, Foreign(net), callback, pair(images, labels, masks))
    seen = {(x[0, 0, 7].item(), x[0, 0, 0].item(), x[0, 7, 7].item()) for x in net.given[-1]}
    as_taken = {(0, 9, 0), (1, 1, 9)}  # by class: the image, where class 0 has its sticker, where class 1 has its
    assert seen - as_taken == {(0, 1, 9), (1, 9, 0)}


class Crop(nn.Module):
    """The box that the samples' masks cover."""

    def forward(self, x):
        return x[:, :, 2:6, 1:5]


def test_frozen_backbone__trains_the_rest(make_trainer):
    module = Foreign()
    module.net[0].requires_grad_(False)
    check(make_trainer, module, samples())


def test_frozen_up_to_the_layer__trains_the_head(make_trainer):
    module = Foreign()
    module.net[:3].requires_grad_(False)
    check(make_trainer, module, samples())


class LowRank(nn.Module):
    """A frozen linear layer and a trained correction of rank 1, as LoRA wraps it."""

    def __init__(self, base):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down, self.up = nn.Linear(5, 1, bias=False), nn.Linear(1, 3, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


def test_low_rank_adapters__are_what_is_trained(make_trainer):
    net = network().requires_grad_(False)
    net[6] = LowRank(net[6])
    check(make_trainer, Foreign(net), samples())


class Checkpointed(nn.Sequential):
    def forward(self, x):
        *body, head = self
        return head(checkpoint(nn.Sequential(*body), x, use_reentrant=False))


def test_activation_checkpointing__takes_the_same_step(make_trainer):
    batch, plain = samples(), network()
    module = Foreign(Checkpointed(*copy.deepcopy(plain)))
    fit(make_trainer, module, aligned(layers="net.3"), pair(*batch))
    after = [p.detach() - q.detach() for p, q in zip(module.net.parameters(), plain.parameters(), strict=True)]
    torch.testing.assert_close(after, hand_step(plain, batch, layer=3))


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing__of_the_whole_network_sees_the_same_twins_again(make_trainer, reentrant):
    class Whole(Foreign):
        def training_step(self, batch, batch_idx):
            x, y = batch
            return F.cross_entropy(checkpoint(self.net, x.requires_grad_(), use_reentrant=reentrant), y)

    callback, batch, states = {"weight": 0.0, "twins": 1.0, "layers": "net.2", "model": "net"}, samples(8), []
    for kind in (Foreign, Whole):
        module = kind()
        fit(make_trainer, module, AttentionAlignment(**callback), pair(*batch))
        states.append(list(module.parameters()))
        assert not module.net._forward_pre_hooks
    torch.testing.assert_close(states[0], states[1])
    plain = Foreign()
    fit(make_trainer, plain, None, pair(*batch))
    assert not torch.allclose(next(plain.parameters()), states[0][0])


def test_points__guide_as_masks_of_discs(make_trainer):
    images, labels, _ = samples()
    masks = points_to_masks(torch.tensor([[[3.0, 4.0]]] * len(images)), (8, 8), radius=2.0)
    check(make_trainer, Foreign(), (images, labels, masks))


def test_soft_masks__weigh_every_cell(make_trainer):
    images, labels, masks = samples()
    check(make_trainer, Foreign(), (images, labels, 0.25 + 0.5 * masks))
