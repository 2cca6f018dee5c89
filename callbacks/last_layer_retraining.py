"""The last layer fitted anew when training ends, on images whose cue was swapped."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from camtrain.callbacks._conditions import is_due, not_logged
from camtrain.callbacks._lightning import (
    Attempt,
    Callback,
    LightningModule,
    Trainer,
    builds_later,
    callable_network,
    gathered,
    network_of,
    rank_zero_info,
    rank_zero_warn,
    untouched,
)
from camtrain.checks import check_arguments
from camtrain.data.batches import read_batch
from camtrain.errors import CamtrainError, ConfigurationError
from camtrain.reliance import Collector, Pace, Pool, find_head, retrain_last_layer
from camtrain.sinks import Scalars
from camtrain.sinks.run import Run
from camtrain.swaps.looks import LOOKS, look_of

CHECKPOINT = "last_layer.ckpt"
_COVERED = 0.999  # of the frame: a patch in a corner is background enough to exchange


class LastLayerRetraining(Callback):
    """Fits the network's last layer anew when training ends, on annotated training images whose cue was swapped.

    Everything before the last layer stays. The result is what `test` after `fit` sees, and the checkpoint
    `last_layer.ckpt` beside the run's own files; earlier checkpoints stay as they are. Source: Kirichenko et al. 2023,
    "Last layer re-training is sufficient for robustness to spurious correlations", with the detector's interventions in
    place of group labels; see `camtrain.reliance.retrain_last_layer`.

    Args:
        when: a condition on a logged metric at the end, "reliance/flagged" (above 0); None for always.
        cues: which to swap: "background" (its tint and brightness with it), "tint", "brightness", "sharpness".
        images_per_class: so many annotated training images of each class are kept, of one epoch, in memory on the CPU.
        max_images: so many in all.
        donor_classes: with how many classes' cues each image is shown.
        head: dotted name of the last layer, where it is not the last linear layer of the network.
        model: dotted name of the submodule that maps images to logits, where the module itself does not.
        batch_adapter: for batches of an unusual shape.
        seed: of donors and of what is held out.

    Logged at the end: `reliance/last_layer_before` and `reliance/last_layer_after`, the accuracy of the worst pair of a
    class and a donor's class, on training images held out from the refit.

    Raises ConfigurationError for arguments out of range, and when fitting starts for a head that is no linear layer.
    What fails at the end is reported and leaves the network as it was.

    >>> LastLayerRetraining(cues=["sharpness"]).when
    'reliance/flagged'
    """

    def __init__(
        self,
        when: str | None = "reliance/flagged",
        cues: Sequence[str] = ("background",),
        images_per_class: int = 100,
        max_images: int = 2000,
        donor_classes: int = 8,
        head: str | None = None,
        model: str | None = None,
        batch_adapter: Callable[..., Any] | None = None,
        seed: int = 0,
    ) -> None:
        check_arguments(**locals())
        unknown = [cue for cue in cues if cue not in ("background", *LOOKS) and look_of(cue) is None]
        if unknown or not cues:
            raise ConfigurationError(f"cues are some of background, {', '.join(LOOKS)}; got {list(cues)}.")
        self.when, self.cues = when, tuple(cues)
        self.images_per_class, self.max_images, self.donor_classes = images_per_class, max_images, donor_classes
        self.head, self.model, self.batch_adapter, self.seed = head, model, batch_adapter, seed
        self._collector: Collector | None = None
        self._epoch = 0
        self._attempt = Attempt("LastLayerRetraining")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the layer, where it is built already."""
        if stage == "fit" and not builds_later(pl_module):
            find_head(callable_network(network_of(pl_module, self.model)), self.head)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to collect."""
        share = -(-self.images_per_class // trainer.world_size)
        self._collector = Collector(
            per_class=share, most=-(-self.max_images // trainer.world_size), least=2, covered=_COVERED
        )
        self._epoch = trainer.current_epoch

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the annotated images that are wanted, in one epoch: an image seen twice would hold out nothing."""
        if self._collector is not None and trainer.current_epoch == self._epoch:
            self._attempt(self._collect, batch)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Retrain, if there is reason to."""
        if self.should_retrain(trainer):
            self._attempt(self._retrain, trainer, pl_module)

    def should_retrain(self, trainer: Trainer) -> bool:
        """Whether the condition holds; a metric that nobody logged is reported."""
        if self.when is None:
            return True
        missing = not_logged(trainer, [self.when])
        if missing:
            rank_zero_warn(
                f"LastLayerRetraining waits for {missing[0]!r}, which nothing has logged, and leaves the network as it "
                "is: add RelianceDetector, or set when to null."
            )
        due = is_due(self.when, trainer.current_epoch, trainer.callback_metrics)
        return trainer.strategy.reduce_boolean_decision(due, all=False)

    def _collect(self, batch: Any) -> None:
        read = read_batch(batch, self.batch_adapter)
        if self._collector is None or read.labels is None or read.masks is None:
            raise ConfigurationError("the training batches hold no labels and masks")
        self._collector.add(read.images, read.labels, read.masks)

    def _retrain(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pool = self._pool(trainer)
        if pool is None:
            raise CamtrainError("no annotated training image was seen")
        network = callable_network(network_of(pl_module, self.model))
        with untouched(trainer, pl_module):
            found = retrain_last_layer(
                network,
                pool,
                cues=self.cues,
                head=self.head,
                arms=self.donor_classes,
                pace=Pace(device=pl_module.device),
                seed=self.seed,
            )
        rank_zero_info(
            f"LastLayerRetraining: {found.head} on {found.images} images; worst pair of classes"
            f" {100 * found.worst_before:.0f} % before, {100 * found.worst_after:.0f} % after."
        )
        numbers = {"reliance/last_layer_before": found.worst_before, "reliance/last_layer_after": found.worst_after}
        last = max(0, trainer.current_epoch - 1)  # the next one is counted already
        run = Run.of(trainer)
        run.write(Scalars(numbers, last, trainer.global_step, logged=False))
        run.flush()
        trainer.save_checkpoint(checkpoint_path(trainer))

    def _pool(self, trainer: Trainer) -> Pool | None:
        """The images of all processes."""
        own = None if self._collector is None else self._collector.pool()
        found = [pool for pool in gathered(trainer, [own]) if pool is not None]
        if not found:
            return None
        return Pool(*(torch.cat([getattr(pool, name) for pool in found]) for name in ("images", "labels", "masks")))


def checkpoint_path(trainer: Trainer) -> Path:
    """Where the retrained network is kept: beside the run's own files."""
    return Run.of(trainer).home / "checkpoints" / CHECKPOINT
