"""What the monitor makes of tasks of several units an image: worked by hand, on networks whose evidence is known."""

import json
import warnings

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from camtrain.callbacks import ExplanationMonitor
from camtrain.data.batches import read_batch
from camtrain.errors import ConfigurationError, MaskError
from camtrain.tasks import Captioning, Detection
from tests.tasks.test_foreign_modules import TASKS, fitted

SIDE = 8


class Planned(pl.LightningModule):
    """Each channel of an image is the evidence for one answer; `read` makes the task's output of the maps."""

    def __init__(self, read):
        super().__init__()
        self.features = nn.Conv2d(3, 3, 1)
        nn.init.eye_(self.features.weight.data.view(3, 3))
        nn.init.zeros_(self.features.bias)
        self.read = read

    def forward(self, images):
        return self.read(self.features(images))

    def validation_step(self, batch, batch_idx):
        self(batch["image"])


class Items(Dataset):
    class_names = ("disk", "square", "cross")

    def __init__(self, **columns):
        self.columns = columns

    def __len__(self):
        return len(self.columns["image"])

    def __getitem__(self, index):
        return {name: values[index] for name, values in self.columns.items()}


def watched(read, data, tmp_path, collate=None, **arguments):
    monitor = ExplanationMonitor(methods=["grad_cam"], **arguments)
    trainer = pl.Trainer(
        logger=False, callbacks=[monitor], accelerator="cpu", enable_progress_bar=False, default_root_dir=tmp_path,
        enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        trainer.validate(Planned(read), DataLoader(data, 4, collate_fn=collate), verbose=False)
    lines = [json.loads(line) for path in tmp_path.rglob("*.jsonl") for line in path.read_text().splitlines()]
    return monitor, trainer.callback_metrics, lines


def squares(*places):
    """An image with a bright square in a channel at each place `(channel, row, column)`, and a mask a channel."""
    masks = torch.zeros(3, SIDE, SIDE)
    for channel, row, column in places:
        masks[channel, row : row + 2, column : column + 2] = 1
    return masks


def multi_label():
    # the first: both labels right on their objects; the second: label 1 missed, label 2 invented
    images = torch.stack([squares((0, 0, 0), (1, 4, 4)), squares((2, 4, 0))])
    masks = torch.stack([squares((0, 0, 0), (1, 4, 4)), squares((1, 0, 4))])
    masks[masks.amax((2, 3)) == 0] = -1
    return Items(image=images, label=torch.tensor([[1.0, 1, 0], [0, 1, 0]]), mask=masks)


def logits(maps):
    return maps.mean((2, 3)) * 100 - 3


def test_multi_label__units_have_rows_masks_and_failures_of_their_own(tmp_path):
    monitor, metrics, lines = watched(logits, multi_label(), tmp_path)
    table = monitor.images
    assert sorted(table.samples) == ["val-0#0", "val-0#1", "val-1#1", "val-1#2"]
    energy = dict(zip(table.samples, table["inside_energy/grad_cam"].tolist(), strict=True))
    assert energy["val-0#0"] == energy["val-0#1"] == 1  # each on its own object: the image's would say a half
    assert energy["val-1#2"] != energy["val-1#2"]  # an invented label has no object
    assert metrics["cam/right_grounded"] == 1  # of those with a mask and a heatmap: the missed label has none
    (classes,) = [line["rows"] for line in lines if line["kind"] == "classes"]
    counts = [(row["class_name"], row["images"], row["right"], row["missed"], row["invented"]) for row in classes]
    assert counts == [("disk", 1, 1, 0, 0), ("square", 2, 1, 1, 0), ("cross", 1, 0, 0, 1)]
    failures = next(line for line in lines if line["kind"] == "panels" and line["key"] == "cam/failures")["panels"]
    said = {panel["sample"]: (panel["reason"], panel["words"], panel["outcome"]) for panel in failures}
    assert said["val-1#1"] == ("missed", "square missed, 5 %", "wrong")
    assert said["val-1#2"] == ("invented", "cross invented, 96 %", "wrong")
    assert not [line for line in lines if line["kind"] == "classes" and line["confusion"]]


def test_regression__fails_by_spreads_and_is_explained_by_what_raises_it(tmp_path):
    images = torch.stack([squares((0, 0, 0)), squares((0, 0, 0), (1, 4, 4)), squares((1, 4, 4))])
    masks = torch.stack([squares((0, 0, 0))[0]] * 3)
    values = torch.tensor([10.0, 16.0, -2.0])  # the network says 6.25, 12.5 and 6.25
    monitor, metrics, lines = watched(
        lambda maps: maps[:, :2].mean((1, 2, 3)) * 200,
        Items(image=images, label=values, mask=masks), tmp_path, task="regression",
    )  # fmt: skip
    spread = values.std().item()
    errors = [(6.25 - 10) / spread, (12.5 - 16) / spread, (6.25 + 2) / spread]
    assert monitor.images["loss"].tolist() == pytest.approx([error**2 for error in errors])
    assert monitor.images["right"].tolist() == [1, 1, 0]
    assert monitor.images["label"].tolist() == [10, 16, -2]
    (failure,) = [
        panel for line in lines if line["kind"] == "panels" and line["key"] == "cam/failures"
        for panel in line["panels"] if panel["reason"] == "far off"
    ]  # fmt: skip
    assert failure["words"] == f"6.25 for -2, {errors[2]:.2g} spreads off · low"
    energy = monitor.images["inside_energy/grad_cam"].tolist()
    assert energy[1] == pytest.approx(0.5)  # raised by both squares, of which one is the object
    assert energy[0] != energy[0]  # nothing lowers it: an empty map
    assert metrics["cam/empty_maps/grad_cam"] == pytest.approx(2 / 3)


def test_segmentation__regions_are_judged_by_their_outline(tmp_path):
    images = torch.stack([squares((1, 0, 0), (2, 4, 4)), squares((2, 0, 0))])
    labels = torch.zeros(2, SIDE, SIDE, dtype=torch.long)
    labels[0, :2, :2], labels[0, 4:8, 4:8] = 1, 2  # of the second region a quarter is answered
    labels[1, :2, :2] = 1
    monitor, _, lines = watched(lambda maps: maps, Items(image=images, label=labels), tmp_path, layers="features")
    right = dict(zip(monitor.images.samples, monitor.images["right"].tolist(), strict=True))
    assert right == {"val-0#1": 1, "val-0#2": 0, "val-1#1": 0, "val-1#2": 0}
    failures = {
        panel["sample"]: panel["reason"]
        for line in lines if line["kind"] == "panels" and line["key"] == "cam/failures" for panel in line["panels"]
    }  # fmt: skip
    assert failures == {"val-0#2": "badly outlined", "val-1#1": "missed", "val-1#2": "invented"}


def boxed(maps):
    """One box of the first channel's square for each image, its score the mean of the channel."""
    places = [(channel[0] > 0).nonzero() for channel in maps.detach()]
    return [
        {
            "boxes": torch.cat([at.amin(0).flip(0), at.amax(0).flip(0) + 1]).float().unsqueeze(0),
            "scores": (each[0].sum() / 5).unsqueeze(0),
            "labels": torch.ones(1, dtype=torch.long),
        }
        for at, each in zip(places, maps, strict=True)
    ]


def detected():
    images = torch.stack([squares((0, 0, 0)), squares((0, 4, 4))])
    truth = [{"boxes": torch.tensor([box]), "labels": torch.tensor([1])} for box in ([0.0, 0, 2, 2], [0.0, 0, 2, 2])]
    return Items(image=images, label=truth)


def as_lists(items):
    return {"image": torch.stack([item["image"] for item in items]), "label": [item["label"] for item in items]}


def test_detection__boxes_are_units_with_the_annotated_box_as_mask(tmp_path):
    monitor, _, lines = watched(boxed, detected(), tmp_path, as_lists, layers="features", task=Detection())
    table = monitor.images
    assert table.samples == ["val-0#box 1", "val-1#box 1", "val-1#box 2"]
    assert table["right"].tolist() == [1, 0, 0]
    assert table["inside_energy/grad_cam"][0] == 1
    failures = {
        panel["sample"]: panel["reason"]
        for line in lines if line["kind"] == "panels" and line["key"] == "cam/failures" for panel in line["panels"]
    }  # fmt: skip
    assert failures == {"val-1#box 1": "missed", "val-1#box 2": "invented"}


def test_captioning__each_word_has_its_own_heatmap(tmp_path):
    images = torch.stack([squares((0, 0, 0), (1, 4, 4)), squares((1, 0, 0), (2, 4, 4))])
    words = torch.tensor([[0, 1], [1, 2]])
    masks = torch.stack([images[0, :2], images[1, 1:]])  # one for each word

    def speak(maps):
        sums = maps.sum((2, 3))
        second = sums * torch.tensor([0.2, 1.0, 1.5])
        return torch.stack([sums * torch.tensor([1.5, 1.0, 0.2]), second], dim=1)

    monitor, _, _ = watched(speak, Items(image=images, label=words, mask=masks), tmp_path, task=Captioning())
    table = monitor.images
    assert table.samples == ["val-0#word 1", "val-1#word 1", "val-0#word 2", "val-1#word 2"]
    assert table["right"].tolist() == [1] * 4
    assert table["inside_energy/grad_cam"].tolist() == pytest.approx([1.0] * 4)


def test_monitor__follows_all_units_of_its_probes(tmp_path):
    monitor, _, lines = watched(logits, multi_label(), tmp_path, num_probes=1)
    (shown,) = [line["panels"] for line in lines if line["kind"] == "panels" and line["key"] == "cam/heatmaps"]
    assert [panel["sample"] for panel in shown] == ["val-0#0", "val-0#1"]
    assert monitor.state_dict()["seen"]["val"]["probes"] == ["val-0"]


def test_monitor__refuses_a_target_where_an_image_has_several_units(tmp_path):
    with pytest.raises(ConfigurationError, match="several units"):
        watched(logits, multi_label(), tmp_path, target=lambda logits, labels: logits[:, 0])


@pytest.mark.parametrize("task", TASKS)
def test_monitor__leaves_training_as_it_was(task, tmp_path):
    weights = []
    for callback in (ExplanationMonitor(methods=["grad_cam"]), pl.Callback()):
        trainer, _, _ = fitted(task, callback, tmp_path, epochs=1)
        weights.append(torch.cat([each.flatten() for each in trainer.model.parameters()]))
    assert torch.equal(*weights)


def test_read_batch__takes_a_mask_for_each_label_and_boxes():
    images = torch.zeros(2, 3, SIDE, SIDE)
    assert read_batch((images, torch.zeros(2, 4), torch.ones(2, 4, SIDE, SIDE))).masks.shape == (2, 4, SIDE, SIDE)
    with pytest.raises(MaskError, match="one channel"):
        read_batch((images, torch.zeros(2, 3), torch.ones(2, 4, SIDE, SIDE)))
    with pytest.raises(MaskError, match="one channel"):
        read_batch((images, torch.tensor([0, 1]), torch.ones(2, 3, SIDE, SIDE)))
    batch = read_batch((list(images), [item["label"] for item in detected()]))
    assert batch.images.shape == images.shape
    assert batch.labels[0]["boxes"].shape == (1, 4)
