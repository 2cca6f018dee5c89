"""The detector on values, regions and clips: fixed networks that read either the object or the background."""

import warnings

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from camtrain.callbacks import RelianceDetector
from camtrain.data.batches import Batch
from camtrain.reliance.asking import as_clips, strips
from camtrain.tasks import Regression, Segmentation
from tests.tasks.test_foreign_modules import Rows

COUNT, SIDE, FRAMES = 96, 16, 3


class Reader(pl.LightningModule):
    """Reads how bright the object is (channel 0), or its background (channel 1), and answers in the task's form."""

    def __init__(self, place, answer):
        super().__init__()
        self.place, self.answer = place, answer
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, images):
        images = torch.stack(images) if isinstance(images, list) else images
        rows, columns = (slice(5, 11), slice(3, 7)) if self.place == "object" else (slice(None), slice(10, None))
        where = images[:, 0 if self.place == "object" else 1][..., rows, columns]
        return self.answer(where.flatten(1).mean(dim=1), images)

    def validation_step(self, batch, batch_idx):
        self(list(batch[0]) if self.answer is boxes else batch[0])


def value(read, images):
    return 30 * read


def regions(read, images):
    there = torch.zeros(SIDE, SIDE)
    there[4:12, 2:8] = 8
    high = (read.view(-1, 1, 1) - 0.5) * 40
    return torch.stack([4 - there.expand(len(read), -1, -1), there / 2 - high, there / 2 + high], dim=1)


def classes(read, images):
    return torch.stack([-(read - 0.5) * 20, (read - 0.5) * 20], dim=1)


BOX = torch.tensor([[2.0, 4, 8, 12]])


def boxes(read, images):
    """As a detector does: it is sure of one of two classes of the same box."""
    high = torch.sigmoid((read - 0.5) * 20)
    return [
        {"boxes": BOX.repeat(2, 1), "scores": torch.stack([1 - each, each]), "labels": torch.tensor([1, 2])}
        for each in high
    ]


def pictures():
    generator = torch.Generator().manual_seed(0)
    bright = torch.rand(COUNT, generator=generator)
    masks = torch.zeros(COUNT, SIDE, SIDE)
    masks[:, 4:12, 2:8] = 1
    images = 0.05 * torch.rand(COUNT, 3, SIDE, SIDE, generator=generator)
    images[:, 0] += masks * bright.view(-1, 1, 1)
    images[:, 1] += (1 - masks) * bright.view(-1, 1, 1)
    return images, bright, masks


def together(rows):
    return torch.stack([image for image, _ in rows]), [label for _, label in rows]


def judged(task, place, tmp_path):
    images, bright, masks = pictures()
    yes = (bright > 0.5).long()
    if task == "regression":
        answer, data = value, Rows(images, 30 * bright, masks)
    elif task == "detection":
        answer = boxes
        data = [(image, {"boxes": BOX, "labels": label.view(1)}) for image, label in zip(images, 1 + yes, strict=True)]
    elif task == "segmentation":
        answer, data = regions, Rows(images, masks.long() * (1 + yes.view(-1, 1, 1)), masks)
    else:
        clips = images.unsqueeze(2).repeat(1, 1, FRAMES, 1, 1)
        answer, data = classes, Rows(clips, yes, masks.unsqueeze(1).repeat(1, FRAMES, 1, 1))
    detector = RelianceDetector(regions=0, num_examples=1, looks=())
    trainer = pl.Trainer(
        logger=False, callbacks=[detector], accelerator="cpu", enable_progress_bar=False, default_root_dir=tmp_path,
        enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        collate = together if task == "detection" else None
        trainer.validate(Reader(place, answer), DataLoader(data, 24, collate_fn=collate), verbose=False)
    return detector.verdicts, trainer.callback_metrics["reliance/flagged"].item()


@pytest.mark.parametrize("task", ["regression", "segmentation", "clips", "detection"])
def test_detector__flags_the_background_and_clears_the_object(task, tmp_path):
    verdicts, flagged = judged(task, "background", tmp_path / "a")
    assert {each.verdict for each in verdicts} == {"reliant"}
    assert flagged == len(verdicts) == {"regression": 1, "segmentation": 2, "clips": 2, "detection": 2}[task]
    verdicts, flagged = judged(task, "object", tmp_path / "b")
    assert {each.verdict for each in verdicts} == {"not reliant"}
    assert flagged == 0


def test_detector__says_of_a_value_how_many_spreads_hang_on_the_background(tmp_path):
    (verdict,), _ = judged("regression", "background", tmp_path)
    _, bright, _ = pictures()
    first = 30 * bright[:24]  # center and spread are those of the first batch
    high = bright > first.mean() / 30
    truth = 30 * (bright[high].mean() - bright[~high].mean()) / first.std()
    assert verdict.effect == pytest.approx(truth.item(), abs=0.25)
    assert verdict.class_name == "value"
    assert "in spreads of the labels" in verdict.note


def test_regression__is_a_choice_whose_probability_is_linear_in_spreads():
    (view,) = Regression(center=10.0, spread=2.0).views(torch.tensor([10.0, 12.0, 6.0, 99.0]), torch.tensor([11.0] * 4))
    assert view.logits.softmax(dim=1)[:, 1].tolist() == pytest.approx([0.5, 0.75, 0.0, 1.0], abs=1e-5)
    assert view.labels.tolist() == [1] * 4


def test_segmentation__asks_for_each_class_whether_it_is_anywhere_and_where_it_is():
    labels = torch.zeros(1, 10, 10, dtype=torch.long)
    labels[0, :5, :5], labels[0, 9, 9] = 1, 255
    logits = torch.zeros(1, 3, 10, 10)
    logits[0, 2, 3, 3] = 50.0  # one pixel in a hundred is surest
    first, second = Segmentation().views(logits, labels)
    assert (first.about, first.labels.item(), second.about, second.labels.item()) == (1, 1, 2, 0)
    assert first.logits.softmax(dim=1)[0, 1].item() == pytest.approx(1 / 3, abs=1e-4)
    assert second.logits.softmax(dim=1)[0, 1].item() == pytest.approx(1.0, abs=1e-4)
    objects = Segmentation().objects(Batch(torch.zeros(1, 3, 10, 10), labels), 3)
    assert objects[0, :, 0, 0].tolist() == [0, 1, 0]  # of the background nothing
    assert objects[0, :, 9, 9].tolist() == [-1, -1, -1]


def test_strips__are_frames_side_by_side_with_their_masks():
    clips, masks = torch.rand(2, 3, 4, 5, 6), torch.rand(2, 4, 5, 6)
    strip = strips(Batch(clips, masks=masks))
    assert torch.equal(strip.images[:, :, :, 6:12], clips[:, :, 1])
    assert torch.equal(strip.masks[:, :, 6:12], masks[:, 1])
    assert torch.equal(as_clips(strip.images, 4), clips)


class Questioned(pl.LightningModule):
    """Answers by the question alone, or by which of three brightnesses the object has."""

    def __init__(self, by_question):
        super().__init__()
        self.by_question, self.unused = by_question, nn.Parameter(torch.zeros(1))

    def forward(self, images, questions):
        answer = questions if self.by_question else (images[:, 0, 5:11, 3:7].mean((1, 2)) * 3).long().clamp(max=2)
        return nn.functional.one_hot(answer, 3) * 9.0

    def validation_step(self, batch, batch_idx):
        self(batch["image"], batch["question"])


@pytest.mark.parametrize(("by_question", "flagged"), [(True, 2), (False, 0)])
def test_detector__tells_whether_answers_come_from_the_question(by_question, flagged, tmp_path):
    images, *_ = pictures()
    labels = (images[:, 0, 5:11, 3:7].mean((1, 2)) * 3).long().clamp(max=2)
    data = [{"image": i, "label": y, "question": k % 2} for k, (i, y) in enumerate(zip(images, labels, strict=True))]
    detector = RelianceDetector(task="question_answering")
    trainer = pl.Trainer(
        logger=False, callbacks=[detector], accelerator="cpu", enable_progress_bar=False, default_root_dir=tmp_path,
        enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        trainer.validate(Questioned(by_question), DataLoader(data, 24), verbose=False)
    assert [each.class_name for each in detector.verdicts] == ["question 0", "question 1"]
    assert {each.cue for each in detector.verdicts} == {"question"}
    assert trainer.callback_metrics["reliance/flagged"] == flagged


class Captioner(pl.LightningModule):
    """Says a brightness, then a shape word: by the word before it, or by the picture."""

    def __init__(self, by_words):
        super().__init__()
        self.by_words, self.unused = by_words, nn.Parameter(torch.zeros(1))

    def forward(self, images, earlier):
        first, second = images[:, 0, 5:11, 3:7].mean((1, 2)) > 0.5, images[:, 1, :, 10:].mean((1, 2)) > 0.5
        second = earlier[:, 0] == 1 if self.by_words else second
        said = torch.stack([first.long(), 2 + second.long()], dim=1)
        return nn.functional.one_hot(said, 4) * 9.0

    def validation_step(self, batch, batch_idx):
        images, captions = batch
        self(images, captions[:, :1])


@pytest.mark.parametrize(("by_words", "flagged"), [(True, 2), (False, 0)])
def test_detector__tells_which_words_do_not_come_from_the_picture(by_words, flagged, tmp_path):
    images, bright, masks = pictures()
    lit = torch.rand(COUNT, generator=torch.Generator().manual_seed(1))
    images[:, 1] = (1 - masks) * lit.view(-1, 1, 1)
    words = torch.stack([(bright > 0.5).long(), 2 + (lit > 0.5).long()], dim=1)
    detector = RelianceDetector(task="captioning")
    trainer = pl.Trainer(
        logger=False, callbacks=[detector], accelerator="cpu", enable_progress_bar=False, default_root_dir=tmp_path,
        enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        data = list(zip(images, words, strict=True))
        trainer.validate(Captioner(by_words), DataLoader(data, 24), verbose=False)
    verdicts = {each.class_index: each.verdict for each in detector.verdicts}
    assert [verdicts[word] for word in (0, 1)] == ["not reliant"] * 2
    assert [verdicts[word] for word in (2, 3)] == ["reliant" if by_words else "not reliant"] * 2
    assert trainer.callback_metrics["reliance/flagged"] == flagged
