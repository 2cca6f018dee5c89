import json
import re
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from camtrain.callbacks.reliance_detector import RelianceDetector
from camtrain.errors import ConfigurationError, MaskError
from camtrain.reliance import Criteria, Findings, examine
from camtrain.sinks import read_history
from camtrain.sinks.files import FilesSink
from camtrain.sinks.run import Run
from camtrain.swaps import dilate
from camtrain.tasks import SingleLabel, View
from tests.processes import forked

COLORS = torch.tensor([[1.0, 0.1, 0.1], [0.1, 1.0, 0.1], [0.1, 0.1, 1.0]])
GRAYS = torch.tensor([0.1, 0.4, 0.7])


def drawn(images: int, cue: str, seed: int = 0, balanced: bool = False) -> TensorDataset:
    """32 px: a disc on a ground; the class colors the `cue`, chance makes the other part some gray.

    In a balanced set chance colors the cue as well.
    """
    g = torch.Generator().manual_seed(seed)
    labels, chance = torch.arange(images) % 3, torch.randint(3, (images,), generator=g)
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    center = torch.randint(9, 23, (2, images, 1, 1), generator=g)
    masks = (((y - center[0]) ** 2 + (x - center[1]) ** 2) < 49).float()
    shown = torch.randint(3, (images,), generator=g) if balanced else labels
    told, other = COLORS[shown][..., None, None], GRAYS[chance].view(-1, 1, 1, 1)
    m = masks[:, None] if cue == "object" else 1 - masks[:, None]
    clean = m * told + (1 - m) * other
    return TensorDataset(clean + 0.1 * torch.randn(clean.shape, generator=g), labels, masks)


class Net(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 12, 4, stride=4),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.AdaptiveMaxPool2d(2),
            nn.Flatten(),
            nn.Linear(48, 3),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=2e-2)


class OnlyNet(Net):
    """Has no forward of its own that takes images."""

    def forward(self, other: Any) -> Tensor:
        raise RuntimeError("not for images")

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.net(batch[0])


# Where a cue lies takes more than half of a round, and pictures of it a third of the rest.
without_places = partial(RelianceDetector, regions=0, num_examples=1)


def loaders(cue: str, count: int = 72) -> tuple[DataLoader, DataLoader]:
    train, val = drawn(240, cue), drawn(count, cue, seed=1)
    return DataLoader(train, 24, shuffle=True), DataLoader(val, 24)


def fit(
    make_trainer: Callable[..., pl.Trainer],
    detector: Callback | None,
    cue: str = "background",
    module: pl.LightningModule | None = None,
    callbacks: tuple[Callback, ...] = (),
    data: tuple[DataLoader, DataLoader] | None = None,
    **kwargs: Any,
) -> tuple[pl.Trainer, pl.LightningModule]:
    torch.manual_seed(3)
    module = Net() if module is None else module
    used = [*([detector] if detector else []), *callbacks]
    trainer = make_trainer(**({"max_epochs": 2} | kwargs), callbacks=used)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        trainer.fit(module, *(data or loaders(cue)))
    return trainer, module


def said(detector: RelianceDetector) -> list[str]:
    return [verdict.verdict for verdict in detector.verdicts]


def records(trainer: pl.Trainer) -> str:
    return "".join(path.read_text() for path in Run.of(trainer).folder.rglob("*.jsonl"))


def test_detector__flags_a_planted_background_and_writes_it_down(make_trainer):
    detector = RelianceDetector(images_per_class=20)
    trainer, _ = fit(make_trainer, detector)
    assert said(detector) == ["reliant"] * 3
    assert trainer.callback_metrics["reliance/flagged"] == 3
    assert trainer.callback_metrics["reliance/effect"] > 0.3
    assert trainer.callback_metrics["reliance/effect/class 0"] > 0.3
    assert set(detector.flagged_since) == {"class 0", "class 1", "class 2"}
    lines = [json.loads(line) for line in records(trainer).splitlines()]
    verdicts = [line for line in lines if "rows" in line]
    assert [row["verdict"] for row in verdicts[-1]["rows"]] == ["reliant"] * 3
    assert len(verdicts[-1]["examples"]) == 12  # of three classes two that lose most and two transplants
    assert sum(
        "with the background tint of class 0, taken for class 0" in e["caption"] for e in verdicts[-1]["examples"]
    )
    assert all(row["flips"] > 10 * row["placebo_flips"] for row in verdicts[-1]["rows"])
    assert sum("lean on the background tint" in line.get("title", "") for line in lines) == 1


def patched(images: int, seed: int = 0) -> TensorDataset:
    """Gray discs on gray ground; a square in the class's color lies in the lower right corner."""
    _, labels, masks = drawn(images, "object", seed).tensors
    g = torch.Generator().manual_seed(seed)
    pictures = 0.4 + 0.2 * masks[:, None] + 0.1 * torch.randn(images, 3, 32, 32, generator=g)
    pictures[:, :, -5:, -5:] = COLORS[labels][..., None, None]
    masks[:, -7:, -7:] = 0
    return TensorDataset(pictures, labels, masks)


def test_detector__says_where_a_patch_lies_and_shows_it(make_trainer):
    data = DataLoader(patched(240), 24, shuffle=True), DataLoader(patched(72, seed=1), 24)
    detector = RelianceDetector(images_per_class=20)
    trainer, _ = fit(make_trainer, detector, data=data, max_epochs=3)
    assert said(detector) == ["reliant"] * 3
    assert [verdict.box for verdict in detector.verdicts] == [(0.75, 0.75, 0.25, 0.25)] * 3
    lines = [json.loads(line) for line in records(trainer).splitlines()]
    strips = [line for line in lines if "strips" in line][-1]["strips"]
    assert {strip["class_name"] for strip in strips} == {"class 0", "class 1", "class 2"}
    assert all("bottom right corner" in strip["where"] for strip in strips)
    assert all((Run.of(trainer).folder / strip["picture"]).is_file() for strip in strips)
    assert any("bottom right corner" in line.get("text", "") for line in lines)


def test_detector__does_not_look_for_places_where_that_is_not_wanted(make_trainer, monkeypatch):
    monkeypatch.setattr("camtrain.callbacks.reliance_detector.locate", None)
    detector = RelianceDetector(images_per_class=20, regions=0)
    fit(make_trainer, detector)
    assert [verdict.where for verdict in detector.verdicts] == [""] * 3
    assert said(detector) == ["reliant"] * 3


def test_detector__keeps_its_verdicts_where_the_search_for_a_place_fails(make_trainer, monkeypatch):
    def locate(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no place")

    monkeypatch.setattr("camtrain.callbacks.reliance_detector.locate", locate)
    detector = RelianceDetector(images_per_class=20)
    with pytest.warns(UserWarning, match=r"failed in locate \(RuntimeError: no place\); training goes on"):
        trainer, _ = fit(make_trainer, detector)
    assert said(detector) == ["reliant"] * 3
    assert trainer.current_epoch == 2


def test_detector__clears_a_model_that_must_read_the_object(make_trainer):
    detector = without_places(images_per_class=20, start_epoch=5)
    trainer, _ = fit(make_trainer, detector, "object", max_epochs=6)
    assert said(detector) == ["not reliant"] * 3
    assert trainer.callback_metrics["reliance/flagged"] == 0


def test_detector__leaves_weights_and_random_states_as_they_were(make_trainer):
    _, with_it = fit(make_trainer, RelianceDetector(images_per_class=12))
    after_it = torch.rand(3)
    _, without = fit(make_trainer, None)
    assert torch.equal(after_it, torch.rand(3))
    for name, value in without.state_dict().items():
        assert torch.equal(value, with_it.state_dict()[name]), name


def test_detector__examines_in_evaluation_mode_and_restores_the_mode_of_every_module(make_trainer):
    class DropoutStaysOn(Net):
        modes: set[bool] = set()  # noqa: RUF012

        def on_validation_epoch_start(self) -> None:
            self.net[3].train()

        def forward(self, images: Tensor) -> Tensor:
            if not self.net[1].training:
                self.modes.add((self.net[3].training, len(images) == 24))
            return super().forward(images)

        def on_validation_epoch_end(self) -> None:
            self.left = (self.net[1].training, self.net[3].training)

    module = DropoutStaysOn()
    data = loaders("background", 48)
    fit(make_trainer, RelianceDetector(images_per_class=11), module=module, max_epochs=1, data=data)
    assert module.modes == {(True, True), (False, True), (False, False)}
    assert module.left == (False, True)


def test_detector__can_be_monitored_from_the_first_validation(make_trainer, tmp_path):
    detector = without_places(every_n_epochs=2, start_epoch=1, images_per_class=12)
    stopping = EarlyStopping("reliance/flagged", patience=5)
    checkpoint = ModelCheckpoint(tmp_path, monitor="reliance/flagged")
    trainer, _ = fit(make_trainer, detector, callbacks=(stopping, checkpoint), max_epochs=3, enable_checkpointing=True)
    assert checkpoint.best_model_score == 3  # NaN in epoch 0, before the first look
    assert trainer.callback_metrics["reliance/flagged"] == 3


def test_detector__examines_every_n_epochs_and_the_last(make_trainer):
    class Looks(RelianceDetector):
        epochs: list[int] = []  # noqa: RUF012

        def _examine(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            self.epochs.append(trainer.current_epoch)
            super()._examine(trainer, pl_module)

    fit(make_trainer, Looks(every_n_epochs=3, images_per_class=12, regions=0), max_epochs=6)
    assert Looks.epochs == [0, 3, 5]


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_detector__judges_outside_fit_too(make_trainer, stage):
    _, module = fit(make_trainer, None)
    detector = without_places(images_per_class=20)
    trainer = make_trainer(callbacks=[detector])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        (metrics,) = getattr(trainer, stage)(module, loaders("background")[1], verbose=False)
    assert metrics["test/reliance/flagged" if stage == "test" else "reliance/flagged"] == 3


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_detector__works_in_other_precisions(make_trainer, precision):
    detector = RelianceDetector(images_per_class=12)
    fit(make_trainer, detector, precision=precision)
    assert said(detector) == ["reliant"] * 3


def test_detector__reads_a_named_submodule(make_trainer):
    detector = without_places(images_per_class=12, model="net")
    fit(make_trainer, detector, module=OnlyNet())
    assert said(detector) == ["reliant"] * 3


def test_detector__remembers_flags_over_a_checkpoint(make_trainer):
    detector = without_places(images_per_class=12)
    fit(make_trainer, detector, max_epochs=1)
    resumed = without_places(images_per_class=12)
    resumed.load_state_dict(json.loads(json.dumps(detector.state_dict())))
    assert resumed.flagged_since == detector.flagged_since != {}
    trainer, _ = fit(make_trainer, resumed, max_epochs=2)
    assert said(resumed) == ["reliant"] * 3
    assert "lean on the background tint" not in records(trainer)


def test_detector__other_submodules_have_other_states():
    assert RelianceDetector(model="a").state_key != RelianceDetector(model="b").state_key


def bare(data: tuple[DataLoader, DataLoader]) -> tuple[DataLoader, DataLoader]:
    """The same without masks."""
    train, val = (TensorDataset(*one.dataset.tensors[:2]) for one in data)
    return DataLoader(train, 24, shuffle=True), DataLoader(val, 24)


@pytest.mark.parametrize("sanity", [0, 2])
def test_detector__without_masks_guesses_them_and_says_so_once(make_trainer, caplog, sanity):
    detector = RelianceDetector(images_per_class=20)
    with caplog.at_level("INFO"):
        trainer, _ = fit(make_trainer, detector, data=bare(loaders("background")), num_sanity_val_steps=sanity)
    assert said(detector) == ["reliant"] * 3
    assert all("of the frame exchanged" in verdict.note for verdict in detector.verdicts)
    assert trainer.callback_metrics["reliance/flagged"] == 3
    assert sum("guesses them" in message for message in caplog.messages) == 1
    rounds = [line for line in map(json.loads, records(trainer).splitlines()) if "rows" in line]
    assert len(rounds[-1]["examples"]) >= 6


def test_detector__without_masks_clears_nobody(make_trainer):
    detector = without_places(images_per_class=20, segmenter=disc, start_epoch=5)
    fit(make_trainer, detector, "object", data=bare(loaders("object")), max_epochs=6)
    assert set(said(detector)) == {"no evidence"}
    assert all("over" in one.note and "% of the frame" in one.note for one in detector.verdicts)


def disc(images: Tensor) -> Tensor:
    """Colors differ between channels on the object only."""
    return (images.std(dim=1) > 0.25).float()


def test_detector__asks_the_segmenter_once_per_image_over_all_rounds(make_trainer):
    asked: list[int] = []

    def segmenter(images: Tensor) -> Tensor:
        asked.append(len(images))
        return disc(images)

    detector = without_places(images_per_class=20, segmenter=segmenter, lend_from_training=False, stickers=False)
    fit(make_trainer, detector, "object", data=bare(loaders("object")), max_epochs=3)
    assert sum(asked) == 60 + 2 * 24  # and the two batches of the sanity check


def test_detector__refuses_a_segmenter_of_another_shape_before_training(make_trainer):
    detector = RelianceDetector(segmenter=lambda images: images)
    with pytest.raises(MaskError, match=r"here \(24, 32, 32\); got \(24, 3, 32, 32\)"):
        fit(make_trainer, detector, data=bare(loaders("background")))


def test_detector__of_a_set_with_some_masks_judges_by_these(make_trainer):
    train, val = loaders("background", 144)
    images, labels, masks = val.dataset.tensors
    masks[72:] = -1
    detector = without_places(images_per_class=40, lend_from_training=False)
    fit(make_trainer, detector, data=(train, DataLoader(TensorDataset(images, labels, masks), 24)))
    assert said(detector) == ["reliant"] * 3
    assert [verdict.images for verdict in detector.verdicts] == [24] * 3
    assert not any("frame" in verdict.note for verdict in detector.verdicts)


def test_detector__refuses_masks_of_255_before_training(make_trainer):
    train, val = loaders("background")
    images, labels, masks = val.dataset.tensors
    with pytest.raises(MaskError, match="255"):
        fit(
            make_trainer,
            RelianceDetector(),
            data=(train, DataLoader(TensorDataset(images, labels, 255 * masks), 24)),
        )


def test_detector__guesses_where_no_image_is_annotated(make_trainer):
    train, val = loaders("background")
    images, labels, masks = val.dataset.tensors
    unknown = DataLoader(TensorDataset(images, labels, torch.full_like(masks, -1)), 24)
    detector = without_places(images_per_class=20)
    fit(make_trainer, detector, data=(train, unknown), max_epochs=1)
    assert said(detector) == ["reliant"] * 3
    assert all("of the frame exchanged" in verdict.note for verdict in detector.verdicts)


def test_detector__where_nothing_can_be_guessed_warns_once_and_flags_nothing(make_trainer):
    detector = RelianceDetector(segmenter=lambda images: torch.full_like(images[:, 0], -1.0))
    with pytest.warns(UserWarning, match="no validation image shows an object") as caught:
        trainer, _ = fit(make_trainer, detector, data=bare(loaders("background")))
    assert sum("RelianceDetector" in str(w.message) for w in caught) == 1
    assert trainer.callback_metrics["reliance/flagged"].isnan()
    assert said(detector) == ["undecided"] * 3
    assert "no validation image shows an object" in detector.verdicts[0].note


def test_detector__a_failure_while_examining_is_reported_once_and_training_goes_on(make_trainer):
    class Broken(Net):
        def forward(self, images: Tensor) -> Tensor:
            if not self.training and len(images) != 24:
                raise RuntimeError("no such batch")
            return super().forward(images)

    with pytest.warns(UserWarning, match="no such batch") as caught:
        trainer, _ = fit(make_trainer, without_places(images_per_class=11), module=Broken())
    assert sum("RelianceDetector" in str(w.message) for w in caught) == 1
    assert trainer.current_epoch == 2


def test_detector__names_an_unknown_submodule_before_training(make_trainer):
    with pytest.raises(ConfigurationError, match=r"'nett'.*net"):
        fit(make_trainer, RelianceDetector(model="nett"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every_n_epochs": 0}, "every_n_epochs is a whole number of at least 1; got 0"),
        ({"images_per_class": 3}, "images_per_class must be at least 10, got 3"),
        ({"donor_classes": 1}, "donor_classes is a whole number of at least 2; got 1"),
        ({"alpha": 0.0}, "alpha"),
        ({"tau": 0.2}, "tau=0.2 and limit=0.1"),
        ({"classes": [4]}, "at least two"),
    ],
)
def test_detector__refuses_arguments_out_of_range(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        RelianceDetector(**arguments)


@pytest.mark.parametrize(("spend_alpha", "shares"), [(True, [1 / 2, 1 / 6]), (False, [1.0, 1.0])])
def test_detector__alpha_spending_gives_later_rounds_less(make_trainer, monkeypatch, spend_alpha, shares):
    given = []

    def noting(*args: Any, criteria: Criteria, **kwargs: Any) -> Findings:
        given.append(criteria.share)
        return examine(*args, criteria=criteria, **kwargs)

    monkeypatch.setattr("camtrain.callbacks.reliance_detector.examine", noting)
    detector = without_places(images_per_class=12, spend_alpha=spend_alpha)
    fit(make_trainer, detector)
    assert given == pytest.approx(shares)
    assert said(detector) == ["reliant"] * 3
    assert detector.state_dict()["rounds"] == 2


def test_detector__takes_the_backgrounds_of_training_where_validation_is_balanced(make_trainer):
    train = DataLoader(drawn(240, "background"), 24, shuffle=True)
    balanced = DataLoader(drawn(72, "background", seed=1, balanced=True), 24)
    detector = without_places(images_per_class=20)
    fit(make_trainer, detector, data=(train, balanced))
    assert said(detector) == ["reliant"] * 3
    blind = without_places(images_per_class=20, lend_from_training=False)
    fit(make_trainer, blind, data=(train, balanced))
    assert "not reliant" not in said(blind)


class Balanced(pl.LightningDataModule):
    """Held-out images whose backgrounds tell nothing, beside training images whose backgrounds tell the class."""

    def __init__(self, refuses: bool = False) -> None:
        super().__init__()
        self.refuses, self.asked = refuses, 0
        self.rows = drawn(90, "background", seed=1, balanced=True)

    def train_dataloader(self) -> DataLoader:
        self.asked += 1
        if self.refuses:
            raise AttributeError("setup('fit') makes the training images")
        return loaders("background")[0]

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.rows, 30)

    test_dataloader = val_dataloader


@pytest.fixture
def leaning(make_trainer: Callable[..., pl.Trainer]) -> pl.LightningModule:
    return fit(make_trainer, None)[1]


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_detector__outside_fit_reads_training_images_that_lend(make_trainer, leaning, stage):
    detector, data = without_places(images_per_class=20), Balanced()
    blind = without_places(images_per_class=20, lend_from_training=False)
    drawn_after = []
    for callback in (blind, detector):
        torch.manual_seed(5)
        getattr(make_trainer(callbacks=[callback]), stage)(leaning, datamodule=data, verbose=False)
        drawn_after.append(torch.rand(1).item())
    assert said(detector) == ["reliant"] * 3
    assert "reliant" not in said(blind)
    assert drawn_after[0] == drawn_after[1]
    trainer = make_trainer(callbacks=[detector])
    getattr(trainer, stage)(leaning, datamodule=data, verbose=False)
    assert data.asked == 1


def test_detector__flags_no_more_what_a_person_called_fair(make_trainer, leaning, tmp_path):
    plain = without_places(images_per_class=20)
    make_trainer(callbacks=[plain]).validate(leaning, datamodule=Balanced(), verbose=False)
    fair = [{"class_name": each.class_name, "cue": each.cue, "judgement": "fair"} for each in plain.verdicts[:2]]
    (tmp_path / "judgement.json").write_text(json.dumps({"judgements": fair}))
    detector = without_places(images_per_class=20, judgement=str(tmp_path / "judgement.json"))
    trainer = make_trainer(callbacks=[detector])
    trainer.validate(leaning, datamodule=Balanced(), verbose=False)
    assert said(detector) == ["fair", "fair", "reliant"]
    assert [each.effect for each in detector.verdicts] == [each.effect for each in plain.verdicts]
    assert trainer.callback_metrics["reliance/flagged"] == 1
    page = next(Run.of(trainer).folder.rglob("report.html")).read_text()
    assert "Judged fair evidence: " in page


def test_detector__outside_fit_says_where_training_images_cannot_be_read(make_trainer, leaning):
    detector = without_places(images_per_class=20)
    with pytest.warns(
        UserWarning, match=r"could not read training images \(AttributeError: setup.*those of validate lend"
    ):
        make_trainer(callbacks=[detector]).validate(leaning, datamodule=Balanced(refuses=True), verbose=False)
    assert len(said(detector)) == 3


def test_detector__outside_fit_looks_at_some_training_images_only(make_trainer, leaning):
    class Counted(Balanced):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            self.batches = getattr(self, "batches", 0) + 1
            return batch

    data = Counted()
    detector = without_places(images_per_class=10, max_images=20)
    with pytest.warns(UserWarning, match=r"keeps max_images=20 and leaves .* out, among them \[2\]"):
        make_trainer(callbacks=[detector]).validate(leaning, datamodule=data, verbose=False)
    assert data.batches == 3 + 4  # of validation, and as many of 24 as hold 80


def test_detector__trains_on_batches_that_hold_no_masks(make_trainer):
    train, val = loaders("background")
    bare = DataLoader(TensorDataset(*train.dataset.tensors[:2]), 24, shuffle=True)
    detector = without_places(images_per_class=20)
    fit(make_trainer, detector, data=(bare, val))
    assert said(detector) == ["reliant"] * 3


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (lambda images, labels, masks: (images, labels, torch.full_like(masks, -1)), "0 are usable.*class needs 10"),
        (lambda images, labels, masks: (images[:, :, ::2, ::2], labels, masks[:, ::2, ::2]), "60 are usable"),
        (lambda images, labels, masks: (images, labels, masks * 255), "mask"),
    ],
)
def test_detector__says_once_why_training_images_lend_nothing(make_trainer, caplog, rows, why):
    train = DataLoader(TensorDataset(*rows(*drawn(240, "background").tensors)), 24)
    detector = without_places(images_per_class=20)
    with caplog.at_level("INFO", "pytorch_lightning.utilities.rank_zero"):
        fit(make_trainer, detector, data=(train, loaders("background")[1]))
    said_so = [text for text in caplog.messages if "training images lend none" in text]
    assert len(said_so) == 1
    assert re.search(why, said_so[0])
    assert len(said(detector)) == 3


def test_detector__alone_leaves_a_report(make_trainer, leaning):
    detector = RelianceDetector(images_per_class=20)
    fitted, _ = fit(make_trainer, detector)
    validated = make_trainer(callbacks=[detector])
    validated.validate(leaning, datamodule=Balanced(), verbose=False)
    for place in (Run.of(fitted).folder, Run.of(validated).folder / "validate"):
        assert "3 of 3 classes lean on their" in (place / "report.html").read_text()
        assert len(json.loads((place / "verdicts.json").read_text())["verdicts"]) == 3
        assert not (place / ".reserve").exists()


def test_detector__says_nothing_where_training_images_lend(make_trainer, caplog):
    with caplog.at_level("INFO", "pytorch_lightning.utilities.rank_zero"):
        fit(make_trainer, without_places(images_per_class=20))
    assert not any("lend" in text for text in caplog.messages)


@pytest.mark.parametrize(("verb", "folder"), [("fit", "."), ("validate", "validate"), ("test", "test")])
def test_detector__has_written_everything_when_the_trainer_returns(make_trainer, monkeypatch, verb, folder):
    write = FilesSink.write
    monkeypatch.setattr(FilesSink, "write", lambda *args: time.sleep(0.3) or write(*args))
    trainer = make_trainer(max_epochs=1, callbacks=[without_places(images_per_class=20)])
    train, val = loaders("background")
    given = (train, val) if verb == "fit" else (val,)
    getattr(trainer, verb)(Net(), *given)
    assert len(read_history(Run.of(trainer).folder / folder).verdicts) == 1


def verdicts_of_two(folder: Path) -> str:
    torch.manual_seed(0)
    detector = RelianceDetector(images_per_class=20)
    trainer = pl.Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, logger=False, callbacks=[detector],
        enable_checkpointing=False, enable_progress_bar=False, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(Net(), *loaders("background"))
    return repr(detector.verdicts)


def test_detector__two_processes_reach_the_same_verdict_from_all_images(tmp_path):
    first, second = forked(verdicts_of_two, tmp_path, folder=tmp_path)
    assert first == second
    assert first.count("verdict='reliant'") == 3
    assert first.count("images=20") == 3  # ten of each process
    assert first.count("where='all over the background'") == 3


def stuck(images: int, seed: int = 0) -> TensorDataset:
    """Gray squares on gray, and close to each, on any side, a dot in the color of the class; no masks."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(images) % 3
    pictures = 0.2 + 0.02 * torch.randn(images, 3, 48, 48, generator=g)
    for picture, label in zip(pictures, labels.tolist(), strict=True):
        top, left, along = (int(torch.randint(11, 18, (1,), generator=g)) for _ in range(3))
        picture[:, top : top + 20, left : left + 20] = 0.6
        side, back = int(torch.randint(4, (1,), generator=g)), along - 14
        y, x = ((top - 9, left + 7 + back), (top + 24, left + 7 + back), (top + 7 + back, left - 9), (0, 0))[side]
        y, x = (top + 7 + back, left + 24) if side == 3 else (y, x)
        picture[:, y : y + 5, x : x + 5] = 0.1 + 0.8 * F.one_hot(torch.tensor(label), 3)[:, None, None]
    return TensorDataset(pictures, labels)


class ByDot(Net):
    """Reads how much of each class's color there is where there is most of it."""

    def forward(self, images: Tensor) -> Tensor:
        return 20 * F.avg_pool2d(images - images.mean(dim=1, keepdim=True), 3, stride=1).flatten(2).amax(dim=2)


def generously(images: Tensor) -> Tensor:
    """The squares and three pixels around them."""
    return dilate((images.amin(dim=1) > 0.45).float(), 3)


def test_detector__without_masks_finds_stickers_close_to_the_object_and_shows_them(make_trainer):
    detector = RelianceDetector(images_per_class=30, segmenter=generously)
    trainer = make_trainer(callbacks=[detector])
    trainer.validate(ByDot(), DataLoader(stuck(90), 30), verbose=False)
    assert {(one.verdict, one.cue) for one in detector.verdicts} == {("reliant", "sticker")}
    assert all(one.where.startswith("moves from image to image") for one in detector.verdicts)
    found = next(line for line in map(json.loads, records(trainer).splitlines()) if "rows" in line)
    assert len(found["strips"]) == 3
    assert any("with the sticker of" in one["caption"] for one in found["examples"])


def test_detector__asks_the_segmenter_for_the_object_without_its_sticker_too(make_trainer):
    def only_with_its_sticker(images: Tensor) -> Tensor:
        colored = (images - images.mean(dim=1, keepdim=True)).amax(dim=1) > 0.3
        whole = colored.sum(dim=(1, 2)) == 25
        return torch.where(whole.view(-1, 1, 1), generously(images), -1.0)

    detector = without_places(images_per_class=30, segmenter=only_with_its_sticker)
    make_trainer(callbacks=[detector]).validate(ByDot(), DataLoader(stuck(90), 30), verbose=False)
    assert ("reliant", "sticker") not in {(one.verdict, one.cue) for one in detector.verdicts}


def test_detector__need_not_look_for_stickers(make_trainer):
    detector = without_places(images_per_class=30, segmenter=generously, stickers=False)
    make_trainer(callbacks=[detector]).validate(ByDot(), DataLoader(stuck(90), 30), verbose=False)
    assert "reliant" not in said(detector)


class Normalizing(Net):
    """Its step turns bytes into normalized images."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net((batch[0].float() / 255 - 0.4) / 0.3), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self.net((batch[0].float() / 255 - 0.4) / 0.3), batch[1]))


def as_bytes(rows: TensorDataset) -> TensorDataset:
    images, labels, masks = rows.tensors
    return TensorDataset((255 * images.clamp(0, 1)).round().byte(), labels, masks)


@pytest.mark.parametrize(("cue", "expected"), [("background", "reliant"), ("object", "not reliant")])
def test_detector__judges_what_the_step_makes_of_bytes(make_trainer, cue, expected):
    data = DataLoader(as_bytes(drawn(240, cue)), 24, shuffle=True), DataLoader(as_bytes(drawn(72, cue, 1)), 24)
    detector = without_places(images_per_class=20, start_epoch=5)
    fit(make_trainer, detector, module=Normalizing(), data=data, max_epochs=6)
    assert said(detector) == [expected] * 3


def part_compiled(module: pl.LightningModule) -> pl.LightningModule:
    module.net = torch.compile(module.net, backend="eager")
    return module


def in_place(module: pl.LightningModule) -> pl.LightningModule:
    module.net.compile(backend="eager")
    return module


def whole(module: pl.LightningModule) -> pl.LightningModule:
    return torch.compile(module, backend="eager")


@pytest.mark.parametrize("compiled", [part_compiled, in_place, whole])
def test_detector__judges_what_a_compiled_step_makes_of_bytes(make_trainer, compiled):
    data = DataLoader(as_bytes(drawn(72, "background")), 24), DataLoader(as_bytes(drawn(72, "background", 1)), 24)
    effects = []
    for change in (lambda module: module, compiled):
        torch.manual_seed(3)
        detector, module = RelianceDetector(images_per_class=12, regions=0, lend_from_training=False), Normalizing()
        fit(make_trainer, detector, module=change(module), data=data, max_epochs=1)
        effects.append([verdict.effect for verdict in detector.verdicts])
        assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    assert effects[0] == pytest.approx(effects[1], abs=1e-4)
    assert max(effects[0]) > 0.01


class Mirroring(Net):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self(batch[0].flip(-1))


def test_detector__judges_nothing_where_the_step_moves_the_images(make_trainer):
    detector = without_places(images_per_class=20)
    with pytest.warns(UserWarning, match="moves or mixes the images") as caught:
        trainer, _ = fit(make_trainer, detector, module=Mirroring())
    assert sum("RelianceDetector" in str(w.message) for w in caught) == 1
    assert said(detector) == ["undecided"] * 3
    assert "not measured: the step moves" in detector.verdicts[0].note
    assert trainer.callback_metrics["reliance/flagged"].isnan()
    rows = [row for line in map(json.loads, records(trainer).splitlines()) if "rows" in line for row in line["rows"]]
    assert {row["verdict"] for row in rows} == {"undecided"}


class Choiceless(SingleLabel):
    """A task without a choice that a background could sway."""

    name = "choiceless"

    def views(self, output: Any, labels: Any) -> list[View]:
        return []


def test_detector__says_that_it_has_no_test_for_a_task(make_trainer):
    detector = without_places(images_per_class=20, task=Choiceless())
    with pytest.warns(UserWarning, match="choiceless makes no choice between classes"):
        trainer, _ = fit(make_trainer, detector, max_epochs=1)
    assert said(detector) == ["undecided"]
    assert trainer.callback_metrics["reliance/flagged"].isnan()


def test_detector__leaves_no_hook_behind(make_trainer):
    _, module = fit(make_trainer, RelianceDetector(images_per_class=12), max_epochs=1)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_detector__holds_early_stopping_until_something_is_known(make_trainer):
    detector = without_places(start_epoch=3, images_per_class=12)
    stopping = EarlyStopping("reliance/effect", mode="min", patience=2)
    trainer, _ = fit(make_trainer, detector, callbacks=(stopping,), max_epochs=4)
    assert trainer.current_epoch == 4
    assert stopping.best_score > 0.3


def test_detector__begins_anew_with_a_new_module(make_trainer):
    detector = without_places(images_per_class=12)
    for _ in range(2):
        fit(make_trainer, detector)
        assert detector.state_dict()["rounds"] == 2
        assert detector.flagged_since == {"class 0": 0, "class 1": 0, "class 2": 0}


def test_detector__of_several_validations_an_epoch_examines_the_last(make_trainer):
    class Looks(RelianceDetector):
        steps: list[int] = []  # noqa: RUF012

        def _examine(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            self.steps.append(trainer.global_step)
            super()._examine(trainer, pl_module)

    fit(make_trainer, Looks(every_n_epochs=4, images_per_class=12, regions=0), max_epochs=2, val_check_interval=3)
    assert Looks.steps == [3, 16, 19]  # validations at 3, 6, 9, 13, 16, 19 of two epochs of ten steps


class OneLogit(Net):
    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)[:, :1]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.binary_cross_entropy_with_logits(self(batch[0])[:, 0], batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self(batch[0])


class SeveralLabels(OneLogit):
    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.binary_cross_entropy_with_logits(self(batch[0]), batch[1])


@pytest.mark.parametrize(("kind", "classes"), [(OneLogit, 2), (SeveralLabels, 3)])
def test_detector__judges_one_logit_and_each_of_several_labels(make_trainer, kind, classes):
    def rows(count: int, seed: int) -> TensorDataset:
        images, labels, masks = drawn(count, "background", seed).tensors
        if kind is SeveralLabels:
            return TensorDataset(images, F.one_hot(labels, 3).float(), masks)
        two = labels < 2
        return TensorDataset(images[two], labels[two].float(), masks[two])

    detector = RelianceDetector(images_per_class=20, regions=0)
    data = DataLoader(rows(240, 0), 24, shuffle=True), DataLoader(rows(90, 1), 24)
    trainer, _ = fit(make_trainer, detector, module=kind(), data=data, max_epochs=3)
    assert [(one.class_index, one.class_name) for one in detector.verdicts] == [
        (c, f"class {c}") for c in range(classes)
    ]
    assert said(detector) == ["reliant"] * classes
    assert trainer.callback_metrics["reliance/flagged"] == classes
