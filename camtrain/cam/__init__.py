"""The explanation engine: tensors in, heatmaps out."""
