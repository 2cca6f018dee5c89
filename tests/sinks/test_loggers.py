import pytest
import pytorch_lightning as pl
from pytorch_lightning.loggers import CSVLogger, WandbLogger
from torch import nn

from camtrain.sinks import Scalars, read_history
from camtrain.sinks.loggers import WandbSink, flush_sinks, run_folder, sinks_for


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
    flush_sinks(trainer)
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
