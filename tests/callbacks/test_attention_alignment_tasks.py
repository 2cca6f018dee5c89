"""Alignment of what is no class index: yes or no, a value, clips, and what it refuses."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from camtrain.alignment import Alignment, Penalty, Twins
from camtrain.alignment.batch import kind_of
from camtrain.callbacks import AttentionAlignment
from camtrain.data.batches import Batch
from camtrain.errors import ConfigurationError
from camtrain.losses import AlignmentLoss
from camtrain.swaps import Blend, blend_twins
from camtrain.tasks import Detection, Regression, SingleLabel
from tests.callbacks.modules import Foreign, fit, mapping, network, samples

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*have no logger configured"),
]


class Stepping(Foreign):
    def __init__(self, net, loss):
        super().__init__(net)
        self.loss = loss

    def training_step(self, batch, batch_idx):
        return self.loss(self.net(batch["image"]), batch["label"])


def one_output():
    return nn.Sequential(*network()[:-1], nn.Linear(5, 1))


def binary_loss(logits, labels):
    known = labels >= 0
    return F.binary_cross_entropy_with_logits(logits.squeeze(1)[known], labels[known].float())


def batches(change, count=4):
    for seed in range(count):
        images, labels, masks = samples(8, seed)
        yield mapping(images, change(labels), masks)


def trained(make_trainer, net, loss, change, callback=None, masks=None):
    torch.manual_seed(0)
    module = Stepping(net(), loss)
    data = list(batches(change))
    for batch in data if masks else []:
        masks(batch["mask"])
    trainer = fit(make_trainer, module, callback or AttentionAlignment(), *data)
    return list(module.parameters()), trainer.callback_metrics


@pytest.mark.parametrize("shape", [(8,), (8, 1)])
def test_binary__float_labels_teach_what_integers_teach(make_trainer, shape):
    def loss(logits, labels):
        return binary_loss(logits, labels.reshape(-1))

    floats, logged = trained(make_trainer, one_output, loss, lambda labels: (labels % 2).float().view(shape))
    integers, _ = trained(make_trainer, one_output, binary_loss, lambda labels: labels % 2)
    assert all(torch.equal(a, b) for a, b in zip(floats, integers, strict=True))
    assert 0.3 < logged["alignment/twins"] < 1.5
    assert logged["alignment/penalty"] > 0


@pytest.mark.parametrize("unknown", [-1.0, float("nan"), -100.0])
def test_binary__labels_that_are_not_known_are_of_no_class(make_trainer, unknown):
    def change(labels):
        labels = (labels % 2).float()
        labels[1] = unknown
        return labels

    taught, _ = trained(make_trainer, one_output, binary_loss, change)
    masked, _ = trained(make_trainer, one_output, binary_loss, change, masks=lambda masks: masks[1].fill_(-1))
    assert all(torch.equal(a, b) for a, b in zip(taught, masked, strict=True))


def test_binary__one_logit_equals_two_of_which_the_first_is_zero(make_trainer):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = one_output()

        def forward(self, images):
            logit = self.net(images)
            return torch.cat([torch.zeros_like(logit), logit], dim=1)

    one, _ = trained(make_trainer, one_output, binary_loss, lambda labels: labels % 2)
    two, _ = trained(make_trainer, Two, F.cross_entropy, lambda labels: labels % 2)
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


def value_loss(values, labels):
    return F.mse_loss(values.squeeze(1), labels)


def values(labels):
    return 10 * labels.float() + 0.5


def test_values__get_a_penalty_and_twins(make_trainer):
    _, logged = trained(make_trainer, one_output, lambda out, labels: value_loss(out, labels) / 100, values)
    assert logged["alignment/penalty"] > 0
    assert logged["alignment/twins"] > 0
    assert logged["alignment/skipped"] == 0


def scaled_loss(scale, outputs, labels):
    return scale * 1e-3 * value_loss(outputs, labels)


def test_values__of_added_twins_count_as_in_the_modules_own_loss(make_trainer):
    """In units of the module's loss, so that its scale scales both alike."""
    moved = []
    for scale in (1.0, 0.01):
        net = one_output()
        before = [parameter.detach().clone() for parameter in net.parameters()]
        callback = AttentionAlignment(weight=0.0, twins=1.0, twins_place="add")
        loss = partial(scaled_loss, scale)
        after, _ = trained(make_trainer, lambda net=net: net, loss, values, callback)
        moved.append([(a - b) / scale for a, b in zip(after, before, strict=True)])
    torch.testing.assert_close(moved[0][-1], moved[1][-1], rtol=0.1, atol=1e-3)


def bars(count, *, biased):
    lengths = torch.randint(2, 11, (count,))
    masks = torch.zeros(count, 16, 16)
    for mask, length, (row, column) in zip(masks, lengths, torch.randint(1, 5, (count, 2)).tolist(), strict=True):
        mask[row + 3 : row + 5, column : column + length] = 1
    ground = lengths if biased else torch.randint(2, 11, (count,))
    images = torch.where(masks > 0, 0.9, ground.view(-1, 1, 1) / 15.0) + 0.02 * torch.rand(count, 16, 16)
    return images.unsqueeze(1), lengths.float(), masks


def test_values__are_read_from_the_object_once_aligned():
    errors = []
    for alignment in (Alignment(), Alignment(Penalty(), Twins())):
        torch.manual_seed(0)
        layers = nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()
        net = nn.Sequential(*layers, nn.Linear(256, 1))
        optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
        alignment.attach(net)
        for _ in range(200):
            images, lengths, masks = bars(32, biased=True)
            with alignment.step(Batch(images, lengths, masks)) as step:
                loss = F.mse_loss(net(images).squeeze(1), lengths)
                optimizer.zero_grad()
                step.add(loss).backward()
                optimizer.step()
        images, lengths, _ = bars(300, biased=False)
        errors.append((net(images).squeeze(1) - lengths).abs().mean().item())
    assert errors[1] < 0.65 * errors[0]


class Film(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv3d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv3d(6, 5, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(5, 3)

    def forward(self, clips):
        return self.head(self.body(clips).mean((2, 3, 4)))


def test_clips__get_a_penalty_and_twins(make_trainer):
    torch.manual_seed(0)
    images, labels, masks = samples(8)
    clips, over_time = images.unsqueeze(2).repeat(1, 1, 4, 1, 1), masks.unsqueeze(1).repeat(1, 4, 1, 1)
    data = [mapping(clips + 0.1 * at, labels, over_time) for at in range(3)]
    trainer = fit(make_trainer, Stepping(Film(), F.cross_entropy), AttentionAlignment(), *data)
    assert trainer.callback_metrics["alignment/twins"] > 0
    assert trainer.callback_metrics["alignment/penalty"] > 0


def test_clips__of_one_frame_over_and_over_become_twins_as_the_frame():
    images, _, masks = samples(6)
    index, donors = torch.tensor([0, 2]), torch.tensor([3, 5])
    twins, shapes = blend_twins(images, masks, index, donors, Blend())
    films, over_time = blend_twins(
        images.unsqueeze(2).repeat(1, 1, 4, 1, 1), masks.unsqueeze(1).repeat(1, 4, 1, 1), index, donors, Blend()
    )
    for at in range(4):
        assert torch.equal(films[:, :, at], twins)
        assert torch.equal(over_time[:, at], shapes)


def test_tasks__with_more_than_an_answer_an_image_are_refused(make_trainer):
    for task in ("segmentation", "captioning", Detection()):
        with pytest.raises(ConfigurationError, match=r"has many: .*neither the penalty nor twins work"):
            AttentionAlignment(task=task)
    with pytest.raises(ConfigurationError, match="task='edges' is none"):
        AttentionAlignment(task="edges")
    dense = nn.Conv2d(3, 4, 3, padding=1)
    data = batches(lambda labels: torch.zeros(8, 8, 8, dtype=torch.long), 1)
    with pytest.raises(ConfigurationError, match=r"labels \(8, 8, 8\) are one for each pixel"):
        fit(make_trainer, Stepping(dense, F.cross_entropy), AttentionAlignment(), *data)


@pytest.mark.parametrize(
    ("labels", "task", "kind"),
    [
        (torch.tensor([0, 2]), "auto", "classes"),
        (torch.tensor([[0], [2]]), "auto", "classes"),
        (torch.tensor([0.0, 1.0]), "auto", "binary"),
        (torch.tensor([0.0, float("nan")]), "auto", "binary"),
        (torch.tensor([0.0, 0.5]), "auto", "values"),
        (torch.tensor([-3.0, 1.0]), "auto", "values"),
        (torch.tensor([[0.0, 1.0], [1.0, 1.0]]), "auto", "several"),
        (torch.tensor([0.0, 1.0]), "regression", "values"),
        (torch.tensor([0.0, 1.0]), Regression(0.0, 1.0), "values"),
        (None, "auto", "none"),
    ],
)
def test_kind__is_by_a_look_at_the_labels_or_by_the_task(labels, task, kind):
    assert kind_of(Batch(torch.zeros(2, 1, 2, 2), labels), task) == kind


def test_task__of_ones_own_is_asked_by_both_terms(make_trainer):
    class Ordinal(SingleLabel):
        """Neighboring classes are half right."""

        def losses(self, output, labels):
            near = self.read(output).softmax(dim=1).cumsum(dim=1)
            return near.gather(1, labels.unsqueeze(1)).squeeze(1)

        def evidence(self, output, labels):
            return -self.losses(output, labels)

    callback = AttentionAlignment(task=Ordinal())
    _, logged = trained(make_trainer, network, F.cross_entropy, lambda labels: labels, callback)
    assert 0 < logged["alignment/twins"] < 1  # a share, where a cross-entropy would be near log 3
    assert logged["alignment/penalty"] > 0


class Crossed(nn.Module):
    """Each label's evidence lies in one channel: that of the other label's object where `crossed`."""

    def __init__(self, crossed):
        super().__init__()
        self.features = nn.Conv2d(3, 3, 1, bias=False)
        nn.init.eye_(self.features.weight.data.view(3, 3))
        self.order = [1, 0] if crossed else [0, 1]

    def forward(self, images):
        return self.features(images).mean((2, 3))[:, self.order]


def two_objects():
    images, masks = torch.zeros(4, 3, 8, 8), torch.zeros(4, 2, 8, 8)
    masks[:, 0, :4, :4] = masks[:, 1, 4:, 4:] = 1
    images[:, :2] = masks
    return images, torch.ones(4, 2), masks


@pytest.mark.filterwarnings("ignore:The alignment penalty of the first step")  # all evidence is on one side
@pytest.mark.parametrize(("crossed", "outside"), [(True, 1.0), (False, 0.0)])
def test_multi_label__evidence_of_a_label_belongs_on_its_own_object(crossed, outside):
    images, labels, masks = two_objects()
    net = Crossed(crossed)
    alignment = Alignment(Penalty(1.0, loss=AlignmentLoss()), layers="features").attach(net)
    batch, notes = alignment.read(Batch(images, labels, masks))
    step = alignment.begin(batch)
    step.add(F.binary_cross_entropy_with_logits(net(images), labels))
    assert step.outcome.outside.value.item() == pytest.approx(outside, abs=1e-5)
    assert notes == []
    alignment.close()
    one_mask = Batch(images, labels, masks.amax(1))  # says nothing of which object is whose
    alignment = Alignment(Penalty(1.0, loss=AlignmentLoss()), layers="features").attach(net)
    step = alignment.begin(alignment.read(one_mask)[0])
    step.add(F.binary_cross_entropy_with_logits(net(images), labels))
    assert step.outcome.outside.value.item() == pytest.approx(0.0, abs=1e-5)
    alignment.close()


def test_multi_label__twins_are_made_by_default_where_each_label_has_its_mask():
    images, labels, masks = two_objects()
    masks[1, 0] = -1  # its object may lie anywhere: no twin, no penalty
    alignment = Alignment(Penalty(1.0), Twins()).attach(Crossed(False))
    batch, _ = alignment.read(Batch(images, labels, masks))
    step = alignment.begin(batch)
    assert alignment.twins.on
    assert not alignment.twins.refuses
    assert step.counts.number("annotated") == 3
    alignment.close()
    with pytest.raises(ConfigurationError, match="one object an image"):
        Alignment(None, Twins(blend=Blend(jitter=0.1))).attach(Crossed(False)).read(batch)
