"""What is asked of a Trainer and a module, of either package of Lightning."""

from types import SimpleNamespace

import lightning.pytorch
import pytest
import pytorch_lightning
from torch import nn

from camtrain.callbacks import ExplanationMonitor
from camtrain.callbacks import _lightning as asked
from camtrain.errors import CamtrainError, ConfigurationError
from camtrain.packages import is_a, overrides, part_of

PACKAGES = {"pytorch_lightning": pytorch_lightning, "lightning.pytorch": lightning.pytorch}


@pytest.fixture(params=PACKAGES)
def package(request):
    return PACKAGES[request.param]


def test_callback__is_one_of_each_package(package):
    callback = ExplanationMonitor()
    assert isinstance(callback, package.Callback)
    assert callback in package.Trainer(callbacks=callback, logger=False, accelerator="cpu").callbacks


def test_overrides__tells_the_users_methods_from_those_of_each_package(package):
    class Module(package.LightningModule):
        def validation_step(self, batch, batch_idx):
            """The user's."""

    module = Module()
    assert overrides(module, "validation_step")
    assert not any(
        overrides(module, method) for method in ("forward", "setup", "test_step", "train_dataloader", "none")
    )
    module.test_step = print
    assert overrides(module, "test_step")
    assert not overrides(package.LightningDataModule(), "train_dataloader")


def test_part_of__is_of_the_things_own_package(package):
    trainer = package.Trainer(logger=False, accelerator="cpu", enable_checkpointing=True)
    assert part_of(trainer, "callbacks.ModelCheckpoint") is package.callbacks.ModelCheckpoint
    assert is_a(trainer.checkpoint_callback, "ModelCheckpoint")
    assert not is_a(trainer, "ModelCheckpoint")


def test_network_of__takes_a_name_or_a_part_and_refuses_others(package):
    class Module(package.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(1, 1))

    module = Module()
    assert asked.network_of(module, None) is module
    assert asked.network_of(module, "net.0") is asked.network_of(module, module.net[0]) is module.net[0]
    assert asked.callable_network(module) is module.net
    with pytest.raises(ConfigurationError, match="model='body' is no submodule of Module, which has: net"):
        asked.network_of(module, "body")
    with pytest.raises(ConfigurationError, match="model=Linear is no submodule"):
        asked.network_of(module, nn.Linear(1, 1))


def of_two(monkeypatch, other):
    """A trainer's process 0 of two, the other of which brings `other`."""
    monkeypatch.setattr(asked, "gathered", lambda trainer, items: [*items, other])
    return SimpleNamespace(world_size=2, is_global_zero=True)


def fails():
    raise ValueError("too bright")


def test_everywhere__raises_in_all_processes_what_failed_in_one_with_its_rank(monkeypatch):
    assert asked.everywhere(of_two(monkeypatch, (None, [2])), lambda: 1) == [1, 2]
    with pytest.raises(CamtrainError, match="rank 1: ValueError: too bright"):
        asked.everywhere(of_two(monkeypatch, ("ValueError: too bright", [])), lambda: 1)
    with pytest.raises(CamtrainError, match="rank 0: ValueError: too bright"):
        asked.everywhere(of_two(monkeypatch, (None, [2])), fails)
    with pytest.raises(ValueError, match="too bright"):
        asked.everywhere(SimpleNamespace(world_size=1, is_global_zero=True), fails)


def test_everywhere__loses_the_share_of_the_process_that_failed_where_that_is_wanted(monkeypatch):
    lost = []
    assert asked.everywhere(SimpleNamespace(world_size=1, is_global_zero=True), fails, lost.append) == []
    assert asked.everywhere(of_two(monkeypatch, (None, [2])), fails, lost.append) == [2]
    assert lost == ["ValueError: too bright", "rank 0: ValueError: too bright"]


def test_attempt__returns_what_the_call_does_and_tells_the_first_failure():
    undone = []
    attempt = asked.Attempt("Monitor", undo=lambda: undone.append(1))
    assert attempt(max, 1, 2) == 2
    with pytest.warns(UserWarning, match=r"Monitor failed in fails \(ValueError: too bright\); training goes on"):
        assert attempt(fails) is None
    attempt(fails)
    assert undone == [1, 1]


def test_say_once__says_each_thing_once():
    say_once = asked.SayOnce("Monitor")
    with pytest.warns(UserWarning, match=r"^Monitor guesses masks\.$"):
        say_once("guesses masks", key="guess", warn=True)
    say_once("guesses masks again", key="guess", warn=True)
