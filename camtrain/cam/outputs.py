"""Where the logits are in what a network returned: the one place that looks."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from camtrain.errors import BatchError, CamtrainError

_LOGIT_KEYS = ("logits", "out", "output", "prediction", "predictions", "preds")
_ROUNDING = 64  # units in the last place by which one softmax may differ from another


def find_logits(output: Any) -> Tensor:
    """The logits in what a model returned: a tensor, the first tensor of a tuple, or a mapping's or object's `logits`.

    Containers may hold containers. Of probabilities and the logits that they are the softmax (or the sigmoid) of, the
    logits are taken, wherever they stand.
    Raises BatchError where there is none.

    >>> find_logits({"loss": torch.tensor(0.0), "logits": torch.zeros(2, 3)}).shape
    torch.Size([2, 3])
    >>> find_logits((torch.tensor([[0.5, 0.5]]), torch.tensor([[4.0, 4.0]])))
    tensor([[4., 4.]])
    """
    tensors = [value for value in logits_candidates(output) if isinstance(value, Tensor)]
    if not tensors:
        keys = f"the keys {list(output)}" if isinstance(output, Mapping) else type(output).__name__
        raise BatchError(
            f"No logits in the model's output, which held {keys}: return a tensor, a tuple that starts with it, "
            "or a mapping with 'logits'."
        )
    return tensors[0]


def logits_candidates(output: Any) -> list[Any]:
    """What in a model's output may be the logits: a tensor itself, what is named so, else all that it holds, in order.

    Where no value is a tensor, the sequences among them are looked into, and the mappings that name their logits: those
    of a detector do not. Probabilities beside their logits are no candidates.

    >>> logits_candidates({"loss": 0.0, "logits": [1.0]}), logits_candidates((1, 2))
    ([[1.0]], [1, 2])
    >>> [tuple(tensor.shape) for tensor in logits_candidates(([torch.zeros(2, 3)], {"loss": None}))]
    [(2, 3)]
    """
    values = _values(output)
    if not any(isinstance(value, Tensor) for value in values):
        values = [inner for value in values for inner in _inner_tensors(value)] or values
    tensors = [value for value in values if isinstance(value, Tensor)]
    return [value for value in values if not any(is_normalized_from(value, other) for other in tensors)]


def is_normalized_from(probabilities: Any, logits: Tensor) -> bool:
    """Whether a tensor `(B, C, *S)` is the softmax over classes, or the sigmoid, of another one of its shape.

    >>> is_normalized_from(torch.tensor([[0.5, 0.5]]), torch.tensor([[4.0, 4.0]]))
    True
    """
    if probabilities is logits or not isinstance(probabilities, Tensor) or probabilities.shape != logits.shape:
        return False
    if probabilities.ndim == 0 or not (probabilities.is_floating_point() and logits.is_floating_point()):
        return False
    tolerance = _ROUNDING * torch.finfo(probabilities.dtype).eps
    with torch.no_grad():
        expected = [logits.detach().sigmoid()]
        if logits.ndim > 1 and logits.shape[1] > 1:  # the softmax of a single logit is 1 whatever it is
            expected.append(logits.detach().softmax(dim=1))
        return any(bool(((made - probabilities.detach()).abs() <= tolerance).all()) for made in expected)


def answers(output: Any) -> list[Tensor]:
    """The logits of a model's output, or all of its floating tensors where it has none (boxes and scores)."""
    try:
        return [find_logits(output)]
    except CamtrainError:
        leaves = pytree.tree_leaves(output)
        return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _values(output: Any) -> list[Any]:
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):
        named = [output[key] for key in _LOGIT_KEYS if key in output]
        return named or [value for value in output.values() if isinstance(value, Tensor) and value.ndim >= 2]
    if hasattr(output, "logits"):
        return [output.logits]
    return list(output) if isinstance(output, (tuple, list)) else []


def _inner_tensors(value: Any) -> list[Tensor]:
    """The tensors inside a container, in order; of a mapping only those that it names as logits."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [tensor for key in _LOGIT_KEYS if key in value for tensor in _inner_tensors(value[key])]
    inner = [value.logits] if hasattr(value, "logits") else value if isinstance(value, (tuple, list)) else []
    return [tensor for each in inner for tensor in _inner_tensors(each)]
