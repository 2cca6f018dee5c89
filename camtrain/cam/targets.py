"""What is explained: functions from logits (and labels) to one score per image."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from camtrain.errors import BatchError

Target = Callable[[Tensor, "Tensor | None"], Tensor]
_LOGIT_KEYS = ("logits", "out", "output", "prediction", "predictions", "preds")


def _chosen(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes.to(logits.device, torch.int64).unsqueeze(1)).squeeze(1)


def predicted_class(logits: Float[Tensor, "B C"], labels: Int[Tensor, " B"] | None = None) -> Float[Tensor, " B"]:
    """The logit of the class predicted for each image. A single logit a row is its own prediction.

    >>> predicted_class(torch.tensor([[1.0, 5.0], [2.0, 0.0]]))
    tensor([5., 2.])
    """
    return _chosen(logits, logits.argmax(dim=1))


def true_class(logits: Float[Tensor, "B C"], labels: Int[Tensor, " B"] | None = None) -> Float[Tensor, " B"]:
    """The logit of the label. Without labels: BatchError.

    >>> true_class(torch.tensor([[1.0, 5.0]]), torch.tensor([0]))
    tensor([1.])
    """
    if labels is None:
        raise BatchError("The target true_class needs labels and got none: pass labels=(B,) or use predicted_class.")
    return _chosen(logits, labels)


def log_probability(logits: Float[Tensor, "B C"], labels: Int[Tensor, " B"] | None = None) -> Float[Tensor, " B"]:
    """`log_softmax(logits)[label]`, of the predicted class where there are no labels. Computed in at least float32.

    >>> log_probability(torch.zeros(1, 4), torch.tensor([2])).exp()
    tensor([0.2500])
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return _chosen(logits.to(dtype).log_softmax(dim=1), logits.argmax(dim=1) if labels is None else labels)


def class_index(index: int) -> Target:
    """A target: the logit of one given class for every image.

    >>> class_index(1)(torch.tensor([[1.0, 5.0]]), None)
    tensor([5.])
    """

    def target(logits: Tensor, labels: Tensor | None = None) -> Tensor:
        if not -logits.shape[1] <= index < logits.shape[1]:
            raise BatchError(f"class_index({index}) is outside the {logits.shape[1]} classes of the logits.")
        return logits[:, index]

    target.__name__ = f"class_{index}"
    return target


def margin(a: int, b: int) -> Target:
    """A target: how much the logit of class `a` exceeds that of class `b`.

    >>> margin(1, 0)(torch.tensor([[1.0, 5.0]]), None)
    tensor([4.])
    """
    first, second = class_index(a), class_index(b)

    def target(logits: Tensor, labels: Tensor | None = None) -> Tensor:
        return first(logits, labels) - second(logits, labels)

    target.__name__ = f"margin_{a}_{b}"
    return target


def _candidates(output: Any) -> list[Any]:
    if isinstance(output, Mapping):
        named = [output[key] for key in _LOGIT_KEYS if key in output]
        return named or [value for value in output.values() if isinstance(value, Tensor) and value.ndim >= 2]
    if hasattr(output, "logits"):
        return [output.logits]
    return list(output) if isinstance(output, (tuple, list)) else []


def find_logits(output: Any) -> Tensor:
    """The logits in what a model returned: a tensor, the first tensor of a tuple, or a mapping's or object's `logits`.

    >>> find_logits({"loss": torch.tensor(0.0), "logits": torch.zeros(2, 3)}).shape
    torch.Size([2, 3])
    """
    if isinstance(output, Tensor):
        return output
    found = [value for value in _candidates(output) if isinstance(value, Tensor)]
    if not found:
        held = f"the keys {list(output)}" if isinstance(output, Mapping) else type(output).__name__
        raise BatchError(
            f"No logits in the model's output, which held {held}: return a tensor, a tuple that starts with it, or a mapping with 'logits'."
        )
    return found[0]
