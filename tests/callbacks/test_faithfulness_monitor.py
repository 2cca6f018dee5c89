import math
import warnings

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import WandbLogger
from torch.utils.data import DataLoader, TensorDataset

from camtrain import explain
from camtrain.callbacks import FaithfulnessMonitor
from camtrain.cam import class_index
from camtrain.errors import BatchError, ConfigurationError, LayerError, MethodError
from camtrain.metrics import average_drop, insertion_deletion, masked_confidences, mean_interval, road, share_interval
from camtrain.metrics.suite import Measured


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*litlogger.*")
        yield


def _fit(make_trainer, module, data, callbacks, **kwargs):
    torch.manual_seed(2)
    trainer = make_trainer(**{"max_epochs": 2, "callbacks": callbacks} | kwargs)
    trainer.fit(module, data, data)
    return trainer


def test_monitor__leaves_metrics_and_weights_bit_identical(make_trainer, foreign, loader):
    plain, watched = foreign(), foreign()
    without = _fit(make_trainer, plain, loader(), [])
    monitor = FaithfulnessMonitor(metrics=["average_drop", "insertion"], budget=400, steps=5)
    with_it = _fit(make_trainer, watched, loader(), [monitor])
    assert torch.equal(without.callback_metrics["val/loss"], with_it.callback_metrics["val/loss"])
    for a, b in zip(plain.state_dict().values(), watched.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert not any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in watched.modules())
    assert {name for name in with_it.callback_metrics if name.startswith("cam/insertion")} == {
        f"cam/insertion{end}/{method}" for end in ("", "_low", "_high") for method in ("grad_cam", "grad_cam_plus_plus")
    }


@pytest.mark.parametrize("compiled", [False, True])
def test_monitor__measures_what_the_step_gives_the_network(make_trainer, foreign, loader, compiled):
    class Converting(type(foreign())):
        def validation_step(self, batch, batch_idx):
            self.net(batch[0] / 255 - 0.4)

    images, *rest = loader(6).dataset.tensors
    raw = DataLoader(TensorDataset((255 * images).to(torch.uint8), *rest), 6)
    given = DataLoader(TensorDataset((255 * images).to(torch.uint8) / 255 - 0.4, *rest), 6)
    logged = []
    for kind, data in ((type(foreign()), given), (Converting, raw)):
        torch.manual_seed(2)
        module = kind().eval()
        if compiled:
            module.net.compile(backend="eager")
        trainer = make_trainer(callbacks=[FaithfulnessMonitor()])
        trainer.validate(module, data, verbose=False)
        logged.append({name: float(value) for name, value in trainer.callback_metrics.items() if "cam/" in name})
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
    assert len(logged[0]) == 12
    assert logged[0] == pytest.approx(logged[1], nan_ok=True)


@pytest.mark.parametrize("of_labels", [False, True])
def test_monitor__logs_what_the_functions_give(make_trainer, foreign, loader, of_labels):
    module, data = foreign().eval(), loader(6)
    names = ["average_drop", "confidence_increase", "insertion", "deletion", "road"]
    monitor = FaithfulnessMonitor(["layer_cam"], names, "net.4", budget=1000, steps=5, of_labels=of_labels)
    trainer = make_trainer(callbacks=[monitor])
    trainer.validate(module, data, verbose=False)
    images, labels, _ = data.dataset.tensors
    with torch.no_grad():
        classes = labels if of_labels else module.net(images).argmax(dim=1)
    heat = explain(module.net, images, layers="4", methods="layer_cam", target=class_index(classes)).heatmaps
    confidences = masked_confidences(module.net, images, heat, labels=classes)["layer_cam"]
    curves = insertion_deletion(module.net, images, heat, labels=classes, steps=5)["layer_cam"]
    expected = {
        "average_drop": average_drop(confidences.before, confidences.after),
        "insertion": curves.insertion_auc,
        "deletion": curves.deletion_auc,
        "road": road(module.net, images, heat, labels=classes)["layer_cam"],
    }
    logged = trainer.callback_metrics
    for name, values in expected.items():
        found = mean_interval(values.sum().item(), values.square().sum().item(), 6)
        ends = [logged[f"cam/{name}{end}/layer_cam"].item() for end in ("", "_low", "_high")]
        assert ends == pytest.approx([found.mean, found.low, found.high], abs=1e-4)
    share = share_interval((confidences.after > confidences.before).float().sum().item(), 6)
    assert logged["cam/confidence_increase_high/layer_cam"].item() == pytest.approx(share.high, abs=1e-6)


def test_monitor__of_labels_leaves_out_those_that_are_unknown(make_trainer, foreign, loader):
    logged = []
    images, labels, _ = loader(6).dataset.tensors
    unknown = TensorDataset(torch.cat([images, images[:2]]), torch.cat([labels, torch.tensor([-100, -100])]))
    for data in (TensorDataset(images, labels), unknown):
        trainer = make_trainer(callbacks=[FaithfulnessMonitor("layer_cam", budget=1000, of_labels=True)])
        trainer.validate(foreign(), DataLoader(data, 4), verbose=False)
        logged.append({name: float(value) for name, value in trainer.callback_metrics.items() if "cam/" in name})
    assert logged[0] == pytest.approx(logged[1])
    assert logged[0]


@pytest.mark.parametrize(
    ("metrics", "budget", "images"),
    [(("average_drop",), 12, 4), (("average_drop", "confidence_increase", "insertion"), 60, 3), (("road",), 40, 2)],
)
def test_monitor__spends_its_budget_and_no_more(make_trainer, foreign, loader, metrics, budget, images):
    module, forwards = foreign(), []
    monitor = FaithfulnessMonitor(metrics=metrics, layers="net.4", budget=budget, steps=4)
    assert monitor.images == images
    trainer = make_trainer(callbacks=[monitor])
    trainer.validate(module, loader(24), verbose=False)
    module.net.register_forward_hook(lambda net, inputs, _: forwards.append(len(inputs[0])))
    trainer.validate(module, loader(24), verbose=False)
    own = sum(forwards) - 24
    assert budget - monitor.forwards < own <= budget


def test_monitor__takes_the_same_images_spread_over_the_data_in_every_epoch(make_trainer, foreign, loader, monkeypatch):
    seen = []

    def measure(suite, network, images, explained, **options):
        seen.append(images)
        return Measured({}, {})

    monkeypatch.setattr("camtrain.metrics.suite.Suite.measure", measure)
    data = loader(20)
    _fit(make_trainer, foreign(), data, [FaithfulnessMonitor(budget=9)])
    images = data.dataset.tensors[0]
    assert len(seen) == 2
    for kept in seen:
        torch.testing.assert_close(kept, images[[0, 8, 16]])


def test_monitor__measures_the_chosen_epochs_and_the_last(make_trainer, foreign, loader):
    measured = []

    class Counting(FaithfulnessMonitor):
        def _log(self, trainer, pl_module):
            measured.append(trainer.current_epoch)

    _fit(make_trainer, foreign(), loader(), [Counting(every_n_epochs=2)], max_epochs=4)
    assert measured == [0, 2, 3]


def test_monitor__reports_a_failure_once_and_training_goes_on(make_trainer, foreign, loader, monkeypatch):
    def broken(suite, *_, **options):
        raise KeyError("probe")

    monkeypatch.setattr("camtrain.metrics.suite.Suite.measure", broken)
    with pytest.warns(UserWarning, match="failed in measure .KeyError: 'probe'.; training goes on") as caught:
        trainer = _fit(make_trainer, foreign(), loader(), [FaithfulnessMonitor()])
    assert sum("FaithfulnessMonitor" in str(warning.message) for warning in caught) == 1
    assert trainer.current_epoch == 2
    assert not any(name.startswith("cam/") for name in trainer.callback_metrics)


def test_monitor__leaves_out_images_whose_map_is_empty(make_trainer, foreign, loader):
    module = foreign()
    with torch.no_grad():
        module.net[4].weight.zero_()
        module.net[4].bias.fill_(-1.0)  # the last activations are negative: every map is empty
    trainer = make_trainer(callbacks=[FaithfulnessMonitor(["hires_cam"], layers="net.5")])
    trainer.validate(module, loader(), verbose=False)
    assert math.isnan(trainer.callback_metrics["cam/average_drop/hires_cam"])


def test_monitor__works_without_labels_and_on_images_of_several_sizes(make_trainer, foreign):
    module = foreign()
    data = DataLoader([torch.rand(3, side, side) for side in (16, 16, 20, 20, 20)], batch_size=None, collate_fn=None)
    trainer = make_trainer(callbacks=[FaithfulnessMonitor(batch_adapter=lambda image: image[None])])
    module.validation_step = lambda batch, batch_idx: module.net(batch[None])
    trainer.validate(module, data, verbose=False)
    assert 0 <= trainer.callback_metrics["cam/average_drop/grad_cam"] <= 1


def test_monitor__sends_its_numbers_to_wandb(make_trainer, foreign, loader, wandb_offline, read_run):
    logger = WandbLogger(save_dir=wandb_offline, offline=True, project="scenes")
    trainer = _fit(make_trainer, foreign(), loader(), [FaithfulnessMonitor()], logger=logger)
    folder = logger.experiment.settings.sync_dir
    logger.experiment.finish()
    rows = [row for row in read_run(folder)["history"] if "cam/average_drop/grad_cam" in row]
    assert len(rows) == 2
    last = trainer.callback_metrics
    for name in ("cam/average_drop/grad_cam", "cam/confidence_increase_low/grad_cam_plus_plus"):
        assert rows[-1][name] == pytest.approx(last[name].item(), nan_ok=True)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"metrics": ["magic"]}, ConfigurationError, "Metrics are some of average_drop.*magic"),
        ({"metrics": []}, ConfigurationError, "not none"),
        ({"budget": 5}, ConfigurationError, "buy 1 images at 3 each.*give budget=6"),
        ({"steps": 0}, ConfigurationError, "steps is a whole number of at least 1; got 0"),
        ({"level": 95.0}, ConfigurationError, r"got 95\.0"),
        ({"methods": ["score_cam"]}, MethodError, "score_cam"),
    ],
)
def test_monitor__refuses_wrong_arguments_at_once(arguments, error, said):
    with pytest.raises(error, match=said):
        FaithfulnessMonitor(**arguments)


class Trained(pl.LightningModule):
    def training_step(self, batch, batch_idx):
        return None

    def configure_optimizers(self):
        return None


def test_monitor__refuses_a_world_it_cannot_measure_when_fitting_starts(make_trainer, foreign, loader):
    with pytest.raises(ConfigurationError, match="Trained has no validation_step"):
        make_trainer(callbacks=[FaithfulnessMonitor()]).fit(Trained(), loader())
    with pytest.raises(LayerError, match="net44"):
        make_trainer(callbacks=[FaithfulnessMonitor(layers="net44")]).fit(foreign(), loader(), loader())
    bare = DataLoader(TensorDataset(torch.rand(4, 3, 16, 16)), 2)
    module = foreign()
    module.validation_step = lambda batch, batch_idx: None
    with pytest.raises(ConfigurationError, match="of_labels=True needs labels"):
        make_trainer(callbacks=[FaithfulnessMonitor(of_labels=True)]).fit(module, loader(), bare)
    with pytest.raises(BatchError):
        make_trainer(callbacks=[FaithfulnessMonitor(batch_adapter=lambda batch: "?")]).fit(
            foreign(), loader(), loader()
        )
