"""All that is asked of a Trainer and a module, of either Lightning package; and what a callback does that must not end
the training it watches.
"""

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from torch import nn

from camtrain.cam import evaluating, is_compiled
from camtrain.cam.ownership import part_named
from camtrain.errors import CamtrainError, ConfigurationError
from camtrain.loading import require_whole
from camtrain.packages import joined, overrides, part_of

if TYPE_CHECKING:
    from pytorch_lightning import Callback, LightningModule, Trainer
else:
    Callback = joined("Callback")
    Trainer = LightningModule = Any  # of either package

__all__ = ["Callback", "LightningModule", "Trainer", "rank_zero_info", "rank_zero_warn"]

T = TypeVar("T")


# What a callback does.


class Attempt:
    """Calls that may fail: the first failure is told, with its rank where there are several, and every one is survived.

    Args:
        owner: the callback, as the message names it.
        undo: called after each failure.

    >>> attempt = Attempt("Monitor")
    >>> attempt(max, 1, 2)
    2
    """

    def __init__(self, owner: str, undo: Callable[[], None] | None = None) -> None:
        self.owner, self.undo = owner, undo
        self.failed = False

    def __call__(self, act: Callable[..., T], *args: Any, **kwargs: Any) -> T | None:
        """What the call returns; None after a failure."""
        try:
            return act(*args, **kwargs)
        except Exception as error:
            if self.undo is not None:
                self.undo()
            name = getattr(act, "__name__", type(act).__name__).strip("_")
            self.report(f"{name}{_of_rank()} ({type(error).__name__}: {error})")
            return None

    def report(self, failure: str) -> None:
        """Tell a failure, if it is the first one."""
        if not self.failed:
            self.failed = True
            warnings.warn(
                f"{self.owner} failed in {failure}; training goes on, and further failures are not reported.",
                stacklevel=3,
            )


class SayOnce:
    """Tells each thing once, on rank zero, under the callback's name.

    >>> say_once = SayOnce("Monitor")
    >>> say_once("watches layer 'net.4'")
    """

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.keys: set[str] = set()

    def __call__(self, text: str, *, key: str | None = None, warn: bool = False) -> None:
        """Tell a text, unless its key (by default itself) was told before."""
        if (key or text) not in self.keys:
            self.keys.add(key or text)
            (rank_zero_warn if warn else rank_zero_info)(f"{self.owner} {text}.")


def _of_rank() -> str:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    several = distributed and torch.distributed.get_world_size() > 1
    return f" on rank {torch.distributed.get_rank()}" if several else ""


def tell_of_cut_checkpoint(trainer: Trainer) -> None:
    """Where Lightning could not read the checkpoint to go on from since it was cut short: that, and another one."""
    path = getattr(trainer, "ckpt_path", None)
    if path is not None and "://" not in str(path):
        try:
            require_whole(Path(path))
        except ConfigurationError as error:
            rank_zero_warn(str(error))


# Processes.


def gathered(trainer: Trainer, items: list[Any]) -> list[Any]:
    """The items of all processes in one list, the same on each. What may fail goes through `everywhere`."""
    if trainer.world_size == 1:
        return items
    parts: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(parts, items)
    return [item for part in parts for item in part]


def everywhere(trainer: Trainer, compute: Callable[[], T], lose: Callable[[str], None] | None = None) -> list[T]:
    """The results of all processes in the order of their ranks, the same list on each.

    A process that fails takes part with its failure, so that nobody waits for it. The failure, with its rank, is raised
    in all processes; with `lose` the first process hands it to that, and the list holds what the others have.

    Raises CamtrainError where a process failed; in one process the failure itself.
    """
    failure: Exception | None = None
    result: list[T] = []
    try:
        result = [compute()]
    except Exception as error:
        if trainer.world_size == 1 and lose is None:
            raise
        failure = error
    text = None if failure is None else f"{type(failure).__name__}: {failure}"
    shares = gathered(trainer, [(text, result)])
    for rank, (text, _) in enumerate(shares):
        if text is not None:
            text = f"rank {rank}: {text}" if trainer.world_size > 1 else text
            if lose is None:
                raise CamtrainError(text) from failure
            if trainer.is_global_zero:
                lose(text)
    return [each for _, share in shares for each in share]


# Training images, outside of a fit; and who waits for a number.


def has_training_batches(trainer: Trainer, pl_module: LightningModule) -> bool:
    """Whether the data module or the module says where training images are."""
    return _training_source(trainer, pl_module) is not None


def training_batches(trainer: Trainer, pl_module: LightningModule) -> Iterator[Any]:
    """This process's part of the training batches, as a step would get them, outside of a fit; in the same order."""
    torch.manual_seed(0)
    loader = _training_source(trainer, pl_module).train_dataloader()
    combined = part_of(trainer, "utilities.CombinedLoader")(loader, "max_size_cycle")
    for index, (batch, _, _) in enumerate(iter(combined)):
        if index % trainer.world_size == trainer.global_rank:
            yield pl_module._apply_batch_transfer_handler(pl_module._on_before_batch_transfer(batch))


def _training_source(trainer: Trainer, pl_module: LightningModule) -> Any:
    sources = (getattr(trainer, "datamodule", None), pl_module)
    return next((each for each in sources if each is not None and overrides(each, "train_dataloader")), None)


def held_early_stopping(trainer: Trainer, prefix: str) -> list[str]:
    """What each EarlyStopping waits for that is not known yet: it neither ends the training for a NaN nor counts it."""
    held = []
    for callback in getattr(trainer, "callbacks", []):
        if str(getattr(callback, "monitor", "")).startswith(prefix) and hasattr(callback, "wait_count"):
            callback.check_finite, callback.wait_count = False, -1
            held.append(callback.monitor)
    return held


# A progress bar.


@contextmanager
def progress_bar(trainer: Trainer, owner: str) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on rank zero for what takes longer than three seconds, where the trainer shows bars at all."""
    hidden = not trainer.is_global_zero or trainer.progress_bar_callback is None
    tqdm = part_of(trainer, "callbacks.progress.tqdm_progress.Tqdm")
    with tqdm(unit=" images", delay=3, leave=False, disable=hidden) as bar:
        doing = ""

        def progress(what: str, done: int, total: int) -> None:
            nonlocal doing
            if what != doing:
                doing = what
                bar.reset(total)
                bar.set_description(f"{owner}: {what}", refresh=False)
            bar.update(done)

        yield progress


# The network.


def builds_later(pl_module: LightningModule) -> bool:
    """Whether submodules may appear after the callbacks' setup: in the module's `setup` or `configure_model`."""
    return overrides(pl_module, "setup") or overrides(pl_module, "configure_model")


def network_of(pl_module: LightningModule, model: str | nn.Module | None) -> nn.Module:
    """The module itself, or the part that `model` names or is. ConfigurationError where there is no such part."""
    return pl_module if model is None else part_named(pl_module, model)[1]


def key_of(model: str | nn.Module | None) -> str | None:
    """What a checkpoint knows a `model` by: its name, or its class."""
    return type(model).__name__ if isinstance(model, nn.Module) else model


def callable_network(network: nn.Module) -> nn.Module:
    """The module itself, or its only child with parameters where it has no forward of its own."""
    called = called_network(network)
    if called is not None:
        return called
    raise ConfigurationError(
        f"{type(network).__name__} has no forward method to find its layers with: pass model='name' of the submodule "
        f"that maps images to logits; it has {', '.join(name for name, _ in network.named_children())}."
    )


def called_network(network: nn.Module) -> nn.Module | None:
    """The same; None where several children have parameters, and the step alone knows which is called."""
    if overrides(network, "forward"):
        return network
    learned = [child for child in network.children() if any(True for _ in child.parameters())]
    return learned[0] if len(learned) == 1 else None


def runs_compiled(pl_module: LightningModule) -> bool:
    """Whether it or a part of it runs under `torch.compile`."""
    whole = getattr(pl_module, "_compiler_ctx", None) is not None  # Lightning's mark on a compiled LightningModule
    return whole or is_compiled(pl_module)


@contextmanager
def untouched(trainer: Trainer, pl_module: LightningModule) -> Iterator[None]:
    """Evaluation mode without gradients in the trainer's precision; modes and every random state restored."""
    with ExitStack() as stack:
        stack.enter_context(evaluating(pl_module))
        stack.enter_context(torch.no_grad())
        stack.enter_context(part_of(trainer, "utilities.seed.isolate_rng")())
        if runs_compiled(pl_module):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(trainer.precision_plugin.forward_context())
        yield


_MISSING = object()


class _Patched:
    """Calls `around(original, ...)`, and shows the original's signature to those who ask, as Lightning does.

    In a copy of the instance, or one that is loaded from a file, the method is the class's own again.
    """

    def __init__(self, instance: Any, name: str, around: Callable[..., Any]) -> None:
        self.instance, self.name, self.around = instance, name, around
        self.original: Callable[..., Any] = getattr(instance, name)
        self.before: Any = vars(instance).get(name, _MISSING)
        functools.update_wrapper(self, self.original, updated=())  # not the fields of a patch below

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.around(self.original, *args, **kwargs)

    @property
    def __code__(self) -> Any:
        return self.original.__code__

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = memo.get(id(self.instance))
        return self if copied is None else _own_method(copied, self.name)

    def __reduce__(self) -> Any:
        return _own_method, (self.instance, self.name)


def _own_method(instance: Any, name: str) -> Any:
    return getattr(type(instance), name).__get__(instance)


def patch(instance: Any, name: str, around: Callable[..., Any]) -> Callable[[], None]:
    """Have `instance.name(...)` call `around(original, ...)`; returns what puts the original back.

    Of several patches of one method any may be taken back first.
    """
    wrapper = _Patched(instance, name, around)

    def restore() -> None:
        above = vars(instance).get(name)
        if above is wrapper and wrapper.before is _MISSING:
            delattr(instance, name)
        elif above is wrapper:
            setattr(instance, name, wrapper.before)
        while isinstance(above, _Patched):
            if above.before is wrapper:
                above.original, above.before = wrapper.original, wrapper.before
            above = above.before

    setattr(instance, name, wrapper)
    return restore


@contextmanager
def patched(instance: Any, name: str, around: Callable[..., Any]) -> Iterator[None]:
    """`patch` for the duration of a block."""
    restore = patch(instance, name, around)
    try:
        yield
    finally:
        restore()
