"""Training images that lend in a round outside of `fit`: read from where training would take them."""

from collections.abc import Callable
from typing import Any

import torch

from camtrain.callbacks._lightning import LightningModule, Trainer, rank_zero_warn, untouched
from camtrain.callbacks._reliance_collecting import Collecting
from camtrain.callbacks._reliance_images import Images
from camtrain.callbacks._reliance_round import progress_bar
from camtrain.packages import overrides, part_of

_NOT_READ = (
    "RelianceDetector could not read training images ({error}), so that those of {stage} lend their backgrounds. Where "
    "classes go with these less than in training, that hides what a class leans on."
)


def collect_lenders(
    trainer: Trainer, pl_module: LightningModule, collecting: Collecting, new: Callable[[], Images], most: int
) -> None:
    """Up to `most` images of the data module's training batches, else of the module's own, each process its part.

    Nothing happens where neither has any, or where training images lend already. Whatever goes wrong is told, and then
    the images that are judged lend.
    """
    source = _source(trainer, pl_module)
    if source is None or collecting.lenders is not None or not collecting.lend:
        return
    collecting.begin_training_epoch(new)
    try:
        with untouched(trainer, pl_module), progress_bar(trainer) as progress:
            torch.manual_seed(0)  # the order of a shuffled set: the same images each time
            seen = 0
            combined = part_of(trainer, "utilities.CombinedLoader")
            for index, (batch, _, _) in enumerate(iter(combined(source.train_dataloader(), "max_size_cycle"))):
                if index % trainer.world_size == trainer.global_rank:
                    read = collecting.add_training(_as_in_training(pl_module, batch))
                    progress("training images that lend", read, most)
                    seen += read
                if seen >= most or not collecting.lends:
                    break
    except Exception as error:
        stage = "test" if trainer.testing else "validate"
        rank_zero_warn(_NOT_READ.format(error=f"{type(error).__name__}: {error}", stage=stage))


def _source(trainer: Trainer, pl_module: LightningModule) -> Any:
    candidates = (getattr(trainer, "datamodule", None), pl_module)
    return next((one for one in candidates if one is not None and overrides(one, "train_dataloader")), None)


def _as_in_training(pl_module: LightningModule, batch: Any) -> Any:
    """The batch as a training step would get it: on the device, after the hooks of the transfer."""
    return pl_module._apply_batch_transfer_handler(pl_module._on_before_batch_transfer(batch))
