"""A cue that was found, randomized in training."""

from collections.abc import Callable
from functools import partial
from typing import Any

from camtrain.callbacks._conditions import Span, never_begins, position, waits_for
from camtrain.callbacks._lightning import Callback, LightningModule, SayOnce, Trainer, patch
from camtrain.checks import check_arguments
from camtrain.data.batches import check_masks, read_batch, with_images
from camtrain.data.randomize import RandomizeCue
from camtrain.errors import ConfigurationError


class CueRandomization(Callback):
    """Gives training images the background, tint, brightness or sharpness of others, in any LightningModule.

    What `training_step` is given are changed images; labels, masks and the data themselves stay. See
    `camtrain.data.RandomizeCue` for what each cue does.

    Args:
        cue: "background" (needs masks for some images), "tint", "brightness", "sharpness", or as a verdict calls it.
        p: how likely an image is changed, in [0, 1].
        start_when: the epoch to begin at, or a condition on a logged metric: "reliance/flagged" (above 0). Once begun
            it stays on.
        batch_adapter: for batches of an unusual shape; it has to return the very tensor of images that the batch holds.

    Raises:
        ConfigurationError: at once for an unknown cue or `p` outside [0, 1]; in the first training step for batches
            without labels, or without masks where the background is to change.
        MaskError, BatchError: in the first training step, for what cannot be read.

    Logged each epoch: `randomization/active`, 0 before the start.

    >>> CueRandomization("background tint").transform.cue
    'background tint'
    """

    def __init__(
        self,
        cue: str = "background",
        p: float = 0.5,
        start_when: int | str = "reliance/flagged",
        batch_adapter: Callable[..., Any] | None = None,
    ) -> None:
        check_arguments(**locals())
        self.transform = RandomizeCue(cue, p)
        self.span, self.batch_adapter = Span(start_when), batch_adapter
        self._checked = self._loaded = False
        self._say_once = SayOnce("CueRandomization")
        self._restore: Callable[[], None] | None = None
        self._images, self._annotated = 0, False  # of this epoch, since it began

    @property
    def active(self) -> bool:
        """Whether it has begun."""
        return self.span.is_on

    @property
    def state_key(self) -> str:
        """Distinguishes the cues in one checkpoint."""
        return self._generate_state_key(cue=self.transform.cue)

    def state_dict(self) -> dict[str, Any]:
        """Whether it has begun."""
        return {"active": self.active}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.span.started_at = 0.0 if state_dict["active"] else None
        self._loaded = True

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin anew in another training, unless a state was loaded."""
        if stage == "fit" and trainer.global_step == 0 and not self._loaded:
            self.span.begin_anew()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put itself around `training_step`, outside of what other callbacks have put there."""
        self._checked = self._loaded = False
        self._restore = patch(pl_module, "training_step", partial(self._training_step, pl_module))
        never = "" if self.active else never_begins(trainer, self.span.start_when)
        if never:
            self._say_once(never, warn=True)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin, if the epoch or the metric says so; all processes alike."""
        self._images, self._annotated = 0, False
        self._begin(trainer, new_epoch=True)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell where an epoch had no object to put in front of another background."""
        if self.transform.look is None and self._images and not self._annotated:
            self._say_once(
                f"saw no annotation on any of the {self._images} images of an epoch: it changes nothing", warn=True
            )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin, if the metric that was just logged says so: where there are no epochs there is no other time."""
        if self.span.conditions and trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._begin(trainer, new_epoch=False)
            vain = "" if self.active else waits_for(trainer, self.span.conditions)
            if vain:
                self._say_once(vain, key="waits", warn=True)

    def _begin(self, trainer: Trainer, *, new_epoch: bool) -> None:
        if self.span.should_start(trainer):
            self.span.started_at = position(trainer, new_epoch=new_epoch)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the module as it was."""
        if self._restore is not None:
            self._restore()
        self._restore = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the module as it was."""
        self.on_train_end(trainer, pl_module)

    def _training_step(
        self, pl_module: LightningModule, original: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        pl_module.log(
            "randomization/active", float(self.active), on_step=False, on_epoch=True, sync_dist=True, batch_size=1
        )
        name, batch = (None, args[0]) if args else next(iter(kwargs.items()))
        if not self._checked:
            self._check(batch)
        if not self.active:
            return original(*args, **kwargs)
        changed = self._changed(batch)
        return original(changed, *args[1:], **kwargs) if name is None else original(**{**kwargs, name: changed})

    def _check(self, batch: Any) -> None:
        read = read_batch(batch, self.batch_adapter)
        with_images(batch, read.images, read.images)
        if read.images.ndim != 4:
            raise ConfigurationError(
                f"CueRandomization takes images (B, C, H, W); got {tuple(read.images.shape)}. Volumes, clips "
                "and signals have no background, tint or sharpness that it could lend."
            )
        if read.labels is None:
            raise ConfigurationError(
                "CueRandomization needs labels in the training batches: convert with batch_adapter."
            )
        if self.transform.look is None and read.masks is None:
            raise ConfigurationError(
                "CueRandomization of the background needs masks of the objects in the training batches: give (images, "
                "labels, masks) or a mapping with 'mask', or randomize 'tint', 'brightness' or 'sharpness'."
            )
        check_masks(read)
        self._checked = True

    def _changed(self, batch: Any) -> Any:
        read = read_batch(batch, self.batch_adapter)
        if read.labels is None:
            return batch
        self._images += len(read)
        if self.transform.look is None and read.masks is not None and not self._annotated:
            self._annotated = bool((read.masks >= 0).any())
        changed, _, _ = self.transform(read.images, read.labels, read.masks)
        return with_images(batch, read.images, changed)
