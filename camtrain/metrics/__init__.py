"""Is the evidence on the object, and does the heatmap tell the truth."""

from camtrain.metrics.grounding import grounding, inside_energy, mask_area, maxima_inside, pointing_game
from camtrain.metrics.groups import GroupAccuracy, WorstGroupAccuracy, group_accuracy, worst_group_accuracy
from camtrain.metrics.means import InsideEnergy, NanMean, PointingGame
from camtrain.metrics.reasons import ReasonCells, reason_cells

__all__ = [
    "GroupAccuracy",
    "InsideEnergy",
    "NanMean",
    "PointingGame",
    "ReasonCells",
    "WorstGroupAccuracy",
    "grounding",
    "group_accuracy",
    "inside_energy",
    "mask_area",
    "maxima_inside",
    "pointing_game",
    "reason_cells",
    "worst_group_accuracy",
]
