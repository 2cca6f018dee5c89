"""Gather a pool from batches as they pass: the first usable images of every class."""

from collections.abc import Collection

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from camtrain.errors import BatchError
from camtrain.reliance.donors import usable
from camtrain.reliance.records import Pool

__all__ = ["Collector"]


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
