"""Masks for images that came without one: guessed, or by a function of one's own."""

from camtrain.segmenters.outlines import Outlines, Segmenter, guess_masks, key_of, overhang, segmented

__all__ = ["Outlines", "Segmenter", "guess_masks", "key_of", "overhang", "segmented"]
