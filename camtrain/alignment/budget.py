"""How much of each term a batch gets: the weight that balances the penalty, how many twins, what each counts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_TWINS = 2.0
_ROUNDING = 1e-6
_STEEP = 4  # twins that are answered with half the loss of images are added a sixteenth as often
_KEPT = 0.9  # of the running means, at each measurement
_FIRST, _EVERY = 10, 10  # steps that are all measured, then each so many-th
_MOST = 100.0


def is_measured(step: int) -> bool:
    """Whether this step measures what the automatic weights go by."""
    return step < _FIRST or step % _EVERY == 0


@dataclass(frozen=True)
class Plan:
    """The weight of a twin, at most how many are added, and of which share of the images backgrounds are dealt.

    None are where `dealt` is None.
    """

    weight: float
    added: int
    dealt: float | None = None

    @property
    def tolerance(self) -> float:
        """Of evidence outside: 1 where all backgrounds are dealt, 0 where half or fewer are.

        The images that keep theirs go on teaching what lies there, and the penalty alone speaks against that.

        >>> [Plan(1.0, 0, dealt).tolerance for dealt in (None, 0.05, 0.5, 0.75, 1.0)]
        [0.0, 0.0, 0.0, 0.5, 1.0]
        """
        return max(0.0, 2 * self.dealt - 1) if self.dealt is not None else 0.0


@dataclass
class Dose:
    """At most `share` of a batch, and on average `reuse` twins of an annotated image in an epoch.

    `weight` is that of a twin, as against an image, or "auto". `images` and `annotated` were seen since the start, over
    all processes. `twins_loss` and `images_loss` are running means of the cross-entropy of added twins and of images:
    twins that are answered better than images are known by heart, and the better, the fewer are added by "auto".

    >>> dose = Dose("auto", share=0.5, reuse=10.0)
    >>> dose.plan(32, kin=0.25)
    Plan(weight=1.0, added=0, dealt=1.0)
    >>> dose.see(100, annotated=1)
    >>> dose.plan(32)
    Plan(weight=2.16, added=4, dealt=None)
    """

    weight: float | str
    share: float
    reuse: float
    images: int = 0
    annotated: int = 0
    twins_loss: float = 0.0
    images_loss: float = 0.0
    measured: int = 0

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

    def compare(self, twins_loss: float, images_loss: float) -> None:
        """Take a measurement into the running means; one that is not finite is left out."""
        if not (math.isfinite(twins_loss) and math.isfinite(images_loss)):
            return
        kept = min(_KEPT, self.measured / (self.measured + 1))
        self.twins_loss = kept * self.twins_loss + (1 - kept) * twins_loss
        self.images_loss = kept * self.images_loss + (1 - kept) * images_loss
        self.measured += 1

    @property
    def worth(self) -> float:
        """How much there is to learn from an added twin still, as against an image: in [0, 1]."""
        if not isinstance(self.weight, str) or self.twins_loss >= self.images_loss:
            return 1.0
        return (self.twins_loss / self.images_loss) ** _STEEP

    def plan(self, images: int, kin: float | None = None) -> "Plan":
        """What a batch of so many images gets, whose backgrounds are dealt anew where its `same_class_share` is given.

        Then so many twins are added as make up for the images that keep a background of their own class, so that
        nothing is left to be learnt from one: none where all are annotated. Where these would be more than the limit,
        each of the batch's twins weighs the more, up to what twins weigh where none are dealt.
        """
        if images == 0:
            return Plan(1.0, 0)
        limit, expected = self.limit(images), self._expected(images)
        most = _TWINS * (1 + min(1.0, expected / limit)) if isinstance(self.weight, str) else self.weight
        wanted = max(1.0, limit * self.worth)
        if kin in (None, 1):  # among images of one class no deal brings the background of another
            return Plan(most, math.ceil(wanted))
        dealt, other = expected * (1 - kin), (1 - kin) / kin
        added = math.ceil(min(wanted, (images - expected) * other) - _ROUNDING)
        share = expected / images
        if not isinstance(self.weight, str):
            return Plan(most, added, share)
        twins = dealt + added
        balanced = (images - dealt) * other / twins if twins > 0 else 1.0
        return Plan(min(most, max(1.0, balanced)), added, share)

    def state(self) -> list[float]:
        """For a checkpoint."""
        return [float(v) for v in (self.images, self.annotated, self.twins_loss, self.images_loss, self.measured)]

    def restore(self, state: Sequence[Any]) -> None:
        """From a checkpoint; an older one holds the counts alone."""
        images, annotated, self.twins_loss, self.images_loss, measured = [*state, 0.0, 0.0, 0][:5]
        self.images, self.annotated, self.measured = int(images), int(annotated), int(measured)

    def _expected(self, images: int) -> float:
        """How many of so many images are annotated; all of them as long as none was seen."""
        return images * (self.annotated / self.images if self.images else 1.0)


class Balance:
    """Running means of two squared gradient norms per image at the feature layer, and the weight that balances them.

    Both are measured where the penalty is read, at the activations: only the head is differentiated. Counted for one
    image each, they give the same weight whether all images of a batch are annotated or a few. Of the penalty's running
    mean the highest so far counts: a penalty that is nearly satisfied fades, and is not blown up again. Source: the
    idea of gradient normalization (Chen et al. 2018, GradNorm), with one fixed ratio and no training of the weight.

    >>> balance = Balance(0.5)
    >>> balance.add(task=4.0, penalty=1.0)
    >>> balance.weight
    1.0
    """

    def __init__(self, ratio: float) -> None:
        self.ratio = ratio
        self.measured = 0
        self._task = self._penalty = self._highest = 0.0

    @property
    def weight(self) -> float:
        """Of the penalty; 0 before the first measurement, at most 100."""
        if self._highest <= 0 or self._task <= 0:
            return 0.0
        return min(self.ratio * math.sqrt(self._task / self._highest), _MOST)

    def add(self, task: float, penalty: float) -> None:
        """Take a measurement of the squared norms into the means; one that is not finite is left out."""
        if not (0 <= task < float("inf") and 0 <= penalty < float("inf")) or task + penalty == 0:
            return
        kept = min(_KEPT, self.measured / (self.measured + 1))
        self._task = kept * self._task + (1 - kept) * task
        self._penalty = kept * self._penalty + (1 - kept) * penalty
        self._highest = max(self._highest, self._penalty)
        self.measured += 1

    def state(self) -> list[float]:
        """For a checkpoint."""
        return [float(self.measured), self._task, self._penalty, self._highest]

    def restore(self, state: Sequence[float]) -> None:
        """From a checkpoint."""
        self.measured, (self._task, self._penalty, self._highest) = int(state[0]), state[1:]
