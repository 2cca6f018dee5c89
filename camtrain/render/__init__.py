"""Heatmaps to pixels."""

from camtrain.render.overlays import color_table, colorize, draw_contours, hatched_frame, overlay, quantize, to_uint8
from camtrain.render.strips import film_strip, region_strip, side_by_side

__all__ = [
    "color_table",
    "colorize",
    "draw_contours",
    "film_strip",
    "hatched_frame",
    "overlay",
    "quantize",
    "region_strip",
    "side_by_side",
    "to_uint8",
]
