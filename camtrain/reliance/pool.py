"""The images that a round judges, and those that lend: the first usable ones of every class, as batches pass."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from camtrain.data.batches import Adapter, Batch, check_masks, read_batch
from camtrain.errors import BatchError, CamtrainError, ConfigurationError
from camtrain.reliance.records import Criteria, Pool, Trial
from camtrain.segmenters import key_of
from camtrain.swaps.compositing import solid
from camtrain.tasks import View

__all__ = ["Collecting", "Collector", "Count", "PoolCensus", "Pools", "Samples", "as_given", "masks_about", "usable"]

GatherAny = Callable[[Callable[[], Any]], list[Any]]
_GUESSING = (
    "finds no masks in the validation batches and guesses them, by your segmenter if you gave one: its verdicts are "
    "'reliant', 'suspect', 'undecided' or 'no evidence', never 'not reliant'. Masks, or boxes as masks, make it surer"
)
_LEND_NOTHING = (
    "takes backgrounds from the judged images, since training images lend none: {why}. Where classes go with their "
    "backgrounds less than in training, that hides what a class leans on"
)
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

    An image is usable that has a mask of an object, of up to ``covered`` of the frame, with background around it; for a
    collector that is not ``annotated``, one that has no annotation, whose mask is to be guessed.

    Where ``most`` is reached, classes that come late take the place of the largest ones' last images, down to
    ``least`` of each. Where there is no room for that, the class that came last gives way to those before it, so that
    the order of the images decides nothing; ``left_out`` names those that had to.

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
        covered: float = 0.9,
    ) -> None:
        self.per_class, self.covered = per_class, covered
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
        fit = (usable(masks, most=self.covered) if self.annotated else (masks < 0).flatten(1).all(dim=1)).tolist()
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
        listed = label >= 0 and (self.classes is None or label in self.classes) and label not in self.left_out
        return listed and len(self._kept.get(label, ())) < self.per_class

    def _keep(self, label: int, image: Tensor, mask: Tensor) -> None:
        if not self._may_want(label):
            return
        if len(self) >= self.most and not self._make_room(label):
            return
        self._kept.setdefault(label, []).append((image, mask))

    def _make_room(self, label: int) -> bool:
        """Give up an image, or a class, for one of this label; False where there is none that should give way."""
        largest, size = max(((c, len(kept)) for c, kept in self._kept.items()), key=lambda pair: pair[1])
        own = len(self._kept.get(label, ()))
        if size > max(self.least, own + 1):
            self._kept[largest].pop()
            return True
        last = next(reversed(self._kept)) if own else label  # classes in the order in which they came
        if own and (own >= self.least or len(self._kept) < 3):
            return False
        self.left_out.add(last)
        self._kept.pop(last, None)
        return last != label


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
    """The images of the present pass, and those of the first training epoch, which lend: by the choice they are about.

    A network that gives several answers to an image makes several choices (`Task.views`), each with samples of its own;
    where it makes one, that is -1.

    Args:
        adapter: reads a batch of another shape.
        lend: whether training images lend at all.
    """

    def __init__(self, adapter: Adapter | None = None, *, lend: bool = True) -> None:
        self.adapter, self.lend = adapter, lend
        self.lenders: dict[int, Samples] | None = None
        self.lends = False  # whether training images are being collected
        self.unreadable = ""  # why training batches lend nothing
        self._judged: dict[int, Samples] | None = None

    def begin_training_epoch(self) -> None:
        """Those that lend are collected in the first epoch only."""
        self.lends = self.lend and self.lenders is None
        if self.lends:
            self.lenders = {}

    def begin_pass(self) -> None:
        """Collect anew."""
        self._judged = {}

    @property
    def judges(self) -> bool:
        """Whether the images of a pass are being collected."""
        return self._judged is not None

    def take(self) -> dict[int, Samples]:
        """What the pass brought, which is over."""
        judged, self._judged = self._judged, None
        return judged or {}

    def read(self, batch: Any) -> Batch:
        """The batch with its labels; an error for what cannot be judged."""
        read = read_batch(batch, self.adapter)
        if read.labels is None:
            raise ConfigurationError(_NO_LABELS)
        check_masks(read)
        return read

    def add(self, batch: Batch, views: Sequence[View], new: Callable[[], Samples]) -> None:
        """Keep what is wanted of a batch that is judged."""
        if self._judged is not None:
            _put(self._judged, batch, views, new)

    def add_training(self, batch: Batch, views: Sequence[View], new: Callable[[], Samples]) -> None:
        """Keep what can lend."""
        if self.lends and self.lenders is not None:
            _put(self.lenders, batch, views, new)

    def lend_nothing(self, why: str) -> None:
        """Training batches need have no shape that can be read: then validation images lend."""
        self.lends, self.unreadable = False, why


def _put(samples: dict[int, Samples], batch: Batch, views: Sequence[View], new: Callable[[], Samples]) -> None:
    for view in views:
        if view.labels is not None:
            masks = None if batch.masks is None else masks_about(batch.masks, view, batch.images.ndim)
            samples.setdefault(view.about, new()).add(batch.images, view.labels, masks)


def masks_about(masks: Tensor, view: View, axes: int) -> Float[Tensor, "B H W"]:
    """The masks of one choice, from one for each label: the objects of all labels, which stay with the image.

    So no background holds an object, whether the label is present in its image or not: backgrounds of the two would
    differ by the objects, which are easily taken for each other. -1 where the label is present and its object unknown.
    """
    if masks.ndim < axes or view.labels is None:
        return masks
    own = masks[:, view.about]
    lost = (view.labels == 1) & (own < 0).flatten(1).all(dim=1)
    return torch.where(lost.view(-1, *[1] * (own.ndim - 1)), own, masks.amax(dim=1))


def as_given(batch: Batch, images: Float[Tensor, "B C H W"]) -> Batch:
    """The batch as the network was given it: with these images, and masks of their size."""
    masks = batch.masks
    if masks is not None and masks.shape[-2:] != images.shape[-2:]:
        four = masks if masks.ndim == 4 else masks.unsqueeze(1)
        masks = F.interpolate(four, size=images.shape[-2:], mode="nearest-exact").view(
            *masks.shape[:-2], *images.shape[-2:]
        )
    return replace(batch, images=images, masks=masks)


@dataclass(frozen=True)
class Pools:
    """What one process brings to a round; `guessed` says that the masks of the judged images are guesses."""

    judged: Pool | None
    training: Pool | None
    guessed: bool
    left_out: frozenset[int]
    batch_size: int

    @classmethod
    def gathered(
        cls,
        judged: Samples | None,
        lenders: Samples | None,
        guess: Callable[..., Pool],
        gather: GatherAny,
        *,
        rank: int,
    ) -> "Pools":
        """This process's part. `gather` makes a list of what each process computes; none waits for one that fails.

        Annotated images where any process has some, else the others with guessed masks; training images with guessed
        masks lend to guesses only. `guess` takes a pool and a `batch_size`. An image that several have counts once.
        """
        held = gather(lambda: [one is not None and len(one.annotated) > 0 for one in (judged, lenders)])
        annotated = [any(each[kind] for each in held) for kind in (0, 1)]
        own: list[Pools] = []  # images stay where they are
        gather(lambda: own.append(cls.of(judged, lenders, guess, guessed=not annotated[0], bare=not annotated[1])))
        if len(held) == 1:
            return own[0]
        keys = gather(own[0].keys)
        return own[0].without({key for before in keys[:rank] for key in before})

    @classmethod
    def of(
        cls, judged: Samples | None, lenders: Samples | None, guess: Callable[..., Pool], *, guessed: bool, bare: bool
    ) -> "Pools":
        """With guessed masks for those that are judged, and for training images that are `bare`."""
        if judged is None:
            return cls(None, None, guessed, frozenset(), 1)
        collector = judged.chosen(guessed)
        size = max(1, collector.largest_batch)

        def pool_of(samples: Samples | None, by_guess: bool) -> Pool | None:
            pool = None if samples is None else samples.chosen(by_guess).pool()
            return guess(pool, batch_size=size) if pool is not None and by_guess else pool

        training = None if bare and not guessed else pool_of(lenders, bare)
        return cls(pool_of(judged, guessed), training, guessed, frozenset(collector.left_out), size)

    def remarks(
        self, census: "PoolCensus", collecting: Collecting, criteria: Criteria, most: int
    ) -> list[tuple[str, str, bool]]:
        """What should be told once a run, by key, and whether it is a warning."""
        told = []
        if self.left_out:
            listed = f"leaves {len(self.left_out)} of the classes out, among them {sorted(self.left_out)[:5]}"
            remedy = "raise max_images, or choose with classes=[...]"
            told.append(("left out", f"keeps max_images={most} and {listed}: {remedy}", True))
        if self.guessed:
            told.append(("guessing", _GUESSING, False))
        if collecting.lenders is not None and not census.training_lends:
            usable = 0 if self.training is None else len(self.training.labels)
            few = f"{usable} are usable, and each class needs {criteria.min_images}, of the judged images' size"
            told.append(("lending", _LEND_NOTHING.format(why=collecting.unreadable or few), False))
        return told

    def trial(self, census: "PoolCensus", names: Sequence[str], about: int) -> Trial:
        """Who is judged, and who lends. The choice about a label is between its absence and its presence."""
        pool = self.judged or Pool.empty(census.size)
        lenders = self.training if census.training_lends and self.training is not None else pool
        named = names if about < 0 else [f"no {names[about]}", names[about]]
        return Trial(pool, lenders, census.classes, named, about)

    def keys(self) -> list[bytes]:
        """What tells the judged images apart: a sampler gives some to two processes, to fill up its share."""
        return [] if self.judged is None else [key_of(image) for image in self.judged.images]

    def without(self, keys: Collection[bytes]) -> "Pools":
        """Without the judged images that another process has as well."""
        if self.judged is None or not keys:
            return self
        rows = [row for row, key in enumerate(self.keys()) if key not in keys]
        pool = Pool(self.judged.images[rows], self.judged.labels[rows], self.judged.masks[rows])
        return replace(self, judged=pool)


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
