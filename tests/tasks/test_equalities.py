"""One question asked in two forms has one answer: heatmaps, rows, verdicts and what alignment teaches."""

import warnings

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from camtrain.alignment import Alignment, Penalty, Twins
from camtrain.callbacks import ExplanationMonitor, RelianceDetector
from camtrain.data.batches import Batch
from tests.tasks.test_foreign_modules import Rows

COUNT, SIDE, FRAMES = 48, 16, 3


class Asked(pl.LightningModule):
    """Looks at an image or clip and answers as `form` makes of one or two numbers."""

    def __init__(self, form, clips=False):
        super().__init__()
        torch.manual_seed(0)
        weights = [torch.randn(4, 3, 3, 3), torch.randn(4, 4, 3, 3) / 3]
        conv, size, padding = (nn.Conv3d, (1, 3, 3), (0, 1, 1)) if clips else (nn.Conv2d, 3, 1)
        layers = [conv(3, 4, size, padding=padding, bias=False), conv(4, 4, size, padding=padding, bias=False)]
        for layer, weight in zip(layers, weights, strict=True):
            layer.weight.data = weight.unsqueeze(2) if clips else weight
        self.features = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU())
        self.head = nn.Linear(4, 2)
        self.form = form

    def forward(self, images):
        return self.form(self.head(self.features(images).flatten(2).mean(2)) * 20)

    def validation_step(self, batch, batch_idx):
        self(batch[0])


def one(z):
    return z[:, :1]


def two(z):
    return torch.stack([torch.zeros_like(z[:, 0]), z[:, 0]], dim=1)


def pictures():
    generator = torch.Generator().manual_seed(0)
    bright = torch.rand(COUNT, 1, 1, 1, generator=generator)
    masks = torch.zeros(COUNT, SIDE, SIDE)
    masks[:, 4:12, 2:8] = 1
    images = torch.rand(COUNT, 3, SIDE, SIDE, generator=generator) * 0.5 + masks.unsqueeze(1) * bright
    return images, (bright.view(-1) > 0.5).long(), masks


def centered(module, images):
    """With a bias by which half of the answers are yes."""
    with torch.no_grad():
        z = module.head(module.features(images).flatten(2).mean(2))
        module.head.bias -= z.median(dim=0).values
    return module


def validated(module, data, callback, tmp_path):
    trainer = pl.Trainer(
        logger=False, callbacks=[callback], accelerator="cpu", enable_progress_bar=False, default_root_dir=tmp_path,
        enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        trainer.validate(module, DataLoader(data, 16), verbose=False)
    return callback


def watched(module, data, tmp_path, **arguments):
    return validated(module, data, ExplanationMonitor(methods=["grad_cam"], **arguments), tmp_path).images


def test_one_logit__equals_two_of_which_the_first_is_zero(tmp_path):
    images, labels, masks = pictures()
    tables = [watched(centered(Asked(form), images), Rows(images, labels, masks), tmp_path) for form in (one, two)]
    same = ("label", "predicted", "probability", "true_probability", "loss", "right")
    for column in same:
        torch.testing.assert_close(*(torch.tensor(table[column]) for table in tables), atol=1e-5, rtol=0)
    yes = tables[0]["predicted"] == 1
    assert 10 < yes.sum() < COUNT - 10
    energies = [torch.tensor(table["inside_energy/grad_cam"]) for table in tables]
    torch.testing.assert_close(energies[0][yes], energies[1][yes], atol=1e-5, rtol=0)
    assert tables[1]["empty/grad_cam"][~yes].all()  # a logit that is 0 has no evidence: the two differ there alone
    verdicts = [
        validated(
            centered(Asked(form), images), Rows(images, labels, masks), RelianceDetector(regions=0), tmp_path
        ).verdicts
        for form in (one, two)
    ]
    for first, second in zip(*verdicts, strict=True):
        assert first.verdict == second.verdict
        numbers = [(each.effect, each.low, each.high, each.placebo, each.p_value) for each in (first, second)]
        assert numbers[0] == pytest.approx(numbers[1], abs=1e-5)


def taught(form, labels_of, loss):
    images, labels, masks = (each[:8] for each in pictures())
    module = centered(Asked(form), images)
    alignment = Alignment(Penalty(1.0), Twins(1.0), layers="features").attach(module)
    for _ in range(2):  # the first step finds the network, the second one exchanges
        module.zero_grad()
        with alignment.step(Batch(images, labels_of(labels), masks)) as step:
            step.add(loss(module(images), labels)).backward()
    return [parameter.grad for parameter in module.parameters()]


def test_one_logit__is_taught_what_two_are():
    single = taught(one, lambda y: y.float(), lambda z, y: F.binary_cross_entropy_with_logits(z[:, 0], y.float()))
    pair = taught(two, lambda y: y, F.cross_entropy)
    assert max(float(gradient.abs().max()) for gradient in single) > 1e-3
    for first, second in zip(single, pair, strict=True):
        torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-5)


def test_several_labels__equal_yes_or_no_label_by_label(tmp_path):
    images, labels, masks = pictures()
    hot = F.one_hot(labels, 2).float()
    several = watched(centered(Asked(lambda z: z), images), Rows(images, hot, masks), tmp_path)
    rows = {sample: row for row, sample in enumerate(several.samples)}
    columns = ("probability", "true_probability", "loss", "cell", "inside_energy/grad_cam", "right")
    for label in (0, 1):
        form = [lambda z: z[:, :1], lambda z: z[:, 1:]][label]
        single = watched(centered(Asked(form), images), Rows(images, hot[:, label], masks), tmp_path)
        units = [(row, rows[f"{name}#{label}"]) for row, name in enumerate(single.samples) if f"{name}#{label}" in rows]
        assert len(units) >= COUNT // 2
        for column in columns:
            alone = torch.tensor([single[column][row] for row, _ in units])
            among = torch.tensor([several[column][row] for _, row in units])
            torch.testing.assert_close(among, alone, atol=1e-5, rtol=0, equal_nan=True)


def test_clip_of_identical_frames__equals_its_image(tmp_path):
    images, labels, masks = pictures()
    clips = images.unsqueeze(2).repeat(1, 1, FRAMES, 1, 1)
    still = watched(centered(Asked(two), images), Rows(images, labels, masks), tmp_path, layers="features")
    moving = watched(
        centered(Asked(two, clips=True), clips),
        Rows(clips, labels, masks.unsqueeze(1).repeat(1, FRAMES, 1, 1)), tmp_path, layers="features",
    )  # fmt: skip
    for column in still.columns:
        torch.testing.assert_close(
            torch.tensor(moving[column]), torch.tensor(still[column]), atol=1e-5, rtol=0, equal_nan=True
        )
