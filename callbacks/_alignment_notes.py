"""What alignment tells its user: where it does nothing, and why."""

from camtrain.callbacks._alignment_batch import Census
from camtrain.callbacks._alignment_start import parse_condition
from camtrain.callbacks._lightning import Trainer, rank_zero_warn


class Notes:
    """Warnings of one fit, each of them once.

    >>> notes = Notes()
    >>> notes.count(8, Census(annotated=2, all_annotated=2))
    >>> notes.end_epoch()
    """

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._metric_missed = False
        self._images = self._annotated = self._empty = 0

    def tell(self, what: str) -> None:
        """Warn, unless that was said before; what follows the callback's name."""
        if what not in self._told:
            self._told.add(what)
            rank_zero_warn(f"AttentionAlignment {what}.")

    def count(self, images: int, census: Census) -> None:
        """Take a batch into the epoch, all processes' images."""
        self._images += images
        self._annotated += census.all_annotated
        self._empty += census.all_empty

    def end_epoch(self) -> None:
        """Tell where an epoch had nothing to align with."""
        images, annotated, empty = self._images, self._annotated, self._empty
        self._images = self._annotated = self._empty = 0
        if images and not annotated:
            self.tell(f"saw no annotation on any of the {images} images of an epoch: it does nothing")
        elif empty > annotated / 2:
            self.tell(
                f"saw {annotated} masks in an epoch, {empty} of them empty. An empty mask says that nothing may "
                "matter; give an image without an annotation a mask of all -1"
            )

    def look_ahead(self, trainer: Trainer, start_when: int | str) -> None:
        """Tell of an epoch that will not come."""
        epochs = trainer.max_epochs
        if not isinstance(start_when, str) and epochs is not None and 0 < epochs <= start_when:
            self.tell(f"begins in epoch {start_when}, and training ends after {epochs}: it will do nothing")

    def after_validation(self, trainer: Trainer, conditions: list[str]) -> None:
        """Tell of a metric that it waits for and nobody logs; the first time only."""
        missed = _not_logged(trainer, conditions)
        if missed and not self._metric_missed:
            self._metric_missed = True
            known = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
            self.tell(f"waits for {missed[0]!r}, which the validation did not log; known: {known}")

    def after_fit(self, trainer: Trainer, start_when: int | str) -> None:
        """Tell of a condition that could not come true, to be asked where it never began."""
        if isinstance(start_when, str) and not self._metric_missed and _not_logged(trainer, [start_when]):
            self.tell(f"never began: nothing logged {start_when!r}")


def _not_logged(trainer: Trainer, conditions: list[str]) -> list[str]:
    return [name for name, _, _ in map(parse_condition, conditions) if name not in trainer.callback_metrics]
