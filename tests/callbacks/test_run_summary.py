"""RunSummary under a real Trainer, with numbers that are planned epoch by epoch."""

import io
import json
import sys

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, WandbLogger
from rich.console import Console
from torch.utils.data import DataLoader

from camtrain.callbacks import RunSummary
from camtrain.report.summary import headline
from camtrain.report.terminal import epoch_line, places, summary_table
from camtrain.sinks import History, Verdict, Verdicts, read_history
from camtrain.sinks.run import Run

PLAN = {  # by epoch
    "val/accuracy": [0.7, 0.9, 0.85, 0.95],
    "val/worst_group_accuracy": [0.5, 0.2, 0.6, 0.8],
    "cam/inside_energy/grad_cam": [0.3, 0.31, 0.5, 0.72],
    "reliance/flagged": [0.0, 2.0, 1.0, 0.0],
    "alignment/weight": [0.0, 0.0, 1.0, 1.0],
}


class Planned(pl.LightningModule):
    """Logs the plan: the weight while it trains, the rest when it validates."""

    def __init__(self):
        super().__init__()
        self.save_hyperparameters({"width": 16})
        self.parameter = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch, batch_idx):
        self.log("train/loss", float(self.current_epoch), on_step=False, on_epoch=True)
        self.log("alignment/weight", PLAN["alignment/weight"][self.current_epoch], on_step=False, on_epoch=True)
        return self.parameter.sum()

    def validation_step(self, batch, batch_idx):
        for name, values in PLAN.items():
            if name != "alignment/weight":
                self.log(name, values[self.current_epoch])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Zeros(pl.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(torch.zeros(2, 1), batch_size=1)

    val_dataloader = train_dataloader


class Verdicting(pl.Callback):
    """Writes a verdict each validation, as a detector does: reliant until the last epoch."""

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            row = Verdict(
                0, "boat", "not reliant" if trainer.current_epoch == 3 else "reliant", 0.4, 0.3, 0.5, 0.0, 0.001, 9
            )
            Run.of(trainer).write(Verdicts((row,), trainer.current_epoch, trainer.global_step))

    on_test_end = on_validation_end


class Failing(pl.Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 2:
            raise KeyError("out of luck")


def fit(make_trainer, *callbacks, **options):
    trainer = make_trainer(**({"max_epochs": 4, "callbacks": [*callbacks, RunSummary()]} | options))
    trainer.fit(Planned(), Zeros())
    return trainer


def printed(table):
    console = Console(width=110, file=io.StringIO(), record=True)
    console.print(table)
    return console.export_text()


def test_run_summary__keeps_every_epochs_numbers_under_their_own_epoch(make_trainer, tmp_path):
    fit(make_trainer)
    scalars = read_history(tmp_path / "camtrain_logs").scalars
    for name, values in PLAN.items():
        assert scalars[name] == pytest.approx(dict(enumerate(values))), name
    assert scalars["train/loss"] == {0: 0.0, 1: 1.0, 2: 2.0, 3: 3.0}


def test_run_summary__leaves_out_epochs_without_a_validation(make_trainer, tmp_path):
    fit(make_trainer, check_val_every_n_epoch=2)
    scalars = read_history(tmp_path / "camtrain_logs").scalars
    assert list(scalars["val/accuracy"]) == [1, 3]
    assert list(scalars["train/loss"]) == [0, 1, 2, 3]


def test_run_summary__prints_before_and_after_alignment(make_trainer, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    fit(make_trainer, Verdicting(), ModelCheckpoint(tmp_path, "best"), enable_checkpointing=True)
    said = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")] for line in said.splitlines()]
    assert ["", "before alignment (epoch 1)", "after (epoch 3)"] in rows
    assert ["Accuracy", "90.0 %", "95.0 %"] in rows
    assert ["Worst-group accuracy", "20.0 %", "80.0 %"] in rows
    assert ["Inside energy, grad_cam", "0.31", "0.72"] in rows
    assert ["boat", "reliant (+0.40)", "not reliant (+0.40)"] in rows
    assert "report      camtrain_logs/report.html" in said
    assert "checkpoint  best.ckpt" in said
    assert headline(read_history(tmp_path / "camtrain_logs")) in said
    assert "boat" in (tmp_path / "camtrain_logs" / "report.html").read_text()


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_run_summary__says_where_the_report_of_an_evaluation_lies(make_trainer, tmp_path, capsys, monkeypatch, stage):
    monkeypatch.chdir(tmp_path)
    trainer = make_trainer(callbacks=[Verdicting(), RunSummary()])
    module = Planned()
    module.test_step = module.validation_step
    getattr(trainer, stage)(module, DataLoader(torch.zeros(2, 1), batch_size=1), verbose=False)
    assert f"report      camtrain_logs/{stage}/report.html" in capsys.readouterr().out


def test_epoch_line__has_the_inside_energy_of_the_first_method():
    values = {"cam/inside_energy/grad_cam": 0.03, "cam/inside_energy/layer_cam": 0.98}
    assert epoch_line(values, 2) == "epoch 2: inside energy 0.03"


def test_run_summary__prints_a_line_for_each_epoch(make_trainer, capsys):
    fit(make_trainer)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 4
    assert lines[1] == "epoch 1: accuracy 90.0 %, worst-group accuracy 20.0 %, inside energy 0.31, classes flagged 2"
    assert lines[2].endswith("inside energy 0.50, classes flagged 1, alignment on")


def test_run_summary__prints_above_a_progress_bar(make_trainer, capsys):
    fit(make_trainer, enable_progress_bar=True)
    assert "epoch 1: accuracy 90.0 %" in capsys.readouterr().out


def test_run_summary__writes_configuration_and_versions(make_trainer, tmp_path):
    fit(make_trainer)
    run = json.loads((tmp_path / "camtrain_logs" / "run.json").read_text())
    assert run["configuration"]["model"] == {"class": "Planned", "width": 16}
    assert run["versions"]["torch"] == torch.__version__.partition("+")[0]


def test_run_summary__goes_where_the_logger_goes(make_trainer, tmp_path):
    trainer = fit(make_trainer, logger=CSVLogger(tmp_path, name="csv", version="a"))
    assert (tmp_path / "csv" / "a" / "camtrain" / "report.html").is_file()
    assert [label for label, _ in places(tmp_path / "report.html", trainer.checkpoint_callbacks, trainer.loggers)] == [
        "report"
    ]


def test_run_summary__names_the_offline_run_and_how_to_send_it(make_trainer, wandb_offline, capsys, monkeypatch):
    monkeypatch.chdir(wandb_offline)
    logger = WandbLogger(save_dir=wandb_offline, offline=True, project="scenes")
    fit(make_trainer, logger=logger)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("offline", "to send"))]
    folder = lines[0].split()[-1]
    assert list((wandb_offline / folder).glob("*.wandb"))
    assert lines[1].endswith(f"wandb sync {folder}")


def test_run_summary__says_nothing_of_a_disabled_run(make_trainer, wandb_offline, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    trainer = fit(make_trainer, logger=WandbLogger(save_dir=wandb_offline, project="scenes"))
    assert [label for label, _ in places(tmp_path, trainer.checkpoint_callbacks, trainer.loggers)] == ["report"]


def test_run_summary__reports_after_an_error_too(make_trainer, tmp_path, capsys):
    with pytest.raises(KeyError, match="out of luck"):
        fit(make_trainer, Failing())
    assert (tmp_path / "camtrain_logs" / "report.html").is_file()
    assert "Worst-group accuracy" in capsys.readouterr().out


def test_run_summary__is_silent_where_nothing_was_trained(make_trainer, tmp_path, capsys):
    fit(make_trainer, max_epochs=0)
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "camtrain_logs" / "report.html").exists()


def test_run_summary__writes_nothing_in_a_fast_dev_run(make_trainer, tmp_path):
    fit(make_trainer, fast_dev_run=True)
    assert not (tmp_path / "camtrain_logs").exists()


def test_run_summary__reports_its_own_failure_once_and_goes_on(make_trainer, tmp_path):
    (tmp_path / "camtrain_logs").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match=r"RunSummary failed in describe \(\w+Error: .*; training goes on") as caught:
        trainer = fit(make_trainer)
    assert trainer.current_epoch == 4
    assert sum("RunSummary" in str(item.message) for item in caught) == 1


def test_summary_table__without_alignment_compares_first_and_last():
    said = printed(summary_table(History(scalars={"val/acc": {0: 0.5, 1: 0.6, 2: 0.75}})))
    assert "first (epoch 0)" in said
    assert "last (epoch 2)" in said
    assert "75.0 %" in said


def test_summary_table__of_one_epoch_has_one_column():
    table = summary_table(History(scalars={"val/acc": {0: 0.5}}))
    assert [column.header for column in table.columns] == ["", "last (epoch 0)"]


def test_summary_table__shows_what_was_not_measured_as_such():
    scalars = {"alignment/weight": {0: 0.0, 1: 1.0}, "val/acc": {0: 0.5, 1: 0.6}, "reliance/flagged": {1: 0.0}}
    assert "│ Classes flagged │                          – │" in printed(summary_table(History(scalars=scalars)))


def test_summary_table__counts_the_classes_it_leaves_out():
    rows = [Verdict(i, f"class {i}", "undecided", 0.0, -0.1, 0.1, 0.0, 0.5, 9) for i in range(13)]
    table = summary_table(History(verdicts={0: rows}))
    assert table.row_count == 10
    assert table.caption == "and 3 classes more in the report"


def test_summary_table__shows_a_dash_for_an_effect_that_was_not_measured():
    nan = float("nan")
    rows = [
        Verdict(0, "car", "undecided", nan, nan, nan, 0.0, nan, 2),
        Verdict(1, "hen", "reliant", 0.4, 0.3, 0.5, 0.0, 0.01, 9),
    ]
    said = printed(summary_table(History(verdicts={0: rows})))
    assert "undecided (–)" in said
    assert "reliant (+0.40)" in said


def test_run_summary__takes_the_configuration_of_the_command_line(tmp_path, monkeypatch):
    from camtrain.cli import main

    monkeypatch.setattr(sys, "argv", ["camtrain"])
    words = ["fit", "--seed_everything=1", f"--model={__name__}.Planned", f"--data={__name__}.Zeros"]
    options = f"max_epochs=2 accelerator=cpu logger=false default_root_dir={tmp_path} enable_progress_bar=false"
    options += " enable_model_summary=false enable_checkpointing=false log_every_n_steps=1"
    options += " callbacks+=camtrain.callbacks.RunSummary"
    main([*words, *(f"--trainer.{option}" for option in options.split())])
    written = json.loads((tmp_path / "camtrain_logs" / "run.json").read_text())["configuration"]
    assert written["trainer"]["max_epochs"] == 2


def test_summary__adds_no_point_to_a_validation_where_its_epoch_goes_on(tmp_path):
    class Early(Planned):
        def training_step(self, batch, batch_idx):
            self.log("train/loss", 1.0, on_step=False, on_epoch=True)
            return self.parameter.sum()

    data = DataLoader(torch.zeros(3, 1), batch_size=1)
    trainer = pl.Trainer(
        callbacks=[RunSummary()], max_epochs=2, val_check_interval=2, default_root_dir=tmp_path, logger=False,
        accelerator="cpu", enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False,
        log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(Early(), data, data)
    scalars = read_history(tmp_path / "camtrain_logs").scalars
    assert list(scalars["val/accuracy"].values()) == pytest.approx(PLAN["val/accuracy"][:2])
    assert len(scalars["train/loss"]) == 2
