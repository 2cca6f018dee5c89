"""Pools of images that nobody annotated, with guessed masks."""

import torch

from camtrain.errors import ConfigurationError
from camtrain.reliance.pool import usable
from camtrain.reliance.records import Pool, Progress
from camtrain.segmenters import Outlines, Segmenter, segmented

__all__ = ["Guesser"]


class Guesser:
    """Masks for pools that have none, by ``segmenter`` or `guess_masks`; an image is not segmented twice.

    What a segmenter is, and what it must return, is told at `Outlines`.

    >>> guesser = Guesser(lambda images: (images[:, 0] > 0.5).float())
    >>> images = torch.zeros(1, 3, 4, 4)
    >>> images[..., 1:3, 1:3] = 1
    >>> guesser(Pool(images, torch.tensor([0]), torch.full((1, 4, 4), -1.0))).masks.sum().item()
    4.0
    """

    def __init__(self, segmenter: Segmenter | str | None = None) -> None:
        if isinstance(segmenter, str) and segmenter != "guess":
            raise ConfigurationError(
                f"Who looks for cues makes masks by a function or by segmenter='guess' (None is the same); got "
                f"{segmenter!r}, which AttentionAlignment takes."
            )
        given = None if isinstance(segmenter, str) else segmenter
        self.is_given = given is not None  # by the user
        self.outlines = Outlines(given)

    def __call__(
        self,
        pool: Pool,
        *,
        batch_size: int = 64,
        device: torch.device | str = "cpu",
        progress: Progress = lambda what, done, total: None,
    ) -> Pool:
        """The pool with masks, without the images of which nothing usable was found."""
        if not len(pool.images):
            return pool
        masks = self.outlines.of(pool.images, batch_size=batch_size, device=device, progress=progress)
        fit = usable(masks)
        return Pool(pool.images[fit], pool.labels[fit], masks[fit])

    def forget(self) -> None:
        """Drop what was not asked for since the last time."""
        self.outlines.forget()

    def segment(self, images: torch.Tensor) -> torch.Tensor:
        """The segmenter's masks, checked."""
        return segmented(self.outlines.segmenter, images)
