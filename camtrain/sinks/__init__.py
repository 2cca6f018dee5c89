"""Where records go."""

from camtrain.records import (
    CELLS,
    FAILURES,
    HEATMAPS,
    Alert,
    Example,
    FourCells,
    History,
    Panel,
    Panels,
    Record,
    Scalars,
    Strip,
    Verdict,
    Verdicts,
    read_history,
)
from camtrain.sinks.base import Sink, SinkGroup
from camtrain.sinks.files import FilesSink

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
    "Verdict",
    "Verdicts",
    "read_history",
]
