"""What is kept of a run: the records, and the writer and the reader of each format side by side."""

from camtrain.records.folder import read_history
from camtrain.records.history import History
from camtrain.records.kinds import (
    CELLS,
    FAILURES,
    HEATMAPS,
    RIGHT_GROUNDED,
    RIGHT_UNGROUNDED,
    WRONG_GROUNDED,
    WRONG_UNGROUNDED,
    Alert,
    Classes,
    ClassRow,
    Curve,
    Document,
    FourCells,
    Histograms,
    MetricRow,
    Metrics,
    Record,
    Scalars,
    Setup,
    VerdictRow,
    Verdicts,
)
from camtrain.records.panels import Drift, Example, Panel, Panels, Strip

__all__ = [
    "CELLS", "FAILURES", "HEATMAPS", "RIGHT_GROUNDED", "RIGHT_UNGROUNDED", "WRONG_GROUNDED", "WRONG_UNGROUNDED",
    "Alert", "ClassRow", "Classes", "Curve", "Document", "Drift", "Example", "FourCells", "Histograms", "History",
    "MetricRow", "Metrics", "Panel", "Panels", "Record", "Scalars", "Setup", "Strip", "VerdictRow", "Verdicts",
    "read_history",
]  # fmt: skip
