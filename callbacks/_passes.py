"""One notion of a pass over held-out data: whose turn it is, what it reads, and what its images are called."""

import hashlib
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch.utils.data import DistributedSampler, SequentialSampler

from camtrain.callbacks._lightning import Trainer
from camtrain.data.batches import Batch, class_names
from camtrain.errors import ConfigurationError
from camtrain.packages import bases

# Whose turn it is.


def is_due_pass(trainer: Trainer, every_n: int) -> bool:
    """Whether a pass counts: each n-th validation of a fit and its last one, and all of `validate` and `test`."""
    if trainer.sanity_checking:
        return False
    return trainer.state.fn != "fit" or validation_index(trainer) % every_n == 0 or is_last_validation(trainer)


def validation_index(trainer: Trainer) -> int:
    """How many validations of the fit came before the one that runs: by epochs, by steps, or several in an epoch.

    0 for all of them where validations go by the clock.
    """
    loop, every, batches = trainer.fit_loop.epoch_loop, trainer.check_val_every_n_epoch, _batches_between(trainer)
    if every is None:  # by steps, whatever the epochs
        return max(0, (loop.total_batch_idx + 1) // batches - 1) if batches else 0
    earlier = max(0, (trainer.current_epoch + 1) // every - 1)
    if not batches or not math.isfinite(trainer.num_training_batches):
        return earlier
    within = max(0, (loop.batch_idx + 1) // batches - 1)
    return earlier * max(1, int(trainer.num_training_batches) // batches) + within


def is_last_validation(trainer: Trainer) -> bool:
    """Whether no further validation comes in this fit, as far as its length is known."""
    every, batches, length = trainer.check_val_every_n_epoch, _batches_between(trainer), trainer.num_training_batches
    seen = trainer.fit_loop.epoch_loop.batch_idx + 1
    until_next = batches
    if every is not None and not (batches and seen + batches <= length):  # the next one is in another epoch
        if trainer.max_epochs is not None and 0 < trainer.max_epochs < trainer.current_epoch + 1 + every:
            return True
        if math.isfinite(length):
            until_next = max(0, int(length) - seen) + (every - 1) * int(length) + (batches or int(length))
    steps = max(1, until_next // trainer.accumulate_grad_batches)
    return 0 < trainer.max_steps < trainer.global_step + steps


def _batches_between(trainer: Trainer) -> int:
    """Training batches from one validation to the next within an epoch; 0 where that is not known."""
    between = getattr(trainer, "val_check_batch", None)
    return int(between) if between is not None and math.isfinite(between) else 0


# What it reads.


def stage_of(trainer: Trainer) -> str:
    """`"test"` or `"val"`: which of the two evaluation data sets is running."""
    return "test" if trainer.testing else "val"


def logged_names(trainer: Trainer, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by the names they are logged under: `test` has names of its own, as `test/cam/...`."""
    return {f"test/{name}" if trainer.testing else name: value for name, value in values.items()}


def evaluation_loader(trainer: Trainer, dataloader_idx: int = 0) -> Any:
    """One of the dataloaders of the pass that runs; ConfigurationError where there are fewer."""
    loaders = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
    loaders = getattr(loaders, "flattened", loaders)  # a CombinedLoader
    each = list(loaders.values()) if isinstance(loaders, Mapping) else loaders
    each = list(each) if isinstance(each, (list, tuple)) else [each]
    if dataloader_idx >= len(each):
        raise ConfigurationError(
            f"dataloader_idx={dataloader_idx} counts from 0, and there are {len(each)} dataloaders to "
            f"{'test' if trainer.testing else 'validate'} on: give one below {len(each)}."
        )
    return each[dataloader_idx]


def evaluation_dataset(trainer: Trainer, dataloader_idx: int = 0) -> Any:
    """The dataset behind an evaluation dataloader, or None."""
    return getattr(evaluation_loader(trainer, dataloader_idx), "dataset", None)


def expected_images(trainer: Trainer, dataloader_idx: int = 0) -> int | None:
    """How many images this process will see in the pass, or None where that is not known."""
    loader = evaluation_loader(trainer, dataloader_idx)
    batches = (trainer.num_test_batches if trainer.testing else trainer.num_val_batches)[dataloader_idx]
    size = getattr(loader, "batch_size", None) or getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
    limits = [int(batches) * int(size)] if size is not None and math.isfinite(batches) else []
    for part, processes in ((_sampler(loader), 1), (getattr(loader, "dataset", None), trainer.world_size)):
        with suppress(TypeError, NotImplementedError):
            return min(math.ceil(len(part) / processes), *limits, math.inf)  # type: ignore[arg-type, return-value]
    return min(limits, default=None)


def _sampler(loader: Any) -> Any:
    """What decides the order: that of the batches, where these are sampled by something of the user's own."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    return (
        getattr(loader, "sampler", None) if batch_sampler is None else getattr(batch_sampler, "sampler", batch_sampler)
    )


def names_of(trainer: Trainer, num_classes: int, dataloader_idx: int = 0) -> list[str]:
    """Class names from the data module, else from the dataset (what a subset is of, too), else numbered."""
    datamodule = getattr(trainer, "datamodule", None)
    if hasattr(datamodule, "class_names") or hasattr(datamodule, "classes"):
        return class_names(datamodule, num_classes)
    dataset = evaluation_dataset(trainer, dataloader_idx)
    while dataset is not None and not (hasattr(dataset, "class_names") or hasattr(dataset, "classes")):
        dataset = next(iter(getattr(dataset, "datasets", ())), None) or getattr(dataset, "dataset", None)
    return class_names(dataset, num_classes)


def group_names_of(trainer: Trainer) -> list[str]:
    """Group names from the data module; none where it has none."""
    return [str(name) for name in getattr(getattr(trainer, "datamodule", None), "group_names", None) or []]


def denormalizer_of(trainer: Trainer) -> Callable[..., Any] | None:
    """The data module's `denormalize`, or None."""
    return getattr(getattr(trainer, "datamodule", None), "denormalize", None)


# What its images are called.


def samples_of(trainer: Trainer, batch: Batch, first: int, dataloader_idx: int = 0) -> list[str]:
    """The names of a batch's images, from pass to pass the same: their ids, their places, or else their content.

    `first` is how many images this process has seen in the pass.
    """
    if batch.ids is not None:
        return batch.ids
    stage = stage_of(trainer)
    if not keeps_its_order(trainer, dataloader_idx):
        return [f"{stage}-{name}" for name in by_content(batch)]
    return [f"{stage}-{_place(trainer, row, dataloader_idx)}" for row in range(first, first + len(batch))]


def keeps_its_order(trainer: Trainer, dataloader_idx: int = 0) -> bool:
    """Whether a place in the pass of all processes is the same image each time: not where the loader may shuffle."""
    sampler = _sampler(evaluation_loader(trainer, dataloader_idx))
    if isinstance(sampler, DistributedSampler):
        return not sampler.shuffle
    if trainer.world_size > 1:
        return False  # nobody knows which images a process reads: all of them, or a part of the user's own
    known = sampler is None or type(sampler).__name__ == "_InfiniteConstantSampler"  # of a stream
    return known or isinstance(sampler, SequentialSampler)


def by_content(batch: Batch) -> list[str]:
    """Names made of the pixels, the same for the same image in every pass."""
    pixels = batch.images.detach().cpu().contiguous().view(torch.uint8)
    return [hashlib.sha1(image.numpy().tobytes(), usedforsecurity=False).hexdigest()[:12] for image in pixels]


def _place(trainer: Trainer, row: int, dataloader_idx: int) -> int:
    """Which image of the data set a row of this process is; those that pad the last round are the first ones again."""
    place = row * trainer.world_size + trainer.global_rank
    if trainer.world_size > 1:
        with suppress(TypeError, NotImplementedError):
            return place % max(1, len(evaluation_dataset(trainer, dataloader_idx)))
    return place


# Whose weights.


def go_first(trainer: Trainer, callback: Any) -> None:
    """Go before those callbacks that swap the weights for a validation: they take them back when it ends, in turn.

    What is asked of the network at the end of a pass is then asked of the weights that were validated.
    """
    others = [each for each in trainer.callbacks if each is not callback]  # type: ignore[attr-defined]
    swapping = [place for place, each in enumerate(others) if swaps_weights(each)]
    if swapping and swapping[0] < trainer.callbacks.index(callback):  # type: ignore[attr-defined]
        others.insert(swapping[0], callback)
        trainer.callbacks = others  # type: ignore[attr-defined]


def swaps_weights(callback: Any) -> bool:
    """Whether it does something both when a validation starts and when it ends, as averaging weights does."""
    own = [kind for kind in type(callback).__mro__[:-1] if kind not in bases("Callback")]
    if any(kind.__module__.startswith("camtrain.") or kind.__name__ == "ProgressBar" for kind in own):
        return False
    starts = ("on_validation_start", "on_validation_epoch_start")
    ends = ("on_validation_epoch_end", "on_validation_end")
    return all(any(hook in vars(kind) for kind in own for hook in hooks) for hooks in (starts, ends))
