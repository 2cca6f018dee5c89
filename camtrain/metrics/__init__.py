"""Is the evidence on the object, and does the heatmap tell the truth."""

from camtrain.metrics.confidence import (
    average_drop,
    class_probability,
    confidence_increase,
    curve_area,
    highest_confidence,
    win,
)
from camtrain.metrics.correlation import rank_correlation
from camtrain.metrics.curves import Curves, blur, insertion_deletion
from camtrain.metrics.faithful import (
    AverageDrop,
    AverageHighestConfidence,
    ConfidenceIncrease,
    DeletionAUC,
    InsertionAUC,
    OcclusionCorrelation,
    Win,
)
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
from camtrain.metrics.intervals import Interval, MeanWithInterval, mean_interval, share_interval
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
from camtrain.metrics.masking import Confidences, masked_confidences
from camtrain.metrics.means import NanMean
from camtrain.metrics.objects import class_discrimination, instance_coverage
from camtrain.metrics.randomization import Sanity, cascading_randomization
from camtrain.metrics.reasons import ReasonCells, reason_cells
from camtrain.metrics.regions import (
    BackgroundGap,
    RelativeForegroundSensitivity,
    background_gap,
    noise_in_region,
    relative_foreground_sensitivity,
)
from camtrain.metrics.road import impute, road
from camtrain.metrics.stability import Stability, agreement, infidelity, stability

__all__ = [
    "AverageDrop",
    "AverageHighestConfidence",
    "BackgroundGap",
    "ClassDiscrimination",
    "ConfidenceIncrease",
    "Confidences",
    "Curves",
    "DeletionAUC",
    "EnergyLift",
    "GroupAccuracy",
    "HeatmapIoU",
    "InsertionAUC",
    "InsideEnergy",
    "InstanceCoverage",
    "Interval",
    "LocalizationError",
    "MapAveragePrecision",
    "MeanWithInterval",
    "NanMean",
    "OcclusionCorrelation",
    "PointingGame",
    "ReasonCells",
    "RelativeForegroundSensitivity",
    "Sanity",
    "Stability",
    "Win",
    "WorstGroupAccuracy",
    "agreement",
    "average_drop",
    "average_precision",
    "background_gap",
    "binarize",
    "blur",
    "box_from_heatmap",
    "box_iou",
    "box_of_mask",
    "cascading_randomization",
    "class_discrimination",
    "class_probability",
    "confidence_increase",
    "curve_area",
    "energy_lift",
    "grounding",
    "group_accuracy",
    "heatmap_iou",
    "highest_confidence",
    "impute",
    "infidelity",
    "insertion_deletion",
    "inside_energy",
    "instance_coverage",
    "loc",
    "localization_error",
    "mask_area",
    "masked_confidences",
    "maxima_inside",
    "mean_interval",
    "noise_in_region",
    "otsu_level",
    "pointing_game",
    "rank_correlation",
    "reason_cells",
    "relative_foreground_sensitivity",
    "road",
    "share_interval",
    "stability",
    "win",
    "worst_group_accuracy",
]
