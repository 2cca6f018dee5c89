"""How many twins a batch gets and what each counts, by how many images have been annotated so far."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_TWINS = 2.0


@dataclass
class Dose:
    """At most `share` of a batch, and on average `reuse` twins of an annotated image in an epoch.

    `weight` is that of a twin, as against an image, or "auto". `images` and `annotated` were seen since the start, over
    all processes.

    >>> dose = Dose("auto", share=0.5, reuse=10.0)
    >>> dose.see(100, annotated=1)
    >>> limit = dose.limit(32)
    >>> limit, round(dose.weight_of(limit, 32), 2)
    (4, 2.16)
    """

    weight: float | str
    share: float
    reuse: float
    images: int = 0
    annotated: int = 0

    def see(self, images: int, annotated: int) -> None:
        """Count a batch."""
        self.images += images
        self.annotated += annotated

    def limit(self, images: int) -> int:
        """How many twins a batch of so many images may get."""
        limit = self.share * images
        if self.images:
            limit = min(limit, max(1.0, self.reuse * self._expected(images)))
        return math.ceil(limit)

    def weight_of(self, limit: int, images: int) -> float:
        """Of each of so many twins of a batch: by default twice as much where as many of its images are annotated."""
        if not isinstance(self.weight, str):
            return self.weight
        return _TWINS * (1 + min(1.0, self._expected(images) / limit))

    def state(self) -> list[int]:
        """For a checkpoint."""
        return [self.images, self.annotated]

    def restore(self, state: Sequence[int]) -> None:
        """From a checkpoint."""
        self.images, self.annotated = state

    def _expected(self, images: int) -> float:
        """How many of so many images are annotated; all of them as long as none was seen."""
        return images * (self.annotated / self.images if self.images else 1.0)
