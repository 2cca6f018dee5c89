"""What a network was asked and what it answered: the one reader of outputs for all that stands above it."""

from camtrain.tasks.base import Asked, Task, Units, View
from camtrain.tasks.classification import Binary, MultiLabel, SingleLabel, judged
from camtrain.tasks.detection import Detection
from camtrain.tasks.language import Captioning, QuestionAnswering
from camtrain.tasks.regression import Regression
from camtrain.tasks.resolve import TASKS, check_task, resolve_task
from camtrain.tasks.segmentation import Segmentation

__all__ = [
    "TASKS",
    "Asked",
    "Binary",
    "Captioning",
    "Detection",
    "MultiLabel",
    "QuestionAnswering",
    "Regression",
    "Segmentation",
    "SingleLabel",
    "Task",
    "Units",
    "View",
    "check_task",
    "judged",
    "resolve_task",
]
