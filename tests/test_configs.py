"""Every configuration parses, alone or on top of another."""

import importlib
import sys
import warnings

import pytest
import yaml

from camtrain.cli import main
from camtrain.data.worlds import WORLDS
from tests.layout import ROOT

CONFIGS = ROOT / "configs"
TASKS = sorted(path.stem for path in (CONFIGS / "tasks").glob("*.yaml"))
WHOLE = sorted(path.name for path in CONFIGS.glob("*.yaml") if path.name not in ("wandb_online.yaml", "finetune.yaml"))


@pytest.fixture
def parse(capsys, monkeypatch):
    """`parse("demo.yaml", ..., "--flag=1")`: the configuration that these give together."""
    monkeypatch.setattr(sys, "argv", ["camtrain"])

    def call(*words):
        given = [word if word.startswith("-") else f"--config={CONFIGS / word}" for word in words]
        with pytest.raises(SystemExit) as ended:
            main(["fit", *given, "--print_config"])
        assert ended.value.code == 0
        return yaml.safe_load(capsys.readouterr().out)

    return call


def names(configuration):
    return [callback["class_path"].rpartition(".")[2] for callback in configuration["trainer"]["callbacks"]]


@pytest.mark.parametrize("name", WHOLE)
def test_configuration__parses(parse, name):
    parsed = parse(name)
    assert parsed["model"]["class_path"] == "camtrain.module.ImageClassifier"
    assert parsed["trainer"]["logger"]["init_args"]["offline"] is True
    assert names(parsed)[-1] == "RunSummary"


@pytest.mark.parametrize("task", TASKS)
def test_configuration__of_a_task_trains_and_writes_a_report(task, tmp_path, monkeypatch):
    words = ["--trainer.max_epochs=1", "--trainer.logger=false", f"--trainer.default_root_dir={tmp_path}"]
    sizes = ["--data.train_size=24", "--data.held_out_size=24", "--data.batch_size=12"]
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.num_sanity_val_steps=1"]
    monkeypatch.setattr(sys, "argv", ["camtrain"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        main(["fit", f"--config={CONFIGS / 'tasks' / task}.yaml", *words, *sizes, *quiet])
    page = (tmp_path / "camtrain_logs" / "report.html").read_text()
    assert "grad_cam" in page
    assert not [each for each in caught if "failed in" in str(each.message)]


def test_configurations__are_one_for_each_task():
    assert sorted(WORLDS) == TASKS
    for task in TASKS:
        content = yaml.safe_load((CONFIGS / "tasks" / f"{task}.yaml").read_text())
        assert content["data"]["init_args"]["task"] == task


def test_fragments__make_a_list_where_there_is_none(parse):
    fragments = [f"callbacks/{name}.yaml" for name in ("monitor", "faithful", "detect", "align")]
    parsed = parse(
        *fragments, "--model=camtrain.module.ImageClassifier", "--model.model=resnet18", "--data=ScenesDataModule"
    )
    monitors = ["ExplanationMonitor", "RunSummary", "FaithfulnessMonitor"]
    assert names(parsed) == [*monitors, "RelianceDetector", "AttentionAlignment"]


def test_fragment__is_appended_to_callbacks_that_are_there(parse):
    before, after = names(parse("demo.yaml")), names(parse("demo.yaml", "callbacks/detect.yaml"))
    assert after == [*before, "RelianceDetector"]


def test_finetune__corrects_what_another_configuration_trained(parse):
    before, after = parse("demo.yaml"), parse("demo.yaml", "finetune.yaml")
    assert after["model"]["init_args"]["model"] == before["model"]["init_args"]["model"]
    assert after["data"] == before["data"]
    assert names(after) == [
        "ExplanationMonitor",
        "RelianceDetector",
        "AttentionAlignment",
        "ModelCheckpoint",
        "RunSummary",
    ]
    assert after["trainer"]["max_epochs"] == 5
    given = {one["class_path"].rsplit(".", 1)[-1]: one.get("init_args", {}) for one in after["trainer"]["callbacks"]}
    assert given["AttentionAlignment"]["start_when"] == 0
    assert given["RelianceDetector"]["start_epoch"] == 0


def test_online_fragment__changes_the_logger_only(parse):
    offline, online = parse("demo.yaml"), parse("demo.yaml", "wandb_online.yaml")
    assert online["trainer"]["logger"]["init_args"]["offline"] is False
    assert online["trainer"]["callbacks"] == offline["trainer"]["callbacks"]


def test_decoy_configuration__can_be_run_without_alignment_and_without_decoys(parse):
    vanilla = parse("decoy_fashion_mnist.yaml", "--trainer.callbacks=null", "--data.root=elsewhere")
    assert vanilla["trainer"]["callbacks"] is None
    assert vanilla["data"]["init_args"]["root"] == "elsewhere"
    assert parse("decoy_fashion_mnist.yaml", "--data.decoy=false")["data"]["init_args"]["decoy"] is False


def test_callbacks__of_the_fragments_are_public_names():
    callbacks = importlib.import_module("camtrain.callbacks")
    for path in (CONFIGS / "callbacks").glob("*.yaml"):
        for callback in yaml.safe_load(path.read_text())["trainer"]["callbacks+"]:
            package, _, name = callback["class_path"].rpartition(".")
            assert package == "camtrain.callbacks"
            assert name in callbacks.__all__
