import pytest
import pytorch_lightning as pl
from pytorch_lightning.loggers import CSVLogger, WandbLogger
from torch import nn

from camtrain.sinks import FAILURES, HEATMAPS, Alert, Panels, Scalars, VerdictRow, read_history
from camtrain.sinks.loggers import IMAGES_PER_LIST, WandbSink, run_folder, sinks_for

COLUMNS = ["epoch", "sample", "picture", "true", "predicted", "probability", "true_probability", "correct", "cell"]


@pytest.fixture
def offline_run(wandb_offline, read_run):
    """`offline_run(write)`: what an offline run holds after `write(sink)`."""

    def record(write):
        logger = WandbLogger(project="camtrain", save_dir=wandb_offline)
        write(WandbSink(logger))
        folder = logger.experiment.sync_dir
        logger.experiment.finish()
        return read_run(folder)

    return record


def test_wandb_sink__logs_a_pass_that_can_be_read_back(offline_run, make_pass):
    def write(sink):
        for epoch in (0, 1):
            sink.write(*make_pass(epoch, 10 * epoch + 10), Scalars({"own/number": 0.5}, epoch, 0, logged=False))

    run = offline_run(write)
    rows = [row for row in run["history"] if HEATMAPS in row]
    assert [row["epoch"] for row in rows] == [0, 1]
    assert rows[0]["own/number"] == 0.5
    assert "val/accuracy" not in rows[0]  # Lightning has logged it
    for row in rows:
        assert row[HEATMAPS]["count"] == row[FAILURES]["count"] == 2
        assert row[HEATMAPS]["format"] == "jpg"
        assert (row[HEATMAPS]["width"], row[HEATMAPS]["height"]) == (3 * 16 + 2 * 2, 16)
        assert row["reliance/examples"]["captions"] == ["boat: 98 % to 11 % · background of s3"]
    assert rows[0][HEATMAPS]["captions"][0].startswith("boat taken for car 97 % (boat 2 %) · inside energy 0.20")
    assert [alert[1] for alert in run["alerts"]] == ["boat leans on its background"] * 2


def test_wandb_sink__logs_fresh_tables_that_sort_and_filter(offline_run, make_pass):
    run = offline_run(lambda sink: [sink.write(*make_pass(epoch, epoch)) for epoch in (0, 1)])
    failures, verdicts = (run["tables"][f"{name}"] for name in ("cam/failures_table", "reliance/verdicts"))
    assert [table["data"][0][0] for table in failures] == [table["data"][0][0] for table in verdicts] == [0, 1]
    table = failures[0]
    assert table["columns"] == [*COLUMNS, "group", "inside_energy/grad_cam", "inside_energy/hires_cam"]
    row = dict(zip(table["columns"], table["data"][0], strict=True))
    assert row["picture"]["_type"] == "image-file"
    assert (row["true"], row["predicted"], row["probability"], row["correct"]) == ("boat", "car", 0.97, False)
    assert table["data"][1][-1] is None  # an inside energy that is NaN
    assert verdicts[0]["columns"] == ["epoch", *VerdictRow.__dataclass_fields__]
    assert verdicts[0]["data"][0][1:6] == [0, "boat", "reliant", 0.41, 0.35]


def test_wandb_sink__shows_no_more_images_than_a_list_takes(offline_run, make_panel):
    panels = tuple(make_panel(str(index), methods=()) for index in range(IMAGES_PER_LIST + 5))
    run = offline_run(lambda sink: sink.write(Panels(FAILURES, panels, 0, 0)))
    assert run["history"][0][FAILURES]["count"] == IMAGES_PER_LIST
    assert len(run["tables"]["cam/failures_table"][0]["data"]) == IMAGES_PER_LIST + 5


def test_wandb_sink__without_panels_still_writes(offline_run):
    run = offline_run(lambda sink: sink.write(Panels(HEATMAPS, (), 0, 0), Alert("a" * 100, "text", 0, 0)))
    assert not any(HEATMAPS in row for row in run["history"])
    assert run["alerts"][0][1] == "a" * 63


def test_wandb_sink__of_a_disabled_run_encodes_nothing(wandb_offline, make_pass, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(wandb, "Image", lambda *args, **kwargs: pytest.fail("an image was encoded"))
    WandbSink(WandbLogger(save_dir=wandb_offline)).write(*make_pass(0, 0))


def test_run_folder__stands_beside_the_checkpoints(tmp_path, make_trainer):
    assert run_folder(make_trainer()) == tmp_path / "camtrain"
    logger = CSVLogger(tmp_path / "logs", name="boats", version=3)
    assert run_folder(make_trainer(logger=logger)) == tmp_path / "logs" / "boats" / "version_3" / "camtrain"


def test_sinks_for__is_one_group_per_trainer(make_trainer):
    trainer = make_trainer()
    assert sinks_for(trainer) is sinks_for(trainer)
    assert sinks_for(trainer) is not sinks_for(make_trainer())


def test_sinks_for__of_another_rank_is_empty(make_trainer, monkeypatch):
    monkeypatch.setattr(pl.Trainer, "is_global_zero", property(lambda self: False))
    assert len(sinks_for(make_trainer())) == 0


class Broken(WandbSink):
    def write(self, *records):
        raise ConnectionError("the service is gone")


def test_sinks_for__keeps_scalars_locally_when_weights_and_biases_fails(
    wandb_offline, tmp_path, make_trainer, make_pass, monkeypatch, caplog
):
    monkeypatch.setattr("camtrain.sinks.loggers.WandbSink", Broken)
    trainer = make_trainer(logger=WandbLogger(project="camtrain", save_dir=wandb_offline))
    group = sinks_for(trainer, tmp_path / "run")
    for epoch in (0, 1):
        group.write(*make_pass(epoch, epoch))
    assert read_history(tmp_path / "run").scalars["val/accuracy"] == {0: 0.8, 1: 0.8}
    assert sum("the service is gone" in record.getMessage() for record in caplog.records) == 1


class Writer(pl.Callback):
    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            sinks_for(trainer).write(Scalars({"epochs": 1.0}, trainer.current_epoch, trainer.global_step))


class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch, _):
        return self.layer(batch).mean()

    validation_step = training_step

    def configure_optimizers(self):
        import torch

        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore::Warning")
def test_sinks_for__takes_back_the_epochs_of_an_earlier_run_in_the_same_folder(tmp_path, make_trainer):
    import torch

    data = torch.utils.data.DataLoader(torch.ones(2, 1), batch_size=2)
    for epochs in (4, 2):
        make_trainer(max_epochs=epochs, callbacks=[Writer()]).fit(Net(), data, data)
    assert read_history(tmp_path / "camtrain").scalars["epochs"] == {0: 1.0, 1: 1.0}
