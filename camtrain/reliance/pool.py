"""The images that a round judges, and those that lend: the first usable ones of every class, as batches pass."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from camtrain.data.batches import Adapter, Batch, check_masks, read_batch
from camtrain.errors import BatchError, CamtrainError, ConfigurationError
from camtrain.reliance.records import Pool
from camtrain.swaps.masks import solid

__all__ = ["Collecting", "Collector", "Count", "PoolCensus", "Pools", "Samples", "usable"]

Annotated = tuple[bool, bool]
_NO_LABELS = (
    "RelianceDetector needs labels in the validation batches, and the batch has none: convert with batch_adapter."
)


def usable(masks: Float[Tensor, "B H W"], *, most: float = 0.9) -> Bool[Tensor, " B"]:
    """Which masks mark an object with a background around it: annotated, not empty, not over ``most`` of the frame.

    >>> masks = torch.stack([torch.full((2, 2), -1.0), torch.zeros(2, 2), torch.eye(2), torch.ones(2, 2)])
    >>> usable(masks).tolist()
    [False, False, True, False]
    """
    share = masks.clamp(min=0).mean(dim=(1, 2))
    return (masks.flatten(1) >= 0).any(dim=1) & (share > 0) & (share <= most)


class Collector:
    """Keeps the first ``per_class`` usable images of each class, ``most`` in all, on the CPU in float32.

    An image is usable that has a mask of an object with background around it; for a collector that is not
    ``annotated``, one that has no annotation, whose mask is to be guessed.

    Where ``most`` is reached, classes that come late take the place of the largest ones' last images, down to
    ``least`` of each; ``left_out`` names those that came later still.

    >>> collector = Collector(per_class=1, most=10)
    >>> masks = torch.zeros(2, 4, 4)
    >>> masks[:, 1:3, 1:3] = 1
    >>> collector.add(torch.zeros(2, 3, 4, 4), torch.tensor([5, 5]), masks)
    >>> collector.pool().labels.tolist()
    [5]
    """

    def __init__(
        self,
        *,
        per_class: int,
        most: int,
        least: int = 20,
        classes: Collection[int] | None = None,
        annotated: bool = True,
    ) -> None:
        self.per_class = per_class
        self.most = most
        self.least = least
        self.classes = classes
        self.annotated = annotated
        self.left_out: set[int] = set()
        self.largest_batch = 0
        self._kept: dict[int, list[tuple[Tensor, Tensor]]] = {}
        self._empty: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        """How many images are kept."""
        return sum(map(len, self._kept.values()))

    def add(
        self,
        images: Shaped[Tensor, "B C H W"],
        labels: Shaped[Tensor, "..."],
        masks: Float[Tensor, "B H W"] | None = None,
    ) -> None:
        """Copy what is still wanted of a batch, whose images have no annotation without masks.

        BatchError for labels that are not one class index per image.
        """
        self._check(images, labels)
        self.largest_batch = max(self.largest_batch, len(images))
        if masks is None:
            masks = images.new_full((len(images), *images.shape[2:]), -1.0, dtype=torch.float32)
        masks = solid(masks)  # what is unknown stays with the object, and is never exchanged
        fit = (usable(masks) if self.annotated else (masks < 0).flatten(1).all(dim=1)).tolist()
        known = labels.tolist()
        rows = [row for row, label in enumerate(known) if fit[row] and self._may_want(label)]
        chosen = images[rows].detach().float().cpu(), masks[rows].detach().float().cpu()
        for row, image, mask in zip(rows, *chosen, strict=True):
            self._keep(known[row], image, mask)

    def pool(self) -> Pool | None:
        """What was kept, class by class, perhaps no image; None before any batch."""
        if self._empty is None:
            return None
        kept = [(c, pair) for c in sorted(self._kept) for pair in self._kept[c]]
        labels = torch.tensor([c for c, _ in kept], dtype=torch.int64)
        if not kept:
            return Pool(self._empty[0], labels, self._empty[1])
        return Pool(torch.stack([pair[0] for _, pair in kept]), labels, torch.stack([pair[1] for _, pair in kept]))

    def _check(self, images: Tensor, labels: Tensor) -> None:
        if labels.shape != images.shape[:1] or labels.is_floating_point():
            raise BatchError(
                f"Labels are one class index per image, ({len(images)},) integers; got {labels.dtype} of shape"
                f" {tuple(labels.shape)}: convert them in a batch_adapter"
            )
        if self._empty is None:
            self._empty = torch.zeros(0, *images.shape[1:]), torch.zeros(0, *images.shape[2:])
        if self._empty[0].shape[1:] != images.shape[1:]:
            raise BatchError(
                f"Images that lend each other backgrounds have one size; got {tuple(images.shape[1:])} after"
                f" {tuple(self._empty[0].shape[1:])}: resize them in the data set's transform"
            )

    def _may_want(self, label: int) -> bool:
        listed = label >= 0 and (self.classes is None or label in self.classes)
        return listed and len(self._kept.get(label, ())) < self.per_class

    def _keep(self, label: int, image: Tensor, mask: Tensor) -> None:
        if not self._may_want(label):
            return
        if len(self) >= self.most:
            largest = max(self._kept, key=lambda c: len(self._kept[c]))
            size = len(self._kept[largest])
            if size <= self.least or size <= len(self._kept.get(label, ())) + 1:
                self.left_out.update({label} - self._kept.keys())
                return
            self._kept[largest].pop()
        self._kept.setdefault(label, []).append((image, mask))


class Samples:
    """What batches held: the annotated images and, until the first of these, the others, to be guessed about."""

    def __init__(self, *, per_class: int, most: int, classes: Collection[int] | None = None) -> None:
        self.annotated = Collector(per_class=per_class, most=most, classes=classes)
        self._bare: Collector | None = Collector(per_class=per_class, most=most, classes=classes, annotated=False)

    def add(self, images: Tensor, labels: Tensor, masks: Tensor | None) -> None:
        """Copy what is wanted of a batch. BatchError for labels that are not one class index per image."""
        self.annotated.add(images, labels, masks)
        if len(self.annotated):
            self._bare = None
        elif self._bare is not None:
            self._bare.add(images, labels, masks)

    def chosen(self, guessed: bool) -> Collector:
        """Those whose masks are to be guessed, where they are still kept; else the annotated ones."""
        return self._bare if guessed and self._bare is not None else self.annotated


class Collecting:
    """The images of the present pass, and those of the first training epoch, which lend: read from batches.

    Args:
        adapter: reads a batch of another shape.
        lend: whether training images lend at all.
    """

    def __init__(self, adapter: Adapter | None = None, *, lend: bool = True) -> None:
        self.adapter, self.lend = adapter, lend
        self.lenders: Samples | None = None
        self.lends = False  # whether training images are being collected
        self.dtype: torch.dtype = torch.float32  # of the batches: as the network takes them
        self.unreadable = ""  # why training batches lend nothing
        self._judged: Samples | None = None

    def begin_training_epoch(self, samples: Samples) -> None:
        """Those that lend are collected in the first epoch only."""
        self.lends = self.lend and self.lenders is None
        if self.lends:
            self.lenders = samples

    def add_training(self, batch: Any) -> int:
        """Keep what can lend; how many images were looked at.

        Training batches need have no shape that can be read: then validation images lend.
        """
        if not self.lends or self.lenders is None:
            return 0
        try:
            return self._put(self.lenders, self.read(batch))
        except CamtrainError as error:
            self.lends, self.unreadable = False, str(error)
            return 0

    def begin_pass(self, samples: Samples) -> None:
        """Collect anew."""
        self._judged = samples

    def add(self, batch: Any) -> None:
        """Keep what is wanted of a batch. ConfigurationError, MaskError or BatchError where it cannot be judged."""
        if self._judged is not None:
            read = self.read(batch)
            self.dtype = read.images.dtype
            self._put(self._judged, read)

    def take(self) -> Samples | None:
        """What the pass brought, which is over."""
        judged, self._judged = self._judged, None
        return judged

    def read(self, batch: Any) -> Batch:
        """The batch with its labels; an error for what cannot be judged."""
        read = read_batch(batch, self.adapter)
        if read.labels is None:
            raise ConfigurationError(_NO_LABELS)
        check_masks(read)
        return read

    @staticmethod
    def _put(samples: Samples, read: Batch) -> int:
        if read.labels is not None:
            samples.add(read.images, read.labels, read.masks)
        return len(read)


@dataclass(frozen=True)
class Pools:
    """What one process brings to a round; `guessed` says that the masks of the judged images are guesses."""

    judged: Pool | None
    training: Pool | None
    guessed: bool
    left_out: frozenset[int]
    batch_size: int

    @classmethod
    def of(
        cls, judged: Samples | None, lenders: Samples | None, guess: Callable[[Pool, int], Pool], annotated: Annotated
    ) -> "Pools":
        """Annotated images where any process has some, else the others with guessed masks.

        Training images with guessed masks lend to guesses only. `guess` takes a pool and how many images at a time;
        `annotated` says whether any process has annotated images that are judged, and that lend.
        """
        guessed, training_guessed = not annotated[0], not annotated[1]
        if judged is None:
            return cls(None, None, guessed, frozenset(), 1)
        collector = judged.chosen(guessed)
        size = max(1, collector.largest_batch)

        def pool_of(samples: Samples | None, by_guess: bool) -> Pool | None:
            pool = None if samples is None else samples.chosen(by_guess).pool()
            return guess(pool, size) if pool is not None and by_guess else pool

        training = None if training_guessed and not guessed else pool_of(lenders, training_guessed)
        return cls(pool_of(judged, guessed), training, guessed, frozenset(collector.left_out), size)


@dataclass(frozen=True)
class Count:
    """What one process holds: images by class, those that lend by class, whether the two are of one size, that size."""

    images: Mapping[int, int]
    lenders: Mapping[int, int]
    alike: bool
    size: tuple[int, ...] | None

    @classmethod
    def of(cls, pool: Pool | None, training: Pool | None) -> "Count":
        """Of the judged images and those that lend, either of which may be missing."""
        judged, lent = (None if each is None else tuple(each.images.shape[1:]) for each in (pool, training))
        images, lenders = (Counter([] if each is None else each.labels.tolist()) for each in (pool, training))
        return cls(dict(images), dict(lenders), None in (judged, lent) or judged == lent, judged)


@dataclass(frozen=True)
class PoolCensus:
    """What all processes hold together: the classes that can be judged, and whether training images can lend."""

    classes: tuple[int, ...]
    training_lends: bool
    size: tuple[int, ...]

    @classmethod
    def of(cls, counts: Sequence[Count], least: int) -> "PoolCensus":
        """Training images lend where they are of one size with the others, and at least so many of each class.

        CamtrainError where no process has an image that can be judged.
        """
        images, lenders = Counter[int](), Counter[int]()
        for count in counts:
            images.update(count.images)
            lenders.update(count.lenders)
        sizes = [count.size for count in counts if count.size is not None]
        if not sizes:
            raise CamtrainError("no validation batch could be read")
        if not images:
            raise CamtrainError(
                "no validation image shows an object, annotated or guessed, with a background around it"
            )
        enough = all(lenders[c] >= least for c in images)
        return cls(tuple(sorted(images)), enough and all(count.alike for count in counts), sizes[0])
