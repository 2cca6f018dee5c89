"""Is the evidence on the object, and does the heatmap tell the truth."""

from camtrain.metrics.accuracy import BackgroundGap, GroupAccuracy, RelativeForegroundSensitivity, WorstGroupAccuracy
from camtrain.metrics.evidence import (
    ClassDiscrimination,
    EnergyLift,
    InsideEnergy,
    InstanceCoverage,
    PointingGame,
    ReasonCells,
)
from camtrain.metrics.faithfulness import (
    AverageDrop,
    AverageHighestConfidence,
    ConfidenceIncrease,
    DeletionAUC,
    InsertionAUC,
    OcclusionCorrelation,
    Win,
)
from camtrain.metrics.functional.accuracy import (
    background_gap,
    group_accuracy,
    noise_in_region,
    relative_foreground_sensitivity,
    worst_group_accuracy,
)
from camtrain.metrics.functional.curves import Curves, blur, insertion_deletion
from camtrain.metrics.functional.evidence import (
    class_discrimination,
    energy_lift,
    grounding,
    inside_energy,
    instance_coverage,
    mask_area,
    maxima_inside,
    pointing_game,
    reason_cells,
)
from camtrain.metrics.functional.faithfulness import (
    average_drop,
    confidence_increase,
    curve_area,
    highest_confidence,
    rank_correlation,
    win,
)
from camtrain.metrics.functional.intervals import Interval, mean_interval, share_interval
from camtrain.metrics.functional.localization import (
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
from camtrain.metrics.functional.probing import Confidences, masked_confidences
from camtrain.metrics.functional.randomization import Sanity, cascading_randomization
from camtrain.metrics.functional.road import impute, road
from camtrain.metrics.functional.stability import Stability, agreement, infidelity, stability
from camtrain.metrics.intervals import MeanWithInterval, NanMean
from camtrain.metrics.localization import HeatmapIoU, LocalizationError, MapAveragePrecision
from camtrain.tasks.answers import class_probability

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
