"""Datasets with masks, planted shortcuts, batch adapters, data modules."""

from camtrain.data.batches import Batch, MaskedPair, check_masks, class_names, read_batch

__all__ = ["Batch", "MaskedPair", "check_masks", "class_names", "read_batch"]
