"""Planted shortcuts of known truth: would a monitoring see them?"""

from camtrain.data.canary.canary import KINDS, Canary, CanaryDataset

__all__ = ["KINDS", "Canary", "CanaryDataset"]
