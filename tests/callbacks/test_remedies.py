"""The closed loop: flag, remedy, re-test."""

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from camtrain.callbacks import AttentionAlignment, CueRandomization, LastLayerRetraining, RelianceDetector
from camtrain.callbacks._lightning import patch, patched
from camtrain.data.batches import MaskedPair, with_images
from camtrain.errors import BatchError, ConfigurationError
from camtrain.sinks import read_history
from camtrain.sinks.run import Run
from tests.processes import forked
from tests.reliance.worlds import World

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*")


class Scenes(Dataset):
    """A square on a ground of 16 px: the color of either tells the class."""

    def __init__(self, images, seed):
        pool = World(classes=3, images=images // 3, seed=seed).pool()
        self.images, self.labels, self.masks = pool.images, pool.labels, pool.masks

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"image": self.images[index], "label": self.labels[index], "mask": self.masks[index]}


class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3))
        self.seen = []

    def forward(self, images):
        return self.net(images)

    def training_step(self, batch, batch_idx):
        self.seen.append(batch["image"])
        return F.cross_entropy(self(batch["image"]), batch["label"])

    def validation_step(self, batch, batch_idx):
        self.log("val/accuracy", (self(batch["image"]).argmax(1) == batch["label"]).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def fit(make_trainer, *callbacks, max_epochs=2, **kwargs):
    torch.manual_seed(3)
    module = Net()
    trainer = make_trainer(max_epochs=max_epochs, callbacks=list(callbacks), **kwargs)
    train, val = (DataLoader(Scenes(count, seed), 24, shuffle=seed == 0) for count, seed in ((240, 0), (90, 1)))
    trainer.fit(module, train, val)
    return trainer, module


def detector(**kwargs):
    return RelianceDetector(images_per_class=30, looks=("tint",), **kwargs)


def test_randomization__removes_the_cue_that_was_flagged(make_trainer):
    found = detector(every_n_epochs=20)
    trainer, module = fit(make_trainer, found, CueRandomization("background", p=0.7), max_epochs=8)
    history = read_history(Run.of(trainer).folder)
    assert [row.verdict for row in history.verdicts[0]] == ["reliant"] * 3
    assert "reliant" not in [one.verdict for one in found.verdicts]
    assert trainer.callback_metrics["val/accuracy"] > 0.95
    assert "training_step" not in vars(module)


def test_retraining__removes_the_cue_that_was_flagged(make_trainer, tmp_path):
    found = detector(every_n_epochs=9)
    trainer, module = fit(make_trainer, found, LastLayerRetraining(), max_epochs=2)
    assert [one.verdict for one in found.verdicts] == ["reliant"] * 3
    numbers = read_history(Run.of(trainer).folder).scalars
    before, after = (numbers[f"reliance/last_layer_{when}"][1] for when in ("before", "after"))
    assert before < 0.2 < 0.9 < after
    trainer.validate(module, DataLoader(Scenes(90, 1), 24), verbose=False)
    assert "reliant" not in [one.verdict for one in found.verdicts]
    saved = torch.load(tmp_path / "checkpoints" / "last_layer.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(saved["net.4.weight"], module.net[4].weight)


def test_retraining__waits_for_a_flag(make_trainer):
    class Never(pl.Callback):
        def on_validation_epoch_end(self, trainer, pl_module):
            pl_module.log("reliance/flagged", 0.0)

    both = [Never()], [Never(), LastLayerRetraining()]
    states = [fit(make_trainer, *callbacks, max_epochs=1)[1].state_dict() for callbacks in both]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    with pytest.warns(UserWarning, match="waits for 'reliance/flagged', which nothing has logged"):
        fit(make_trainer, LastLayerRetraining(), max_epochs=1)


def test_retraining__that_fails_leaves_the_network_and_says_so(make_trainer):
    class Doubled(Net):
        def forward(self, images):
            return 2 * super().forward(images)

    trainer = make_trainer(callbacks=[LastLayerRetraining(when=None)])
    with pytest.warns(UserWarning, match="LastLayerRetraining failed in retrain .*name its last layer with head="):
        trainer.fit(Doubled(), DataLoader(Scenes(48, 0), 24), DataLoader(Scenes(24, 1), 24))


def test_retraining__names_an_unknown_head_before_training(make_trainer):
    with pytest.raises(ConfigurationError, match="No linear layer 'fc' in Net"):
        fit(make_trainer, LastLayerRetraining(head="fc"))


@pytest.mark.filterwarnings("ignore:CueRandomization begins:UserWarning")
def test_randomization__before_its_start_trains_as_without_it(make_trainer):
    states = [fit(make_trainer, *c)[1].state_dict() for c in ([], [CueRandomization("tint", start_when=5)])]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_randomization__leaves_the_data_as_they_are(make_trainer):
    data = Scenes(24, 0)
    given = data.images.clone()
    module = Net()
    trainer = make_trainer(callbacks=[CueRandomization("tint", p=1.0, start_when=0)])
    batch = {"image": data.images, "label": data.labels, "mask": data.masks}
    trainer.fit(module, DataLoader([batch], batch_size=None), DataLoader(data, 24))
    assert torch.equal(data.images, given)
    assert (module.seen[0] != given).flatten(1).any(dim=1).all()


@pytest.mark.parametrize("first", [True, False])
def test_randomization__works_beside_alignment_in_any_order(make_trainer, first):
    both = [CueRandomization("background", p=1.0, start_when=0), AttentionAlignment(start_when=0)]
    trainer, module = fit(make_trainer, *(both if first else reversed(both)), max_epochs=1)
    assert trainer.callback_metrics["alignment/twins"] > 0
    assert trainer.callback_metrics["randomization/active"] == 1
    assert "training_step" not in vars(module)


def test_randomization__remembers_over_a_checkpoint():
    one, other = CueRandomization("tint"), CueRandomization("tint")
    one.span.started_at = 0.5
    other.load_state_dict(one.state_dict())
    assert other.span.is_on
    assert one.state_key != CueRandomization("sharpness").state_key


@pytest.mark.filterwarnings("ignore:.*have no .?val_dataloader", "ignore:.*but have no:UserWarning")
def test_randomization__refuses_what_is_no_image(make_trainer):
    volumes = [{"image": torch.rand(1, 4, 8, 8), "label": index % 3} for index in range(6)]
    trainer = make_trainer(callbacks=[CueRandomization("tint", start_when=0)])
    with pytest.raises(ConfigurationError, match=r"takes images \(B, C, H, W\); got \(6, 1, 4, 8, 8\)"):
        trainer.fit(Net(), DataLoader(volumes, 6))


def test_randomization__of_the_background_without_masks_fails_in_the_first_step(make_trainer):
    plain = [{"image": torch.rand(3, 16, 16), "label": index % 3} for index in range(6)]
    trainer = make_trainer(callbacks=[CueRandomization()])
    with pytest.raises(ConfigurationError, match="needs masks of the objects"):
        trainer.fit(Net(), DataLoader(plain, 6), DataLoader(plain, 6))


def test_randomization__says_what_it_waits_for_and_that_nothing_is_annotated(make_trainer):
    rows = [{"image": torch.rand(3, 16, 16), "label": i % 3, "mask": torch.full((16, 16), -1.0)} for i in range(6)]
    for callback, message in (
        (CueRandomization("background", start_when=0), "saw no annotation on any of the 6 images of an epoch"),
        (CueRandomization("tint"), "waits for 'reliance/flagged', which the validation did not log"),
    ):
        trainer = make_trainer(callbacks=[callback], max_epochs=1)
        with pytest.warns(UserWarning, match=message):
            trainer.fit(Net(), DataLoader(rows, 6), DataLoader(rows, 6))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: CueRandomization("smell"), "cue is one of"),
        (lambda: CueRandomization(p=float("nan")), "p is a probability"),
        (lambda: CueRandomization(start_when=-1), "start_when is an epoch"),
        (lambda: LastLayerRetraining(cues=["smell"]), r"got \['smell'\]"),
        (lambda: LastLayerRetraining(images_per_class=1), "images_per_class is a whole number of at least 2"),
    ],
)
def test_remedies__refuse_arguments_out_of_range(build, message):
    with pytest.raises(ConfigurationError, match=message):
        build()


def corrected(folder):
    torch.manual_seed(0)
    module, retraining = Net(), LastLayerRetraining(when=None)
    trainer = pl.Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, logger=False,
        callbacks=[CueRandomization("tint", start_when=1), retraining], enable_checkpointing=False,
        enable_progress_bar=False, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(module, DataLoader(Scenes(96, 0), 24))
    active = float(trainer.callback_metrics["randomization/active"])
    return module.state_dict(), len(retraining._pool(trainer).images), active


def test_remedies__of_two_processes_leave_the_same_network_in_both(tmp_path):
    (first, *counts), (second, *counts_of_other) = forked(corrected, tmp_path, folder=tmp_path)
    assert counts == counts_of_other == [96, 1]  # the images of both processes, each once; it was active
    assert all(torch.equal(first[name], second[name]) for name in first)
    saved = torch.load(tmp_path / "checkpoints" / "last_layer.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(saved["net.4.weight"], first["net.4.weight"])


def test_retraining__takes_an_image_once_however_many_epochs(make_trainer):
    retraining = LastLayerRetraining(when=None)
    trainer, _ = fit(make_trainer, retraining, max_epochs=2)
    assert len(retraining._pool(trainer).images) == 240


def test_retraining__takes_images_whose_background_is_a_corner(make_trainer):
    """A patch of 2x2 of 16x16 pixels tells the class, as in Decoy MNIST: a mask of the rest leaves enough."""
    masks = torch.ones(9, 16, 16)
    masks[:, :2, :2] = 0
    masks[8] = 1
    retraining = LastLayerRetraining(when=None)
    retraining.on_fit_start(make_trainer(), Net())
    retraining._collect({"image": torch.rand(9, 3, 16, 16), "label": torch.arange(9) % 3, "mask": masks})
    assert len(retraining._collector) == 8


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (0, 2, 1)])
def test_patch__is_taken_back_in_any_order(order):
    module = Net()
    said = []
    undo = [patch(module, "forward", lambda original, x, i=i: said.append(i) or original(x)) for i in range(3)]
    left = {0, 1, 2}
    for index in order:
        undo[index]()
        left.discard(index)
        said.clear()
        module.forward(torch.zeros(1, 3, 16, 16))
        assert set(said) == left
    assert "forward" not in vars(module)


def test_with_images__keeps_the_type_and_everything_else():
    images, labels, others = torch.zeros(2, 1, 2, 2), torch.arange(2), torch.ones(2, 1, 2, 2)
    pair = MaskedPair((images, labels), masks=torch.ones(2, 2, 2), ids=["a", "b"])
    found = with_images(pair, images, others)
    assert isinstance(found, MaskedPair)
    assert (found[0] is others, found[1] is labels, found.masks is pair.masks, found.ids) == (
        True,
        True,
        True,
        ["a", "b"],
    )
    assert with_images([images, labels], images, others)[0] is others
    assert with_images((images, labels), images, others) == (others, labels)
    assert with_images(images, images, others) is others

    class Sample:
        def __init__(self):
            self.x, self.y = images, labels

    sample = Sample()
    assert with_images(sample, images, others).x is others
    assert sample.x is images
    with pytest.raises(BatchError, match="does not hold the images as they were read"):
        with_images((images, labels), images.clone(), others)


def test_patch__restores_class_methods_and_instance_attributes():
    class Thing:
        def step(self, value):
            return value

    thing = Thing()
    with patched(thing, "step", lambda original, value: original(value) + 1):
        assert thing.step(1) == 2
        assert thing.step.__wrapped__.__func__ is Thing.step
    assert "step" not in vars(thing)
    thing.step = own = lambda value: 10 * value
    restore = patch(thing, "step", lambda original, value: original(value) + 1)
    assert thing.step(1) == 11
    restore()
    restore()
    assert thing.step is own


def test_randomization__begins_after_a_validation_where_there_are_no_epochs(make_trainer):
    class Endless(IterableDataset):
        def __iter__(self):
            while True:
                yield from Scenes(24, 0)

    randomization = CueRandomization("tint", start_when="val/accuracy >= 0")
    trainer = make_trainer(
        max_epochs=None, max_steps=4, val_check_interval=2, check_val_every_n_epoch=None, callbacks=[randomization]
    )
    trainer.fit(Net(), DataLoader(Endless(), 8), DataLoader(Scenes(12, 1), 12))
    assert randomization.active


@pytest.mark.filterwarnings("ignore:CueRandomization begins:UserWarning")
def test_randomization__begins_anew_with_another_module(make_trainer):
    randomization = CueRandomization("tint", start_when=1)
    for _ in range(2):
        module = fit(make_trainer, randomization, max_epochs=1, limit_train_batches=1)[1]
        assert not randomization.active
        assert len(module.seen) == 1
        with_it = fit(make_trainer, randomization, max_epochs=2, limit_train_batches=1)
        assert randomization.active
        assert len(with_it[1].seen) == 2
