"""Which task it is: by name, or by what a network answered and what is true of it."""

from typing import Any

from torch import Tensor

from camtrain.cam import find_logits
from camtrain.errors import BatchError, ConfigurationError
from camtrain.tasks.answers import holds_boxes
from camtrain.tasks.base import Asked, Task, are_unknown
from camtrain.tasks.classification import Binary, MultiLabel, SingleLabel, describe
from camtrain.tasks.detection import Detection
from camtrain.tasks.language import Captioning, QuestionAnswering
from camtrain.tasks.regression import Regression
from camtrain.tasks.segmentation import Segmentation

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (
        SingleLabel,
        Binary,
        MultiLabel,
        Regression,
        Segmentation,
        Detection,
        Captioning,
        QuestionAnswering,
    )
}


def check_task(task: Any) -> None:
    """ConfigurationError for what is neither "auto" nor a task nor the name of one.

    >>> check_task("binary")
    """
    if isinstance(task, Task) or task == "auto" or (isinstance(task, str) and task in TASKS):
        return
    raise ConfigurationError(f"task={task!r} is none: give 'auto', a Task, or one of {', '.join(map(repr, TASKS))}.")


def resolve_task(task: str | Task, outputs: Any, batch: Asked) -> Task:
    """The task that a network's outputs and a batch's labels are of.

    Args:
        task: "auto", a name, or a task, which is returned as it is.
        outputs: what the network returned for the batch.
        batch: with `images`, `labels` and `masks`, as `camtrain.data.read_batch` reads it.

    Returns:
        The task; of a regression with the center and the spread of this batch's labels.

    "auto" decides by what is observed: logits `(B, C >= 2)` with class indices `(B,)`: single label (also without
    labels); `(B,)` or `(B, 1)` with labels that are all 0 or 1: binary; `(B, C)` with labels `(B, C)` of 0 and 1:
    multi label; `(B,)` or `(B, 1)` with other floats: regression; `(B, C, *S)` with integer maps `(B, *S)`:
    segmentation; boxes: detection. What is left is not guessed.

    Raises:
        ConfigurationError: for a name that is none.
        BatchError: where "auto" cannot decide, naming the choices.

    >>> import torch
    >>> from types import SimpleNamespace
    >>> batch = SimpleNamespace(images=torch.zeros(2, 3, 4, 4), labels=torch.tensor([0.0, 1.0]), masks=None)
    >>> resolve_task("auto", torch.zeros(2, 1), batch)
    Binary()
    """
    check_task(task)
    chosen = task if isinstance(task, Task) else observed(outputs, batch.labels) if task == "auto" else TASKS[task]()
    if isinstance(chosen, Regression) and isinstance(batch.labels, Tensor):
        return chosen.fitted(batch.labels)
    return chosen


def observed(outputs: Any, labels: Any) -> Task:
    """The task, by looking. BatchError where that cannot be decided."""
    if holds_boxes(outputs):
        return Detection()
    logits = find_logits(outputs)
    shape = tuple(logits.shape)
    if logits.ndim > 2 and logits[0].numel() == shape[1] and (labels is None or labels.ndim <= 2):
        logits, shape = logits.flatten(1), tuple(shape[:2])  # a head of 1x1 convolutions
    if isinstance(labels, Tensor):
        task = _by_labels(logits, labels)
        if task is not None:
            return task
    elif labels is None and logits.ndim == 2 and shape[1] >= 2:
        return SingleLabel()
    raise BatchError(
        f"Which task this is cannot be told: the network answers {shape}, the labels are {describe(labels)}. Name it: "
        f"task={' or '.join(repr(name) for name in _fitting(shape))}, or pass a Task of your own."
    )


def _by_labels(logits: Tensor, labels: Tensor) -> Task | None:
    count, single = len(logits), logits.numel() == len(logits)
    column = labels.shape in ((count,), (count, 1))
    if single and column:
        if _are_hard(labels):
            return Binary()
        return Regression() if labels.is_floating_point() else None
    if logits.ndim == 2 and column and not labels.is_floating_point():
        if bool((labels >= logits.shape[1]).any()):
            raise BatchError(
                f"The network answers for {logits.shape[1]} classes, and a label is {int(labels.max())}: give the "
                "network a head for all classes, or unknown labels a negative number."
            )
        return SingleLabel()
    if logits.ndim == 2 and labels.shape == logits.shape and _are_hard(labels):
        return MultiLabel()
    maps = labels.squeeze(1) if labels.ndim == logits.ndim and labels.shape[1] == 1 else labels
    over_space = logits.ndim > 3 and maps.shape == (count, *logits.shape[2:])
    return Segmentation() if over_space and not labels.is_floating_point() else None


def _are_hard(labels: Tensor) -> bool:
    """Whether every label is 0, 1 or unknown, and one at least is known."""
    unknown = labels.isnan() | (labels == -1) | (labels == -100) if labels.is_floating_point() else are_unknown(labels)
    hard = (labels == 0) | (labels == 1)
    return bool((hard | unknown).all()) and bool(hard.any())


def _fitting(shape: tuple[int, ...]) -> list[str]:
    """The names of tasks whose outputs have such a shape."""
    if len(shape) == 1 or shape[1:] == (1,):
        return ["binary", "regression"]
    if len(shape) == 2:
        return ["single_label", "multi_label", "question_answering"]
    return ["captioning", "segmentation"] if len(shape) == 3 else ["segmentation"]
