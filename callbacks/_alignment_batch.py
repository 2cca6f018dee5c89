"""What a batch holds for alignment, counted with one look at the device, and refused where it cannot work."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from camtrain.data.batches import Batch, check_masks
from camtrain.errors import ConfigurationError
from camtrain.losses import can_have_twin


@dataclass(frozen=True)
class Census:
    """Images of a batch with an annotation, with one that leaves a background, and with one that gets a twin.

    `all_...` are the sums over processes. A share is what the mean over this process' images counts for, so that the
    mean over processes is the mean over all images.
    """

    annotated: int = 0
    guiding: int = 0
    twinned: int = 0
    all_annotated: int = 0
    all_twinned: int = 0
    processes: int = 1

    @property
    def penalty_share(self) -> float:
        """Of the penalty: 1 in a single process."""
        return self.annotated * self.processes / self.all_annotated if self.all_annotated else 1.0

    @property
    def twins_share(self) -> float:
        """Of the twins' cross-entropy: 1 in a single process."""
        return self.twinned * self.processes / self.all_twinned if self.all_twinned else 1.0


def count(batch: Batch, limit: int, strategy: Any = None, processes: int = 1, remembered: int = 0) -> Census:
    """The census of a batch that makes at most `limit` twins; with several processes, `strategy` sums up.

    `remembered` images of earlier batches are there to make twins of too.

    MaskError for masks that cannot be meant.

    >>> count(Batch(torch.zeros(2, 1, 1, 2), masks=torch.tensor([[[1.0, 0.0]], [[-1.0, -1.0]]])), limit=2)
    Census(annotated=1, guiding=1, twinned=1, all_annotated=1, all_twinned=1, processes=1)
    """
    if batch.masks is None:
        counts = torch.zeros(4, dtype=torch.long, device=batch.images.device)
    else:
        if (len(batch), *batch.images.shape[2:]) != tuple(batch.masks.shape):
            check_masks(batch)  # raises
        counts = _counts(batch.masks)
    counts[2] += remembered
    counts[2].clamp_(max=limit if len(batch) + remembered > 1 else 0)  # a single image has nobody's background
    totals = counts if processes == 1 else strategy.reduce(counts.clone(), reduce_op="sum")
    annotated, guiding, twinned, bad, all_annotated, _, all_twinned, _ = torch.cat([counts, totals]).tolist()
    if bad:
        check_masks(batch)  # raises
    return Census(annotated, guiding, twinned, all_annotated, all_twinned, processes)


def _counts(masks: Tensor) -> Tensor:
    flat = masks.flatten(1)
    valid = ((flat >= 0) & (flat <= 1)).all(dim=1)
    bad = ~valid & ~(flat == -1).all(dim=1)
    guiding = valid & (flat < 1).any(dim=1)
    return torch.stack([part.sum() for part in (valid, guiding, can_have_twin(masks), bad)])


def require_masks(batch: Batch, raw: Any, *, twins: bool) -> None:
    """ConfigurationError for data without masks, or without the labels that twins need."""
    if batch.masks is None:
        raise ConfigurationError(
            f"AttentionAlignment needs masks, and the training batch holds none: {_keys(raw)}. Give (images, labels, "
            "masks), a mapping with 'mask', a MaskedPair, or a batch_adapter; an image without an annotation gets a "
            "mask of all -1."
        )
    if twins and batch.labels is None:
        raise ConfigurationError(f"Twins need labels, and the training batch holds none: {_keys(raw)}. Set twins=0.")


def can_ask_twins(batch: Batch) -> bool:
    """Whether the batch holds images `(B, C, H, W)` and a class label for each.

    >>> can_ask_twins(Batch(torch.zeros(2, 3, 4, 4), labels=torch.tensor([0, 1])))
    True
    """
    labels = batch.labels
    return batch.images.ndim == 4 and labels is not None and labels.ndim == 1 and not labels.is_floating_point()


def _keys(raw: Any) -> str:
    if isinstance(raw, dict):
        return f"a mapping with {', '.join(map(repr, raw))}"
    if isinstance(raw, (tuple, list)):
        return f"a {type(raw).__name__} of {len(raw)}"
    return f"a {type(raw).__name__}"
