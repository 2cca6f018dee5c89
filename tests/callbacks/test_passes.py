"""One notion of a pass: whose turn it is, what it reads, what its images are called, and whose weights are asked."""

import lightning.pytorch
import pytest
import pytorch_lightning
import torch
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, DistributedSampler, IterableDataset, Subset, TensorDataset

from camtrain.callbacks import ExplanationMonitor, FaithfulnessMonitor
from camtrain.callbacks import _passes as passes
from camtrain.data.batches import Batch
from camtrain.errors import ConfigurationError

PACKAGES = {"pytorch_lightning": pytorch_lightning, "lightning.pytorch": lightning.pytorch}


def images(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(count, 8, 8)
    masks[:, :, :4] = 1
    return torch.rand(count, 3, 8, 8, generator=generator), torch.arange(count) % 2, masks


class Named(TensorDataset):
    classes = ("boat", "car")


class Stream(IterableDataset):
    def __iter__(self):
        return iter(list(zip(*images(40), strict=True)))


def module_of(package):
    class Module(package.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(3)
            self.net = nn.Sequential(
                nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
            )

        def training_step(self, batch, batch_idx):
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            self.net(batch[0])

        test_step = validation_step

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    return Module


Module = module_of(pytorch_lightning)


@pytest.mark.parametrize(
    ("options", "data", "count"),
    [
        ({"max_epochs": 3}, "map", 3),
        ({"max_epochs": 2, "val_check_interval": 0.5}, "map", 4),
        ({"max_epochs": 2, "val_check_interval": 2}, "map", 4),
        ({"max_epochs": 5, "check_val_every_n_epoch": 2}, "map", 2),
        ({"max_epochs": -1, "max_steps": 14, "check_val_every_n_epoch": None, "val_check_interval": 4}, "map", 3),
        ({"max_epochs": -1, "max_steps": 8, "check_val_every_n_epoch": None, "val_check_interval": 2}, "stream", 4),
        ({"max_epochs": 2, "accumulate_grad_batches": 2}, "map", 2),
        ({"max_epochs": -1, "max_steps": 6, "accumulate_grad_batches": 2}, "map", 2),
    ],
)
def test_pass__knows_how_many_came_before_and_which_is_the_last(make_trainer, options, data, count):
    seen = []

    class Watch(pytorch_lightning.Callback):
        def on_validation_epoch_start(self, trainer, pl_module):
            seen.append((passes.validation_index(trainer), passes.is_last_validation(trainer)))

    dataset = TensorDataset(*images(40)) if data == "map" else Stream()
    loader = DataLoader(dataset, 8)
    make_trainer(callbacks=[Watch()], num_sanity_val_steps=0, **options).fit(Module(), loader, loader)
    assert [index for index, _ in seen] == list(range(count))
    assert [last for _, last in seen] == [*[False] * (count - 1), True]


def explained(make_trainer, monitor, loaders, **options):
    trainer = make_trainer(callbacks=[monitor], **options)
    trainer.validate(Module(), loaders, verbose=False)
    return trainer


def test_monitor__follows_probes_and_names_of_the_loader_it_explains(make_trainer):
    monitor = ExplanationMonitor(dataloader_idx=1, num_probes=4)
    first, second = Named(*images(8)), Subset(ConcatDataset([Named(*images(48, 1))]), range(48))
    first.classes = ("left", "right")
    trainer = explained(make_trainer, monitor, [DataLoader(first, 4), DataLoader(second, 8)])
    assert monitor.state_dict()["seen"]["val"]["probes"] == ["val-0", "val-16", "val-31", "val-47"]
    assert passes.names_of(trainer, 2, 1) == ["boat", "car"]
    assert passes.names_of(trainer, 2, 0) == ["left", "right"]


def test_monitor__spreads_probes_over_as_many_batches_as_there_are(make_trainer):
    monitor = ExplanationMonitor(num_probes=4)
    explained(make_trainer, monitor, DataLoader(TensorDataset(*images(80)), 8), limit_val_batches=2)
    assert monitor.state_dict()["seen"]["val"]["probes"] == ["val-0", "val-5", "val-10", "val-15"]


@pytest.mark.parametrize("kind", [ExplanationMonitor, FaithfulnessMonitor])
def test_monitor__refuses_a_dataloader_that_is_not_there(make_trainer, kind):
    with pytest.raises(ConfigurationError, match="dataloader_idx=5 counts from 0, and there are 2 dataloaders"):
        explained(make_trainer, kind(dataloader_idx=5), [DataLoader(TensorDataset(*images(8)), 4)] * 2)


@pytest.mark.filterwarnings("ignore:Your `val_dataloader`")
def test_monitor__knows_images_of_a_shuffled_loader_by_their_content(make_trainer):
    monitor, data = ExplanationMonitor(num_probes=3), TensorDataset(*images(24))
    rows = []
    for seed in range(2):
        shuffled = DataLoader(data, 8, shuffle=True, generator=torch.Generator().manual_seed(seed))
        explained(make_trainer, monitor, shuffled)
        rows.append(dict(zip(monitor.images.samples, monitor.images["loss"].tolist(), strict=True)))
    assert rows[0] == pytest.approx(rows[1], rel=1e-5)
    assert list(rows[0]) != list(rows[1])
    names = passes.by_content(Batch(images(2)[0].bfloat16()))
    assert len(set(names)) == 2


def test_monitor__measures_no_mask_where_the_step_mirrors_its_images(make_trainer):
    class Mirrored(Module):
        def validation_step(self, batch, batch_idx):
            self.net(batch[0].flip(-1))

    trainer = make_trainer(callbacks=[ExplanationMonitor()])
    with pytest.warns(UserWarning, match="leaves masks out"):
        trainer.validate(Mirrored(), DataLoader(TensorDataset(*images(8)), 4), verbose=False)
    assert "cam/empty_maps/grad_cam" in trainer.callback_metrics
    assert "cam/inside_energy/grad_cam" not in trainer.callback_metrics


def test_monitor__of_a_step_that_asks_by_halves_explains_the_batch_unless_they_are_others(make_trainer):
    class Halves(Module):
        change = 0.0

        def validation_step(self, batch, batch_idx):
            torch.cat([self.net(half - self.change) for half in batch[0].chunk(2)])

    data, monitors = DataLoader(TensorDataset(*images(8)), 4), [ExplanationMonitor(), ExplanationMonitor()]
    make_trainer(callbacks=[monitors[0]]).validate(Halves(), data, verbose=False)
    make_trainer(callbacks=[monitors[1]]).validate(Module(), data, verbose=False)
    assert monitors[0].images["loss"].tolist() == pytest.approx(monitors[1].images["loss"].tolist())
    Halves.change = 0.5
    with pytest.raises(ConfigurationError, match="about 2 images at a time, of a batch of 4"):
        make_trainer(callbacks=[ExplanationMonitor()]).validate(Halves(), data, verbose=False)


def test_samples__that_pad_the_last_round_of_processes_are_the_first_ones_again(make_trainer, monkeypatch):
    data, batch = TensorDataset(*images(5)), Batch(images(3)[0])
    dealt = DataLoader(data, 3, sampler=DistributedSampler(data, num_replicas=2, rank=1, shuffle=False))
    trainers = [explained(make_trainer, ExplanationMonitor(), loader) for loader in (dealt, DataLoader(data, 3))]
    monkeypatch.setattr(type(trainers[0]), "world_size", property(lambda self: 2))
    monkeypatch.setattr(type(trainers[0]), "global_rank", property(lambda self: 1))
    assert passes.samples_of(trainers[0], batch, 0) == ["val-1", "val-3", "val-0"]
    # Nobody knows which images a process reads of a loader that Lightning did not deal out.
    assert passes.samples_of(trainers[1], batch, 0) == [f"val-{name}" for name in passes.by_content(batch)]


@pytest.mark.parametrize("package", PACKAGES.values(), ids=PACKAGES)
@pytest.mark.parametrize("order", [1, -1])
def test_pass__asks_the_weights_that_were_validated_in_either_order_of_callbacks(tmp_path, package, order):
    class Averaged(package.Callback):
        """Validates other weights than those that are trained."""

        def on_validation_epoch_start(self, trainer, pl_module):
            self.kept = {name: value.clone() for name, value in pl_module.state_dict().items()}
            with torch.no_grad():
                for parameter in pl_module.parameters():
                    parameter.zero_()

        def on_validation_epoch_end(self, trainer, pl_module):
            pl_module.load_state_dict(self.kept)

    class Watch(FaithfulnessMonitor):
        def _measured(self, trainer, pl_module):
            asked.append(float(sum(p.abs().sum() for p in pl_module.parameters())))
            return {}

    asked = []
    trainer = package.Trainer(
        callbacks=[Watch(), Averaged()][::order], logger=False, accelerator="cpu", enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, default_root_dir=tmp_path,
    )  # fmt: skip
    module = module_of(package)()
    trainer.validate(module, DataLoader(TensorDataset(*images(8)), 4), verbose=False)
    assert asked == [0.0]
    assert sum(p.abs().sum() for p in module.parameters()) > 0


def test_monitor__begins_anew_with_another_module(make_trainer):
    monitor, measured = ExplanationMonitor(num_probes=2), FaithfulnessMonitor()
    loader = DataLoader(TensorDataset(*images(8)), 4)
    names = []
    for _ in range(2):
        trainer = make_trainer(callbacks=[monitor, measured], max_epochs=1)
        trainer.fit(Module(), loader, loader)
        names.append(sorted(name for name in trainer.callback_metrics if "cam/" in name))
        assert len(monitor.images.samples) == 8
    assert names[0] == names[1]  # no drift from the first module's heatmaps
    assert any(name.startswith("cam/average_drop/") for name in names[0])
    trainer = make_trainer(callbacks=[monitor])
    trainer.test(Module(), loader, verbose=False)
    assert "test/cam/inside_energy/grad_cam" in trainer.callback_metrics
    assert not [name for name in trainer.callback_metrics if name.startswith("cam/")]
