"""Lightning callbacks: see, flag, correct."""

if __name__ == "callbacks":
    raise ImportError("import camtrain.callbacks, not callbacks: the bare name loads a second copy of every class")

from camtrain.callbacks.attention_alignment import AttentionAlignment
from camtrain.callbacks.cue_randomization import CueRandomization
from camtrain.callbacks.explanation_monitor import ExplanationMonitor
from camtrain.callbacks.faithfulness_monitor import FaithfulnessMonitor
from camtrain.callbacks.last_layer_retraining import LastLayerRetraining
from camtrain.callbacks.reliance_detector import RelianceDetector
from camtrain.callbacks.run_summary import RunSummary

__all__ = [
    "AttentionAlignment",
    "CueRandomization",
    "ExplanationMonitor",
    "FaithfulnessMonitor",
    "LastLayerRetraining",
    "RelianceDetector",
    "RunSummary",
]
