import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from camtrain.errors import BatchError, ConfigurationError
from camtrain.module import ImageClassifier
from camtrain.networks import SmallResNet


class Sign(nn.Module):
    """Class 1 where the image's mean is positive; it has a parameter that does nothing."""

    def __init__(self, num_classes=2):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(num_classes))

    def forward(self, images):
        means = images.mean(dim=(1, 2, 3))
        return torch.stack([-means, means], dim=1) + self.bias


def loader(images, labels, groups=None, batch_size=2):
    rows = [{"image": image, "label": int(label)} for image, label in zip(images, labels, strict=True)]
    for row, group in zip(rows, [] if groups is None else groups, strict=False):
        row["group"] = int(group)
    return DataLoader(rows, batch_size=batch_size)


SIGNS = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])
IMAGES = SIGNS.view(-1, 1, 1, 1).expand(-1, 3, 16, 16).clone()
BATCHES = loader(IMAGES, SIGNS > 0)


def test_image_classifier__logs_losses_and_accuracies_over_all_images(make_trainer):
    labels, groups = (
        torch.tensor([1, 0, 0, 0, 1]),
        torch.tensor([0, 1, 2, 1, 2]),
    )  # image 2 is wrong, group 2 has 1 of 2
    module = ImageClassifier(Sign(), num_classes=2, num_groups=4)
    logged = make_trainer().validate(module, loader(IMAGES, labels, groups), verbose=False)[0]
    assert set(logged) == {"val/loss", "val/accuracy", "val/worst_group_accuracy"}
    assert logged["val/accuracy"] == pytest.approx(4 / 5)
    assert logged["val/worst_group_accuracy"] == pytest.approx(1 / 2)
    right, wrong = torch.log1p(torch.exp(torch.tensor([-2.0, 2.0]))).tolist()
    assert logged["val/loss"] == pytest.approx((4 * right + wrong) / 5)


def test_image_classifier__leaves_out_groups_that_are_not_given(make_trainer):
    module = ImageClassifier(Sign(), num_classes=2, num_groups=4)
    logged = make_trainer().test(module, loader(IMAGES, torch.tensor([1, 0, 1, 0, 1])), verbose=False)[0]
    assert set(logged) == {"test/loss", "test/accuracy"}


def test_image_classifier__learns_and_logs_the_training(make_trainer):
    module = ImageClassifier(SmallResNet(2, width=4), num_classes=2, label_smoothing=0.1)
    trainer = make_trainer(max_epochs=6)
    batches = loader(torch.cat([IMAGES] * 4), (torch.cat([SIGNS] * 4) > 0).long(), batch_size=5)
    trainer.fit(module, batches, batches)
    assert {"train/loss", "train/accuracy", "val/loss", "val/accuracy"} <= set(trainer.callback_metrics)
    assert trainer.callback_metrics["train/accuracy"] == 1


def test_image_classifier__uses_the_optimizer_and_the_schedule_it_is_given(make_trainer):
    module = ImageClassifier(
        Sign(),
        num_classes=2,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1.0),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.1),
    )
    trainer = make_trainer(max_epochs=2)
    trainer.fit(module, BATCHES, BATCHES)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01)


def test_image_classifier__leaves_frozen_parameters_out():
    network = SmallResNet(2, width=4)
    network.stem.requires_grad_(False)
    parameters = ImageClassifier(network, num_classes=2).configure_optimizers().param_groups[0]["params"]
    assert len(parameters) == sum(p.requires_grad for p in network.parameters())


def test_image_classifier__comes_back_from_a_checkpoint(make_trainer, tmp_path):
    module = ImageClassifier("camtrain.networks.SmallResNet", class_names=["land", "water"], model_kwargs={"width": 4})
    trainer = make_trainer()
    trainer.fit(module, BATCHES, BATCHES)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    again = ImageClassifier.load_from_checkpoint(tmp_path / "a.ckpt")
    assert again.class_names == ["land", "water"]
    torch.testing.assert_close(again.eval()(IMAGES), module.eval()(IMAGES))


def test_image_classifier__predicts_probabilities(make_trainer):
    predicted = make_trainer().predict(ImageClassifier(Sign(), num_classes=2), DataLoader(IMAGES, batch_size=5))
    torch.testing.assert_close(predicted[0][0], torch.softmax(torch.tensor([-1.0, 1.0]), 0))


def test_image_classifier__reads_any_batch_through_an_adapter(make_trainer):
    rows = [{"pixels": image, "answer": 1} for image in IMAGES]
    module = ImageClassifier(Sign(), num_classes=2, batch_adapter=lambda batch: (batch["pixels"], batch["answer"]))
    logged = make_trainer().validate(module, DataLoader(rows, batch_size=5), verbose=False)[0]
    assert logged["val/accuracy"] == pytest.approx(3 / 5)


def test_image_classifier__needs_the_number_of_classes():
    with pytest.raises(ConfigurationError, match=r"two classes or more; the data names none. Set num_classes"):
        ImageClassifier(Sign())
    with pytest.raises(ConfigurationError, match=r"two classes or more; got 1"):
        ImageClassifier(Sign(), num_classes=1)


def test_image_classifier__names_labels_that_are_outside(make_trainer):
    module = ImageClassifier(Sign(), num_classes=2)
    with pytest.raises(BatchError, match=r"Labels run from 0 to 1 for 2 classes; the batch has 1 to 7"):
        make_trainer(limit_val_batches=0).fit(module, loader(IMAGES, torch.tensor([1, 7, 1, 0, 1])), BATCHES)


def test_image_classifier__needs_labels(make_trainer):
    with pytest.raises(BatchError, match="need labels"):
        make_trainer().validate(ImageClassifier(Sign(), num_classes=2), DataLoader(IMAGES), verbose=False)
