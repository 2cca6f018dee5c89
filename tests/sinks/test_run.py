"""One run for each Trainer: its folder, its numbers, its report, under a real Trainer whose numbers are planned."""

import pickle
from datetime import datetime

import pytest
import pytorch_lightning as pl
from pytorch_lightning.loggers import CSVLogger, WandbLogger
from torch.utils.data import DataLoader

from camtrain.callbacks import ExplanationMonitor, RunSummary
from camtrain.records import Alert, Scalars, read_history
from camtrain.records.folder import read_run_info
from camtrain.sinks.run import Run, numbered
from tests.callbacks.conftest import Foreign, tensors

LOGS = "camtrain_logs"


class Writer(pl.Callback):
    """Writes a number of its own after each validation."""

    def __init__(self, value=1.0):
        self.value = value

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            record = Scalars({"value": self.value}, trainer.current_epoch, trainer.global_step)
            Run.of(trainer).write(record)

    def teardown(self, trainer, pl_module, stage):
        Run.of(trainer).publish()


class Counting(Foreign):
    """Logs the number of the epoch, in training and in validation."""

    def training_step(self, batch, batch_idx):
        self.log("train/epoch", float(self.current_epoch), on_step=False, on_epoch=True)
        self.log("epoch_of_no_stage", float(self.current_epoch), on_step=False, on_epoch=True)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        self.log("val/epoch", float(self.current_epoch))
        return super().validation_step(batch, batch_idx)


def fit(trainer, module=None, **options):
    data = DataLoader(tensors(8), 8)
    trainer.fit(module or Foreign(), data, data, **options)
    return trainer


def test_run__is_one_for_each_trainer(make_trainer):
    trainer = make_trainer()
    assert Run.of(trainer) is Run.of(trainer)
    assert Run.of(trainer) is not Run.of(make_trainer())


def test_run__goes_with_a_trainer_to_another_process_without_its_threads(make_trainer, tmp_path):
    trainer = make_trainer()
    Run.of(trainer).write(Scalars({"a": 1.0}, 0, 0))
    copy = pickle.loads(pickle.dumps(trainer))
    assert Run.of(copy).trainer is copy
    assert Run.of(copy).folder.parent == tmp_path / LOGS  # a trainer of its own, a run of its own


def test_run__stands_beside_the_checkpoints(tmp_path, make_trainer):
    logger = CSVLogger(tmp_path / "logs", name="boats", version=3)
    run = Run.of(make_trainer(logger=logger))
    assert run.home == tmp_path / "logs" / "boats" / "version_3"
    assert run.folder == run.home / "camtrain"


def test_run__without_a_logger_leaves_the_source_package_alone(tmp_path, make_trainer, monkeypatch):
    (tmp_path / "camtrain").mkdir()
    (tmp_path / "camtrain" / "__init__.py").write_text("")
    monkeypatch.chdir(tmp_path)  # a checkout
    fit(make_trainer(callbacks=[ExplanationMonitor(layers="net.4"), RunSummary()], default_root_dir=None))
    assert [path.name for path in (tmp_path / "camtrain").iterdir()] == ["__init__.py"]
    assert (tmp_path / LOGS / "report.html").is_file()


def test_run__a_second_one_without_a_logger_does_not_mix_with_the_first(tmp_path, make_trainer):
    for value, epochs in ((1.0, 3), (2.0, 2)):
        fit(make_trainer(max_epochs=epochs, callbacks=[Writer(value)]))
    assert read_history(tmp_path / LOGS).scalars["value"] == {0: 1.0, 1: 1.0, 2: 1.0}
    assert read_history(tmp_path / LOGS / "version_1").scalars["value"] == {0: 2.0, 1: 2.0}
    assert (tmp_path / LOGS / "version_1" / "report.html").is_file()


def test_run__that_is_resumed_without_a_logger_goes_on_where_it_was(tmp_path, make_trainer):
    first = fit(make_trainer(max_epochs=2, callbacks=[Writer(1.0)]))
    first.save_checkpoint(tmp_path / "last.ckpt")
    second = make_trainer(max_epochs=3, callbacks=[Writer(2.0)])
    fit(second, ckpt_path=tmp_path / "last.ckpt", weights_only=False)
    assert read_history(tmp_path / LOGS).scalars["value"] == {0: 1.0, 1: 1.0, 2: 2.0}


def test_run__keeps_what_validate_and_test_write_apart(tmp_path, make_trainer):
    trainer = fit(make_trainer(callbacks=[Writer(1.0)]))
    trainer.callbacks[-1].value = 2.0
    trainer.validate(Foreign(), DataLoader(tensors(8), 8), verbose=False)
    assert read_history(tmp_path / LOGS).scalars["value"] == {0: 1.0}
    assert read_history(tmp_path / LOGS / "validate").scalars["value"] == {1: 2.0}


class Named(Foreign):
    def __init__(self):
        super().__init__()
        self.save_hyperparameters({"model": "torchvision:resnet18"})


@pytest.mark.parametrize(("module", "model"), [(Foreign, "Foreign"), (Named, "resnet18")])
def test_run__is_called_by_project_model_and_time(make_trainer, tmp_path, module, model):
    before = datetime.now().replace(second=0, microsecond=0)
    fit(make_trainer(callbacks=[Writer(1.0)]), module())
    project, name, time = read_run_info(tmp_path / LOGS)["title"].split(", ")
    assert (project, name) == (tmp_path.name, model)
    assert before <= datetime.strptime(time, "%Y-%m-%d %H:%M") <= datetime.now()


def test_run__of_another_rank_writes_nothing(make_trainer, monkeypatch, tmp_path):
    trainer = make_trainer()
    monkeypatch.setattr(pl.Trainer, "is_global_zero", property(lambda self: False))
    Run.of(trainer).write(Scalars({"a": 1.0}, 0, 0))
    Run.of(trainer).publish()
    assert not (tmp_path / LOGS).exists()


def test_run__of_a_fast_dev_run_writes_nothing(make_trainer, tmp_path):
    fit(make_trainer(fast_dev_run=True, callbacks=[ExplanationMonitor(layers="net.4"), Writer(), RunSummary()]))
    assert not list(tmp_path.rglob("*.jsonl"))


@pytest.mark.parametrize("every", [[ExplanationMonitor], [RunSummary], [ExplanationMonitor, RunSummary]], ids=len)
def test_run__gives_an_epoch_without_validation_no_numbers_of_the_last_one(tmp_path, make_trainer, every):
    callbacks = [kind(layers="net.4") if kind is ExplanationMonitor else kind() for kind in every]
    fit(make_trainer(max_epochs=4, check_val_every_n_epoch=2, callbacks=callbacks), Counting())
    scalars = read_history(tmp_path / LOGS).scalars
    assert scalars["val/epoch"] == {1: 1.0, 3: 3.0}
    first = 0 if RunSummary in every else 1  # the monitor keeps numbers once it has seen a validation
    expected = {epoch: float(epoch) for epoch in range(first, 4)}
    assert scalars["train/epoch"] == expected
    assert scalars["epoch_of_no_stage"] == expected


class Stopping(pl.Callback):
    def on_validation_end(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt


def test_run__gives_an_epoch_that_was_cut_short_no_training_numbers_of_the_last_one(tmp_path, make_trainer):
    trainer = make_trainer(max_epochs=2, callbacks=[ExplanationMonitor(layers="net.4"), Stopping()])
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(trainer, Counting())
    scalars = read_history(tmp_path / LOGS).scalars
    assert scalars["val/epoch"] == {0: 0.0, 1: 1.0}
    assert scalars["train/epoch"] == {0: 0.0}


def test_run__writes_the_report_anew_only_where_something_was_recorded(make_trainer, tmp_path):
    trainer = make_trainer()
    run = Run.of(trainer)
    run.write(Scalars({"val/accuracy": 0.5}, 0, 0))
    report = run.publish()
    report.write_text("somebody's notes")
    run.publish()
    assert report.read_text() == "somebody's notes"
    run.write(Alert("look here", "now", 0, 0))
    assert "look here" in run.publish().read_text()


@pytest.mark.parametrize("others", [[], [RunSummary]], ids=["alone", "with a summary"])
def test_run__says_once_at_its_end_what_became_of_it_and_where_the_report_lies(
    make_trainer, tmp_path, capsys, monkeypatch, others
):
    monkeypatch.chdir(tmp_path)
    callbacks = [ExplanationMonitor(layers="net.4"), *(kind() for kind in others)]
    trainer = fit(make_trainer(callbacks=callbacks), Counting())
    text = capsys.readouterr().out
    assert text.count("report      camtrain_logs/report.html") == 1
    assert ("no class was tested for what it leans on" in text) == (not others)  # the summary has a table instead
    trainer.validate(Counting(), DataLoader(tensors(8), 8), verbose=False)
    assert capsys.readouterr().out.count("report      camtrain_logs/validate/report.html") == 1


def test_run__says_how_to_send_an_offline_run(make_trainer, wandb_offline, capsys):
    logger = WandbLogger(project="camtrain", save_dir=wandb_offline, offline=True)
    fit(make_trainer(callbacks=[ExplanationMonitor(layers="net.4")], logger=logger))
    assert f"wandb sync {logger.experiment.settings.sync_dir}" in capsys.readouterr().out


def test_run__that_is_told_in_other_words_is_quiet(make_trainer, capsys):
    trainer = make_trainer(callbacks=[ExplanationMonitor(layers="net.4")])
    Run.of(trainer).quiet = True
    fit(trainer)
    assert capsys.readouterr().out == ""


class Broken:
    def write(self, *records):
        raise ConnectionError("the service is gone")

    def close(self):
        pass


def test_run__keeps_numbers_locally_when_weights_and_biases_fails(
    wandb_offline, make_trainer, make_pass, monkeypatch, caplog
):
    monkeypatch.setattr("camtrain.sinks.wandb.WandbSink", lambda *_: Broken())
    run = Run.of(make_trainer(logger=WandbLogger(project="camtrain", save_dir=wandb_offline)))
    for epoch in (0, 1):
        run.write(*make_pass(epoch, epoch))
    run.flush()
    assert read_history(run.folder).scalars["val/accuracy"] == {0: 0.8, 1: 0.8}
    assert sum("the service is gone" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.filterwarnings("ignore:Experiment logs directory")
def test_run__takes_back_the_epochs_of_an_earlier_run_that_a_logger_sends_to_the_same_folder(tmp_path, make_trainer):
    for epochs in (4, 2):
        logger = CSVLogger(tmp_path, name="csv", version="a")
        trainer = fit(make_trainer(max_epochs=epochs, callbacks=[Writer()], logger=logger))
    assert read_history(Run.of(trainer).folder).scalars["value"] == {0: 1.0, 1: 1.0}


def test_numbered__counts_on_where_something_lies(tmp_path):
    place = tmp_path / "logs"
    assert numbered(place) == place
    (place / "version_1").mkdir(parents=True)
    assert numbered(place) == place  # nothing but other runs lies in it
    (place / "scalars.jsonl").write_text("")
    assert numbered(place) == place / "version_1"
    (place / "version_1" / "scalars.jsonl").write_text("")
    assert numbered(place) == place / "version_2"
    assert numbered(place, last=True) == place / "version_1"


def test_run__of_a_fit_after_validate_knows_its_layers_as_well(tmp_path, make_trainer):
    module, loader = Foreign(), DataLoader(tensors(8), 8)
    trainer = make_trainer(callbacks=[ExplanationMonitor(num_probes=1, num_failures=0)], max_epochs=1, logger=False)
    trainer.validate(module, loader, verbose=False)
    trainer.fit(module, loader, loader)
    folder = Run.of(trainer).folder
    assert [bool(read_history(place).setup) for place in (folder / "validate", folder)] == [True, True]
