"""What is in an answer, whatever the task: where it is in an output, how probable its classes are, what it costs."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from camtrain.cam import find_logits, logits_candidates
from camtrain.errors import BatchError
from camtrain.tasks.base import in_float

# Where it is.


def find_answers(output: Any) -> list[Tensor]:
    """The tensors in what a module returned that may hold logits: `(B, C)`, `(B, C, 1, 1)` or, for one logit, `(B,)`.

    A named one (`logits`) is alone. Of several, features that feed logits are left out, and where some have a graph,
    those without.

    >>> import torch
    >>> features = torch.ones(2, 8, requires_grad=True) * 2
    >>> [tuple(answer.shape) for answer in find_answers((features, features[:, :3]))]
    [(2, 3)]
    """
    tensors = [v for v in logits_candidates(output) if isinstance(v, Tensor) and v.is_floating_point() and v.ndim]
    flat = [v for v in tensors if v.ndim > 1 and math.prod(v.shape[2:]) == 1] or [v for v in tensors if v.ndim == 1]
    if len(flat) > 1:
        flat = [v for v in flat if v.requires_grad] or flat
        flat = [v for v in flat if not any(other is not v and depends_on(other, v) for other in flat)]
    return flat


def first_answer(output: Any) -> Tensor:
    """The first of them, which is a node of the graph; BatchError if there is none."""
    answers = find_answers(output)
    return answers[0] if answers else find_logits(output)


def as_rows(answer: Tensor) -> Tensor:
    """Logits as `(B, C)`.

    >>> import torch
    >>> as_rows(torch.ones(2, 3, 1, 1)).shape, as_rows(torch.ones(2)).shape
    (torch.Size([2, 3]), torch.Size([2, 1]))
    """
    return answer.unsqueeze(1) if answer.ndim == 1 else answer.flatten(1) if answer.ndim > 2 else answer


def answer_shape(output: Any) -> tuple[int, ...]:
    """The shape of the logits of one image.

    >>> answer_shape(torch.zeros(4, 3))
    (3,)
    """
    return tuple(find_logits(output).shape[1:])


def holds_boxes(output: Any) -> bool:
    """Whether an output is a list of predictions with boxes.

    >>> holds_boxes([{"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0)}])
    True
    """
    listed = isinstance(output, Sequence) and not isinstance(output, str) and len(output) > 0
    return listed and all(isinstance(each, Mapping) and {"boxes", "scores", "labels"} <= set(each) for each in output)


def depends_on(tensor: Tensor, source: Tensor) -> bool:
    """Whether a tensor's graph holds the node that made another, or starts at it.

    >>> import torch
    >>> a = torch.ones(2, requires_grad=True) * 2
    >>> depends_on(a.sum(), a), depends_on(a, a.sum())
    (True, False)
    """
    return any(node is source.grad_fn or getattr(node, "variable", None) is source for node in graph_of(tensor))


def graph_of(tensor: Tensor) -> Iterator[Any]:
    """The nodes of a tensor's graph, each once.

    >>> import torch
    >>> [type(node).__name__ for node in graph_of(torch.ones(2, requires_grad=True) * 2)]
    ['MulBackward0', 'AccumulateGrad']
    """
    seen, stack = set(), [tensor.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        yield node
        seen.add(node)
        stack.extend(parent for parent, _ in node.next_functions)


# How probable.


def probabilities(logits: Float[Tensor, "B C"]) -> Float[Tensor, "B K"]:
    """Softmax in float32; a single logit is read as the second of two classes.

    >>> probabilities(torch.zeros(1, 1)).tolist()
    [[0.5, 0.5]]
    """
    return _of_classes(logits.float()).softmax(dim=1)


def log_odds(logits: Float[Tensor, "B C"], classes: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Of each row's class against all others; a single logit is read as the second of two classes.

    >>> log_odds(torch.tensor([[2.0, 1.0]]), torch.tensor([0])).tolist()
    [1.0]
    """
    logits = _of_classes(logits.float())
    others = logits.scatter(1, classes[:, None], -torch.inf)
    return logits.gather(1, classes[:, None])[:, 0] - others.logsumexp(dim=1)


def _of_classes(logits: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(logits), logits], dim=1) if logits.shape[1] == 1 else logits


def class_probability(logits: Tensor, labels: Tensor | None = None) -> Float[Tensor, " B"]:
    """A target: the probability of the label, of the predicted class without labels. In at least float32.

    Of a single logit it is the sigmoid.

    >>> class_probability(torch.tensor([[0.0, 0.0, -1e9], [0.0, 1e9, 0.0]]))
    tensor([0.5000, 1.0000])
    """
    full = in_float(logits)
    if logits.shape[1] == 1:
        return full.sigmoid().squeeze(1)
    chosen = logits.argmax(dim=1) if labels is None else labels.to(logits.device, torch.int64)
    return full.softmax(dim=1).gather(1, chosen.unsqueeze(1)).squeeze(1)


# What it costs.


def finite_rows(logits: Tensor) -> Tensor:
    """Logits `(B, C)` with rows that are not finite as 0 and without a gradient, so that they spoil no other row's.

    >>> finite_rows(torch.tensor([[1.0, 2.0], [torch.inf, 0.0]]))
    tensor([[1., 2.],
            [0., 0.]])
    """
    return torch.where(logits.isfinite().all(dim=1, keepdim=True), logits, 0)


def mean_loss(logits: Tensor, labels: Tensor | None, counted: Tensor | None = None) -> Tensor:
    """The mean over the twins that are counted, in at least float32; binary where labels are multi-hot; 0 of none.

    Class indices below 0, and multi-hot labels off [0, 1], are not known and left out. NaN where an answer is not
    finite. BatchError for other labels.
    """
    assert labels is not None
    logits = in_float(logits)
    sound = logits.detach().isfinite().all()
    rows = torch.ones_like(logits[:, 0], dtype=torch.bool) if counted is None else counted
    logits = finite_rows(logits)
    if logits.shape[1] == 1 and labels.numel() == len(logits):
        wanted, known = labels.reshape(-1, 1).to(logits.dtype), rows.unsqueeze(1)
    elif labels.ndim == 2 and labels.shape == logits.shape:
        known = (labels >= 0) & (labels <= 1) & rows.unsqueeze(1)  # -1 or NaN: not known
        wanted = torch.where(known, labels, 0).to(logits.dtype)
    elif labels.ndim == 1 and not labels.is_floating_point():
        known = rows & (labels >= 0)
        each = F.cross_entropy(logits, torch.where(known, labels, -100).long(), reduction="none")
        return torch.where(sound, each.sum() / known.sum().clamp(min=1), torch.nan)
    else:
        raise BatchError(
            f"Twins need a class index per image, or multi-hot labels of the logits' shape {tuple(logits.shape)}; "
            f"got {labels.dtype} of shape {tuple(labels.shape)}. Convert them in a batch_adapter, or set twins=0."
        )
    total = F.binary_cross_entropy_with_logits(logits, wanted, known.to(logits.dtype), reduction="sum")
    return torch.where(sound, total / known.sum().clamp(min=1), torch.nan)


def divergence(logits: Float[Tensor, "B C"], expected: Float[Tensor, "B C"], labels: Tensor | None) -> Tensor:
    """How far answers are from those that are expected, `(B,)`: of values `(B,)`, of several labels, else of a class.

    >>> divergence(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.0]]), torch.tensor([1]))
    tensor([0.])
    """
    logits = finite_rows(in_float(logits))
    expected = expected.to(logits.dtype)
    if labels is not None and labels.ndim == 1 and labels.is_floating_point():
        return (logits - expected).square().mean(dim=1)
    if (labels is not None and labels.ndim == 2) or logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits, expected.sigmoid(), reduction="none").mean(dim=1)
    answers, wanted = logits.log_softmax(dim=1), expected.log_softmax(dim=1)
    return F.kl_div(answers, wanted, reduction="none", log_target=True).sum(dim=1)
