import subprocess
import sys
from pathlib import Path

import lightning.pytorch
import pytest
import torch
import yaml
from pytorch_lightning import Callback, LightningDataModule
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader

from camtrain.cli import main
from camtrain.cli.lightning import package_named
from camtrain.errors import MethodError
from camtrain.loading import load_model
from tests.layout import ROOT

QUIET = {
    "accelerator": "cpu",
    "max_epochs": 1,
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "log_every_n_steps": 1,
}


class Rows(LightningDataModule):
    """Four random images of as many classes as are named."""

    def __init__(self, names: list[str], size: int = 16) -> None:
        super().__init__()
        self.class_names, self.num_labels, self.size = tuple(names), len(names), size

    def train_dataloader(self) -> DataLoader:
        rows = [(torch.rand(3, self.size, self.size), i % self.num_labels) for i in range(4)]
        return DataLoader(rows, batch_size=2)

    val_dataloader = test_dataloader = train_dataloader


class Nameless(Rows):
    def __init__(self) -> None:
        super().__init__(["a", "b"])
        del self.class_names


class OfTheOtherPackage(lightning.pytorch.LightningModule):
    """A module of the package that all current tutorials import."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(3, 2)

    def training_step(self, batch, batch_idx):
        return self.net(batch["image"].mean(dim=(2, 3))).sum()

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.training_step(batch, batch_idx), batch_size=2)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Picky(Callback):
    def __init__(self, method: str = "grad_cam") -> None:
        raise MethodError(f"No method named {method!r}; known: 'grad_cam'.")


def path_of(kind):
    return f"{kind.__module__}.{kind.__qualname__}"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """`run("fit", trainer={...}, model={...}, data={...})`: write a configuration, run it, return its folder."""
    monkeypatch.setattr(sys, "argv", ["camtrain"])
    monkeypatch.chdir(tmp_path)

    def call(command, *words, trainer=(), model=(), data=None):
        network = {"model": "camtrain.networks.SmallResNet", "model_kwargs": {"width": 4}} | dict(model)
        content = {
            "seed_everything": 1,
            "trainer": QUIET | {"default_root_dir": str(tmp_path / "run")} | dict(trainer),
            "model": {"class_path": "camtrain.module.ImageClassifier", "init_args": network},
            "data": data or {"class_path": path_of(Rows), "init_args": {"names": ["land", "water", "air"]}},
        }
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
        main([command, "--config", str(tmp_path / "config.yaml"), *words])
        return tmp_path / "run"

    return call


def checkpoints(folder):
    return sorted(folder.rglob("*.ckpt"))


def test_main__trains_and_tests_what_the_configuration_names(run):
    folder = run("fit")
    (checkpoint,) = checkpoints(folder)
    assert torch.load(checkpoint, weights_only=True)["state_dict"]["network.head.weight"].shape == (3, 16)
    run("test", "--ckpt_path", str(checkpoint))
    run("validate")


def test_main__writes_the_configuration_into_the_runs_own_folder(run):
    written = yaml.safe_load((run("fit", "--trainer.max_epochs=2") / "camtrain_logs" / "config.yaml").read_text())
    assert written["trainer"]["max_epochs"] == 2
    assert written["model"]["class_path"] == "camtrain.module.ImageClassifier"


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_main__does_not_abort_a_second_run(run):
    run("fit")
    assert (run("fit") / "camtrain_logs" / "version_1" / "config.yaml").is_file()


def test_main__gives_each_wandb_run_its_own_folder_and_configuration(run, wandb_offline, read_run):
    import wandb

    init = {"offline": True, "project": "cli", "save_dir": str(wandb_offline)}
    logger = {"class_path": "pytorch_lightning.loggers.WandbLogger", "init_args": init}
    runs = []
    for _ in range(2):
        run("fit", trainer={"logger": logger})
        runs.append(Path(wandb.run.settings.sync_dir))
        wandb.finish()
    assert len(list((wandb_offline / "cli").glob("*/camtrain/config.yaml"))) == 2
    assert read_run(runs[0])["config"]["configuration"]["trainer"]["max_epochs"] == 1


def test_main__restores_the_class_names_from_a_checkpoint(run):
    from camtrain.module import ImageClassifier

    (checkpoint,) = checkpoints(run("fit"))
    assert list(ImageClassifier.load_from_checkpoint(checkpoint).class_names) == ["land", "water", "air"]


def test_main__leaves_a_checkpoint_that_is_loaded_by_its_file_alone(run):
    (checkpoint,) = checkpoints(run("fit"))
    network = load_model(str(checkpoint), None, None)
    assert list(network.class_names) == ["land", "water", "air"]
    stored = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert all(torch.equal(value, stored[name]) for name, value in network.state_dict().items())


def test_main__lets_num_classes_win_over_the_data(run):
    (checkpoint,) = checkpoints(run("fit", "--model.num_classes=5"))
    assert torch.load(checkpoint, weights_only=True)["state_dict"]["network.head.weight"].shape == (5, 16)


def test_main__trains_on_data_that_names_no_classes(run):
    assert checkpoints(run("fit", "--model.num_classes=2", data={"class_path": path_of(Nameless)}))


def test_main__takes_another_optimizer_and_schedule(run):
    words = ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.5", "--model.optimizer.momentum=0.9"]
    words += ["--model.lr_scheduler=torch.optim.lr_scheduler.CosineAnnealingLR", "--model.lr_scheduler.T_max=3"]
    (checkpoint,) = checkpoints(run("fit", *words))
    group = torch.load(checkpoint, weights_only=True)["optimizer_states"][0]["param_groups"][0]
    assert (group["momentum"], group["initial_lr"]) == (0.9, 0.5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model.model=resnet19"], r"^ConfigurationError: No network named 'resnet19'"),
        (["--model.weights=missing.pth"], r"^ConfigurationError: No weights file missing.pth"),
        ([f"--trainer.callbacks+={__name__}.Picky"], r"^MethodError: No method named 'grad_cam'; known"),
    ],
)
def test_main__ends_with_the_message_of_a_mistake(run, words, said):
    with pytest.raises(SystemExit, match=said):
        run("fit", *words)


def test_main__needs_the_number_of_classes(run):
    with pytest.raises(SystemExit, match=r"^ConfigurationError: .* the data names none. Set num_classes"):
        run("fit", data={"class_path": path_of(Nameless)})


def test_main__lets_errors_of_others_through(run):
    with pytest.raises(MisconfigurationException, match="max_epochs"):
        run("fit", "--trainer.max_epochs=-7")


def test_train_script__runs_from_the_checkout_and_knows_bare_class_names():
    words = ["fit", "--model=ImageClassifier", "--model.model=resnet18", "--data=ScenesDataModule", "--print_config"]
    words += ["--trainer.callbacks+=RunSummary"]
    done = subprocess.run([sys.executable, "train.py", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    parsed = yaml.safe_load(done.stdout)
    assert parsed["data"]["class_path"] == "camtrain.data.modules.ScenesDataModule"
    assert [callback["class_path"] for callback in parsed["trainer"]["callbacks"]] == ["camtrain.callbacks.RunSummary"]


def test_main__trains_a_module_of_either_package(run, tmp_path):
    data = {"class_path": "camtrain.data.modules.ScenesDataModule"}
    data["init_args"] = {"train_size": 4, "val_size": 4, "test_size": 4, "image_size": 32, "batch_size": 2}
    trainer = QUIET | {"default_root_dir": str(tmp_path / "run")}
    trainer["callbacks"] = [{"class_path": "camtrain.callbacks.RunSummary"}]
    model = {"class_path": path_of(OfTheOtherPackage)}
    content = {"seed_everything": 1, "trainer": trainer, "model": model, "data": data}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(content))
    main(["fit", "--config", str(tmp_path / "other.yaml")])
    (checkpoint,) = checkpoints(tmp_path / "run")
    network = load_model(path_of(OfTheOtherPackage), str(checkpoint), None)
    assert torch.equal(network.net.weight, torch.load(checkpoint, weights_only=True)["state_dict"]["net.weight"])
    written = yaml.safe_load((tmp_path / "run" / "camtrain_logs" / "config.yaml").read_text())
    assert written["model"]["class_path"] == path_of(OfTheOtherPackage)


def test_main__says_which_package_the_module_and_the_data_are_of(run):
    said = r"^ConfigurationError: A Trainer takes modules and data of its own package alone: .*OfTheOtherPackage is of "
    with pytest.raises(SystemExit, match=said + r"lightning\.pytorch and .*Rows is of pytorch_lightning"):
        run("fit", f"--model={path_of(OfTheOtherPackage)}")


@pytest.mark.parametrize("spelling", ["--model={}", "--model {}", "--config FILE", "--data={}"])
def test_package_named__reads_flags_and_configurations(spelling, tmp_path):
    path = path_of(OfTheOtherPackage)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"model": {"class_path": path}}))
    words = spelling.format(path).replace("FILE", str(tmp_path / "c.yaml")).split()
    assert package_named(["fit", *words]) == "lightning.pytorch"
    assert package_named(["fit", "--model", "nowhere.Net"]) == "pytorch_lightning"
