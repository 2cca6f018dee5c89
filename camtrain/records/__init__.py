"""What is kept of a run: the records, and the writer and the reader of each format side by side."""

from camtrain.records.folder import read_history
from camtrain.records.formats import History
from camtrain.records.kinds import (
    CELLS,
    FAILURES,
    HEATMAPS,
    MASKS_FILE,
    RIGHT_GROUNDED,
    RIGHT_UNGROUNDED,
    WRONG_GROUNDED,
    WRONG_UNGROUNDED,
    Alert,
    Calibration,
    Classes,
    ClassRow,
    ConfidenceBin,
    Curve,
    Document,
    FourCells,
    Histograms,
    MetricRow,
    Metrics,
    Record,
    Scalars,
    Setup,
    Verdict,
    Verdicts,
)
from camtrain.records.panels import Drift, Example, Gallery, Panel, Panels, Strip

__all__ = [
    "CELLS", "FAILURES", "HEATMAPS", "MASKS_FILE",
    "RIGHT_GROUNDED", "RIGHT_UNGROUNDED", "WRONG_GROUNDED", "WRONG_UNGROUNDED",
    "Alert", "Calibration", "ClassRow", "Classes", "ConfidenceBin", "Curve", "Document", "Drift", "Example",
    "FourCells", "Gallery", "Histograms", "History",
    "MetricRow", "Metrics", "Panel", "Panels", "Record", "Scalars", "Setup", "Strip", "Verdict", "Verdicts",
    "read_history",
]  # fmt: skip
