"""Gather a pool from batches as they pass: the first usable images of every class."""

from collections import Counter
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

    >>> collector = Collector(per_class=1, classes=None, most=10)
    >>> masks = torch.zeros(2, 4, 4)
    >>> masks[:, 1:3, 1:3] = 1
    >>> collector.add(torch.zeros(2, 3, 4, 4), torch.tensor([5, 5]), masks)
    >>> collector.pool().labels.tolist()
    [5]
    """

    def __init__(self, *, per_class: int, classes: Collection[int] | None, most: int) -> None:
        self.per_class = per_class
        self.classes = classes
        self.most = most
        self.counts: Counter[int] = Counter()
        self.unusable = 0
        self.largest_batch = 0
        self._parts: list[Pool] = []

    def add(self, images: Shaped[Tensor, "B C H W"], labels: Tensor, masks: Float[Tensor, "B H W"]) -> None:
        """Copy what is still wanted of a batch. BatchError for labels that are not one class index per image."""
        if labels.shape != images.shape[:1] or labels.is_floating_point():
            raise BatchError(
                f"Labels are one class index per image, ({len(images)},) integers; got {labels.dtype} of shape"
                f" {tuple(labels.shape)}: convert them in a batch_adapter"
            )
        if self._parts and self._parts[0].images.shape[1:] != images.shape[1:]:
            raise BatchError(
                f"Images that lend each other backgrounds have one size; got {tuple(images.shape[1:])} after"
                f" {tuple(self._parts[0].images.shape[1:])}: resize them in the data set's transform"
            )
        self.largest_batch = max(self.largest_batch, len(images))
        fit = usable(masks).tolist()
        self.unusable += len(fit) - sum(fit)
        rows = [row for row, label in enumerate(labels.tolist()) if fit[row] and self._wants(label)]
        self._parts.append(
            Pool(
                images[rows].detach().float().cpu(),
                labels[rows].detach().long().cpu(),
                masks[rows].detach().float().cpu(),
            )
        )

    def pool(self) -> Pool | None:
        """What was kept, perhaps no image; None before any batch."""
        if not self._parts:
            return None
        columns = ([getattr(part, name) for part in self._parts] for name in ("images", "labels", "masks"))
        return Pool(*map(torch.cat, columns))

    def _wants(self, label: int) -> bool:
        listed = label >= 0 and (self.classes is None or label in self.classes)
        wanted = listed and self.counts[label] < self.per_class and self.counts.total() < self.most
        self.counts[label] += wanted
        return wanted
