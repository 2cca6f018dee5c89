"""Batches, as Lightning hands them out, to the images that a round of detection judges and those that lend."""

from collections.abc import Callable
from typing import Any

import torch
from torch import dtype

from camtrain.callbacks._reliance_images import Images
from camtrain.data.batches import Batch, check_masks, read_batch
from camtrain.errors import CamtrainError, ConfigurationError

_NO_LABELS = (
    "RelianceDetector needs labels in the validation batches, and the batch has none: convert with batch_adapter."
)


class Collecting:
    """The images of the present validation epoch, and those of the first training epoch.

    Args:
        batch_adapter: reads a batch of another shape.
        lend: whether training images lend at all.
    """

    def __init__(self, batch_adapter: Callable[..., Any] | None, *, lend: bool) -> None:
        self.batch_adapter, self.lend = batch_adapter, lend
        self.images: Images | None = None
        self.lenders: Images | None = None
        self.dtype: dtype = torch.float32  # of the batches: as the network takes them
        self.unreadable = ""  # why training batches lend nothing
        self._lending = False

    def begin_training_epoch(self, new: Callable[[], Images]) -> None:
        """Those that lend are collected in the first epoch only."""
        self._lending = self.lend and self.lenders is None
        if self._lending:
            self.lenders = new()

    @property
    def lends(self) -> bool:
        """Whether training images are being collected."""
        return self._lending

    def add_training(self, batch: Any) -> int:
        """Keep what can lend; how many images were looked at.

        Training batches need have no shape that can be read: then validation images lend.
        """
        if not self._lending or self.lenders is None:
            return 0
        try:
            read = self.read(batch)
            self._put(self.lenders, read)
        except CamtrainError as error:
            self._lending, self.unreadable = False, str(error)
            return 0
        return len(read)

    def begin_validation_epoch(self, new: Callable[[], Images]) -> None:
        """Collect anew."""
        self.images = new()

    def add_validation(self, batch: Any) -> None:
        """Keep what is wanted of a batch. ConfigurationError, MaskError or BatchError where it cannot be judged."""
        if self.images is not None:
            read = self.read(batch)
            self.dtype = read.images.dtype
            self._put(self.images, read)

    def take(self) -> Images | None:
        """What the validation epoch brought, which is over."""
        taken, self.images = self.images, None
        return taken

    def read(self, batch: Any) -> Batch:
        """The batch with its labels; an error for what cannot be judged."""
        read = read_batch(batch, self.batch_adapter)
        if read.labels is None:
            raise ConfigurationError(_NO_LABELS)
        check_masks(read)
        return read

    @staticmethod
    def _put(images: Images, read: Batch) -> None:
        if read.labels is not None:
            images.add(read.images, read.labels, read.masks)
