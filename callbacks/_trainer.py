"""What callbacks ask of a Trainer and a module, in one place."""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn

from camtrain.cam import evaluating, is_compiled, unwrap
from camtrain.data.batches import class_names
from camtrain.errors import ConfigurationError
from camtrain.sinks.loggers import run_folder


def stage_of(trainer: pl.Trainer) -> str:
    """`"test"` or `"val"`: which of the two evaluation data sets is running."""
    return "test" if trainer.testing else "val"


def is_due_pass(trainer: pl.Trainer, every_n_epochs: int) -> bool:
    """Whether a pass counts: each n-th epoch of a fit and its last one, and all of `validate` and `test`."""
    if trainer.sanity_checking:
        return False
    last = trainer.max_epochs is not None and trainer.current_epoch + 1 == trainer.max_epochs
    return trainer.state.fn != "fit" or trainer.current_epoch % every_n_epochs == 0 or last


def mean_over_processes(trainer: pl.Trainer, values: Tensor | None) -> list[float] | None:
    """The mean over those processes that have values `(2,)`, the same in all of them; None where none has."""
    if trainer.world_size == 1:
        return None if values is None else values.tolist()
    device = trainer.strategy.root_device
    found = torch.zeros(3, device=device) if values is None else torch.cat([values.float(), values.new_ones(1)])
    *sums, processes = trainer.strategy.reduce(found, reduce_op="sum").tolist()
    return [total / processes for total in sums] if processes else None


def run_place(trainer: pl.Trainer) -> Path:
    """The folder of the run's own files; what `validate` or `test` writes lies in a folder of that name inside it."""
    folder = run_folder(trainer)
    return folder if trainer.state.fn in (None, "fit") else folder / str(trainer.state.fn.value)


def builds_later(pl_module: pl.LightningModule) -> bool:
    """Whether submodules may appear after the callbacks' setup: in the module's `setup` or `configure_model`."""
    kind = type(pl_module)
    return kind.setup is not pl.LightningModule.setup or kind.configure_model is not pl.LightningModule.configure_model


def network_of(pl_module: pl.LightningModule, model: str | None) -> nn.Module:
    """The module itself, or its submodule of a dotted name; ConfigurationError where there is none."""
    if model is None:
        return pl_module
    try:
        return unwrap(pl_module.get_submodule(model))
    except AttributeError as error:
        children = ", ".join(name for name, _ in pl_module.named_children())
        raise ConfigurationError(
            f"model={model!r} is no submodule of {type(pl_module).__name__}, which has: {children}."
        ) from error


def callable_network(network: nn.Module) -> nn.Module:
    """The module itself, or its only child with parameters where it has no forward of its own."""
    if type(network).forward not in (nn.Module.forward, pl.LightningModule.forward):
        return network
    learned = [child for child in network.children() if any(True for _ in child.parameters())]
    if len(learned) == 1:
        return learned[0]
    raise ConfigurationError(
        f"{type(network).__name__} has no forward method to find its layers with: pass model='name' of the submodule "
        f"that maps images to logits; it has {', '.join(name for name, _ in network.named_children())}."
    )


def evaluation_dataset(trainer: pl.Trainer) -> Any:
    """The dataset behind the first evaluation dataloader, or None."""
    loaders = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
    first = loaders[0] if isinstance(loaders, (list, tuple)) and loaders else loaders
    return getattr(first, "dataset", None)


def expected_images(trainer: pl.Trainer) -> int | None:
    """How many images this process will see in the pass, or None where that is not known."""
    try:
        return math.ceil(len(evaluation_dataset(trainer)) / trainer.world_size)
    except TypeError:
        return None


def names_of(trainer: pl.Trainer, num_classes: int) -> list[str]:
    """Class names from the data module, else from the dataset, else numbered."""
    datamodule = getattr(trainer, "datamodule", None)
    named = hasattr(datamodule, "class_names") or hasattr(datamodule, "classes")
    return class_names(datamodule if named else evaluation_dataset(trainer), num_classes)


def group_names_of(trainer: pl.Trainer) -> list[str]:
    """Group names from the data module; none where it has none."""
    return [str(name) for name in getattr(getattr(trainer, "datamodule", None), "group_names", None) or []]


def denormalizer_of(trainer: pl.Trainer) -> Callable[..., Any] | None:
    """The data module's `denormalize`, or None."""
    return getattr(getattr(trainer, "datamodule", None), "denormalize", None)


def gathered(trainer: pl.Trainer, items: list[Any]) -> list[Any]:
    """The items of all processes in one list, the same on each."""
    if trainer.world_size == 1:
        return items
    parts: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(parts, items)
    return [item for part in parts for item in part]


def runs_compiled(pl_module: pl.LightningModule) -> bool:
    """Whether it or a part of it runs under `torch.compile`."""
    whole = getattr(pl_module, "_compiler_ctx", None) is not None  # Lightning's mark on a compiled LightningModule
    return whole or is_compiled(pl_module)


@contextmanager
def untouched(trainer: pl.Trainer, pl_module: pl.LightningModule) -> Iterator[None]:
    """Evaluation mode without gradients in the trainer's precision; modes and every random state restored."""
    with ExitStack() as stack:
        stack.enter_context(evaluating(pl_module))
        stack.enter_context(torch.no_grad())
        stack.enter_context(isolate_rng())
        if runs_compiled(pl_module):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(trainer.precision_plugin.forward_context())
        yield
