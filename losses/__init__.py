"""Losses that move the evidence onto the object."""

if __name__ == "losses":
    raise ImportError("import camtrain.losses, not losses: the bare name loads a second copy of every class")

from camtrain.losses.alignment import (
    AlignmentLoss,
    dice_distance,
    inside_cross_entropy,
    inside_hinge,
    iou_distance,
    outside_energy,
    outside_l1,
    outside_squared,
    squared_error,
)
from camtrain.losses.consistency import ConsistencyLoss, flip_inconsistency
from camtrain.losses.distillation import HeatmapDistillationLoss, heatmap_distance, match_grid, unit_norm
from camtrain.losses.hint import HINTLoss, SquaredHINTLoss, misranking, squared_misalignment
from camtrain.losses.input_gradient import InputGradientLoss, input_gradients, outside_gradient
from camtrain.swaps.twins import (
    can_have_twin,
    choose_donors,
    deal_backgrounds,
    make_twins,
    move_objects,
    same_class_share,
)

__all__ = [
    "AlignmentLoss",
    "ConsistencyLoss",
    "HINTLoss",
    "HeatmapDistillationLoss",
    "InputGradientLoss",
    "SquaredHINTLoss",
    "can_have_twin",
    "choose_donors",
    "deal_backgrounds",
    "dice_distance",
    "flip_inconsistency",
    "heatmap_distance",
    "input_gradients",
    "inside_cross_entropy",
    "inside_hinge",
    "iou_distance",
    "make_twins",
    "match_grid",
    "misranking",
    "move_objects",
    "outside_energy",
    "outside_gradient",
    "outside_l1",
    "outside_squared",
    "same_class_share",
    "squared_error",
    "squared_misalignment",
    "unit_norm",
]
