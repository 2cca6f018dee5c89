"""Losses that move the evidence onto the object."""

if __name__ == "losses":
    raise ImportError("import camtrain.losses, not losses: the bare name loads a second copy of every class")

from camtrain.losses.alignment import (
    AlignmentLoss,
    inside_cross_entropy,
    outside_energy,
    outside_l1,
    outside_squared,
)
from camtrain.losses.distillation import HeatmapDistillationLoss, heatmap_distance, match_grid, unit_norm
from camtrain.losses.hint import HINTLoss, misranking
from camtrain.losses.input_gradient import InputGradientLoss, input_gradients, outside_gradient
from camtrain.losses.twins import can_have_twin, choose_donors, make_twins

__all__ = [
    "AlignmentLoss",
    "HINTLoss",
    "HeatmapDistillationLoss",
    "InputGradientLoss",
    "can_have_twin",
    "choose_donors",
    "heatmap_distance",
    "input_gradients",
    "inside_cross_entropy",
    "make_twins",
    "match_grid",
    "misranking",
    "outside_energy",
    "outside_gradient",
    "outside_l1",
    "outside_squared",
    "unit_norm",
]
