"""Where records go."""

from camtrain.sinks.files import FilesSink
from camtrain.sinks.history import History, read_history
from camtrain.sinks.protocol import Sink, SinkGroup
from camtrain.sinks.records import (
    CELLS,
    FAILURES,
    HEATMAPS,
    Alert,
    Example,
    FourCells,
    Panel,
    Panels,
    Record,
    Scalars,
    Strip,
    VerdictRow,
    Verdicts,
)

__all__ = [
    "CELLS",
    "FAILURES",
    "HEATMAPS",
    "Alert",
    "Example",
    "FilesSink",
    "FourCells",
    "History",
    "Panel",
    "Panels",
    "Record",
    "Scalars",
    "Sink",
    "SinkGroup",
    "Strip",
    "VerdictRow",
    "Verdicts",
    "read_history",
]
