"""The images that a round of detection judges, and those that lend: annotated ones where there are any."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from camtrain.callbacks._lightning import Trainer, everywhere
from camtrain.reliance import Collector, Guesser, Pool
from camtrain.reliance.interventions import Progress


class Images:
    """What batches held: the annotated images, and until the first of those the others.

    `collector(annotated=...)` makes the two collectors.
    """

    def __init__(self, collector: Callable[..., Collector]) -> None:
        self.annotated = collector(annotated=True)
        self.bare: Collector | None = collector(annotated=False)

    def add(self, images: Tensor, labels: Tensor, masks: Tensor | None) -> None:
        """Copy what is wanted of a batch."""
        if masks is not None:
            self.annotated.add(images, labels, masks)
        if len(self.annotated):
            self.bare = None
        elif self.bare is not None:
            self.bare.add(images, labels, masks)

    def chosen(self, guessed: bool) -> Collector:
        """The collector that is asked for."""
        return self.bare if guessed and self.bare is not None else self.annotated


@dataclass(frozen=True)
class Chosen:
    """What one process brings to a round; `guessed` says that the masks of the judged images are guesses."""

    pool: Pool | None
    training: Pool | None
    guessed: bool
    left_out: frozenset[int]
    batch_size: int


def choose_images(
    trainer: Trainer,
    images: Images | None,
    lenders: Images | None,
    guesser: Guesser,
    device: torch.device,
    progress: Progress,
) -> Chosen:
    """The pools of a round: annotated images where any process has some, else the others with guessed masks.

    Training images with guessed masks lend to guesses only. No process waits for one that fails.
    """
    annotated = everywhere(trainer, lambda: [one is not None and len(one.annotated) > 0 for one in (images, lenders)])
    guessed, training_guessed = (not any(each[kind] for each in annotated) for kind in (0, 1))

    def pool_of(held: Images | None, guess: bool, batch_size: int) -> Pool | None:
        pool = None if held is None else held.chosen(guess).pool()
        if pool is None or not guess:
            return pool
        return guesser(pool, batch_size=batch_size, device=device, progress=progress)

    def choose() -> Chosen:
        if images is None:
            return Chosen(None, None, guessed, frozenset(), 1)
        collector = images.chosen(guessed)
        size = max(1, collector.largest_batch)
        training = None if training_guessed and not guessed else pool_of(lenders, training_guessed, size)
        pool = pool_of(images, guessed, size)
        guesser.forget()
        return Chosen(pool, training, guessed, frozenset(collector.left_out), size)

    made: list[Chosen] = []
    everywhere(trainer, lambda: made.append(choose()))
    return made[0]
