"""Heatmaps to pixels."""
