"""Is the evidence on the object, and does the heatmap tell the truth."""

from camtrain.metrics.grounded import (
    ClassDiscrimination,
    EnergyLift,
    HeatmapIoU,
    InsideEnergy,
    InstanceCoverage,
    LocalizationError,
    MapAveragePrecision,
    PointingGame,
)
from camtrain.metrics.grounding import (
    energy_lift,
    grounding,
    inside_energy,
    mask_area,
    maxima_inside,
    pointing_game,
)
from camtrain.metrics.groups import GroupAccuracy, WorstGroupAccuracy, group_accuracy, worst_group_accuracy
from camtrain.metrics.localization import (
    average_precision,
    binarize,
    box_from_heatmap,
    box_iou,
    box_of_mask,
    heatmap_iou,
    loc,
    localization_error,
    otsu_level,
)
from camtrain.metrics.means import NanMean
from camtrain.metrics.objects import class_discrimination, instance_coverage
from camtrain.metrics.reasons import ReasonCells, reason_cells

__all__ = [
    "ClassDiscrimination",
    "EnergyLift",
    "GroupAccuracy",
    "HeatmapIoU",
    "InsideEnergy",
    "InstanceCoverage",
    "LocalizationError",
    "MapAveragePrecision",
    "NanMean",
    "PointingGame",
    "ReasonCells",
    "WorstGroupAccuracy",
    "average_precision",
    "binarize",
    "box_from_heatmap",
    "box_iou",
    "box_of_mask",
    "class_discrimination",
    "energy_lift",
    "grounding",
    "group_accuracy",
    "heatmap_iou",
    "inside_energy",
    "instance_coverage",
    "loc",
    "localization_error",
    "mask_area",
    "maxima_inside",
    "otsu_level",
    "pointing_game",
    "reason_cells",
    "worst_group_accuracy",
]
