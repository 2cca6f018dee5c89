"""Datasets with masks, planted shortcuts, batch adapters, data modules."""
