"""What is explained: functions from logits (and labels) to one score per image.

A target that chooses something from the logits (the predicted class) can be `settled`: the choice made once, on the
images as they are, and kept for the noisy, masked or occluded copies of them that some methods look at.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from camtrain.cam.outputs import find_logits
from camtrain.errors import BatchError

Target = Callable[[Tensor, "Tensor | None"], Tensor]
Settle = Callable[[Tensor, "Tensor | None"], Target]


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


def log_probability(logits: Float[Tensor, "B C"], labels: Tensor | None = None) -> Float[Tensor, " B"]:
    """`log_softmax(logits)[label]`, of the predicted class where there are no labels. Computed in at least float32.

    A single logit a row is that of the second of two classes: `log sigmoid` of it where the label is 1 (or it is above
    0), of its negative where it is 0. BatchError for labels that are no classes.

    >>> log_probability(torch.zeros(1, 4), torch.tensor([2])).exp()
    tensor([0.2500])
    >>> log_probability(torch.tensor([[2.0], [2.0]]), torch.tensor([1, 0])).exp()
    tensor([0.8808, 0.1192])
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    if logits.shape[1] == 1:
        return _binary_log_probability(logits.squeeze(1).to(dtype), labels)
    if labels is not None and (labels.ndim != 1 or labels.is_floating_point()):
        raise BatchError(
            f"The target log_probability needs a class index per image; got {labels.dtype} of shape "
            f"{tuple(labels.shape)}. Convert the labels, or give another target."
        )
    return _chosen(logits.to(dtype).log_softmax(dim=1), logits.argmax(dim=1) if labels is None else labels)


def _binary_log_probability(logits: Tensor, labels: Tensor | None) -> Tensor:
    positive = (logits > 0) if labels is None else labels.reshape(-1).to(logits.device)
    if positive.shape != logits.shape or not bool(((positive == 0) | (positive == 1)).all()):
        raise BatchError(
            f"A single logit per image needs labels 0 or 1; got {positive.dtype} of shape {tuple(positive.shape)}. "
            "Convert the labels, or give another target."
        )
    return F.logsigmoid(torch.where(positive.bool(), logits, -logits))


def class_index(index: int | Tensor) -> Target:
    """A target: the logit of one given class for every image, or of one class for each image (a tensor `(B,)`).

    >>> class_index(1)(torch.tensor([[1.0, 5.0]]), None)
    tensor([5.])
    """
    chosen = torch.as_tensor(index)

    def target(logits: Tensor, labels: Tensor | None = None) -> Tensor:
        count = logits.shape[1]
        if not torch.all((chosen >= -count) & (chosen < count)):
            raise BatchError(f"class_index({chosen.tolist()}) is outside the {count} classes of the logits.")
        return _chosen(logits, (chosen % count).expand(logits.shape[0]))

    return named(target, "class_per_image" if chosen.ndim else f"class_{index}")


def margin(a: int, b: int) -> Target:
    """A target: how much the logit of class `a` exceeds that of class `b`.

    >>> margin(1, 0)(torch.tensor([[1.0, 5.0]]), None)
    tensor([4.])
    """
    first, second = class_index(a), class_index(b)

    def target(logits: Tensor, labels: Tensor | None = None) -> Tensor:
        return first(logits, labels) - second(logits, labels)

    return named(target, f"margin_{a}_{b}")


def nth_class(rank: int) -> Target:
    """A target: the logit of the class at a rank of the prediction; rank 0 is the predicted class.

    >>> nth_class(1)(torch.tensor([[1.0, 5.0, 3.0]]), None)
    tensor([3.])
    """

    def ranked(logits: Tensor) -> Tensor:
        if not 0 <= rank < logits.shape[1]:
            raise BatchError(f"nth_class({rank}) is outside the {logits.shape[1]} classes of the logits.")
        return logits.topk(rank + 1, dim=1).indices[:, rank]

    def target(logits: Tensor, labels: Tensor | None = None) -> Tensor:
        return _chosen(logits, ranked(logits))

    return named(target, f"rank_{rank}", lambda logits, labels: class_index(ranked(logits)))


def top_k(k: int) -> tuple[Target, ...]:
    """The targets of the `k` most likely classes, most likely first: one forward, `k` partial backwards.

    >>> [target.__name__ for target in top_k(2)]
    ['rank_0', 'rank_1']
    """
    if k < 1:
        raise BatchError(f"top_k needs at least one class, not {k}.")
    return tuple(nth_class(rank) for rank in range(k))


def multi_label(logits: Float[Tensor, "B C"], labels: Tensor | None = None) -> Float[Tensor, " B"]:
    """The sum of the logits of every class present: by multi-hot labels `(B, C)`, else those with a logit above 0.

    For each class on its own take `class_index`. An image without any class scores 0 and gets an empty map.

    >>> multi_label(torch.tensor([[1.0, -5.0, 3.0]]))
    tensor([4.])
    """
    present = logits.detach() > 0 if labels is None else labels.to(logits.device) > 0.5
    if present.shape != logits.shape:
        raise BatchError(
            f"The target multi_label needs multi-hot labels {tuple(logits.shape)}, not {tuple(present.shape)}."
        )
    return torch.where(present, logits, 0).sum(dim=1)


def sampled_positive(
    logits: Float[Tensor, "B C"], labels: Tensor | None = None, *, generator: torch.Generator | None = None
) -> Float[Tensor, " B"]:
    """`log sigmoid(logit)` of one class present in each image, drawn at random from multi-hot labels `(B, C)`.

    What `log_probability` is for one label, this is for several: in training every one has its turn. An image without
    any class scores 0 and gets an empty map. The generator is on the CPU; the global one if None.

    >>> sampled_positive(torch.zeros(1, 3), torch.tensor([[0, 1, 0]])).exp()
    tensor([0.5000])
    """
    if labels is None or labels.shape != logits.shape:
        given = "none" if labels is None else tuple(labels.shape)
        raise BatchError(f"The target sampled_positive needs multi-hot labels {tuple(logits.shape)}; got {given}.")
    present = labels > 0.5
    some = present.any(dim=1)
    shares = torch.where(some.unsqueeze(1), present.float(), 1.0).cpu()
    drawn = torch.multinomial(shares, 1, generator=generator).squeeze(1) if len(shares) else shares.new_zeros(0)
    scores = F.logsigmoid(_chosen(logits.to(torch.promote_types(logits.dtype, torch.float32)), drawn))
    return torch.where(some.to(logits.device), scores, 0)


def finer(rivals: int = 3, *, index: int | None = None) -> Target:
    """A target: what tells a class from those closest to it, `sum_j p_j (f_c - f_j) / sum_j p_j`.

    `c` is the given class, else the label, else the predicted class; `j` runs over the `rivals` classes with the
    closest logits (fewer where there are not as many), `p_j` are their probabilities. Any base method serves.
    Source: Zhang et al. 2025 (Finer-CAM).

    >>> finer(1)(torch.tensor([[1.0, 5.0, 3.0]]), None)
    tensor([2.])
    """
    if rivals < 1:
        raise BatchError(f"finer needs at least one rival class, not {rivals}.")

    def target(logits: Tensor, labels: Tensor | None = None) -> Tensor:
        return _finer(logits, *_rivals(logits.detach(), labels, rivals, index))

    def settle(logits: Tensor, labels: Tensor | None = None) -> Target:
        chosen, closest = _rivals(logits, labels, rivals, index)
        return lambda varied, _: _finer(varied, chosen, closest)

    return named(target, "finer", settle)


def _rivals(logits: Tensor, labels: Tensor | None, rivals: int, index: int | None) -> tuple[Tensor, Tensor]:
    """The explained class `(B,)` and its rivals `(B, R)`, closest first."""
    if logits.shape[1] < 2:
        raise BatchError("The target finer compares classes, and the logits have only one: use class_index(0).")
    given = torch.full_like(labels if labels is not None else logits[:, 0], index or 0).long()
    chosen = given if index is not None else logits.argmax(dim=1) if labels is None else labels.long()
    distance = (logits - _chosen(logits, chosen).unsqueeze(1)).abs()
    distance = distance.scatter(1, chosen.unsqueeze(1), torch.inf)
    return chosen, distance.topk(min(rivals, logits.shape[1] - 1), dim=1, largest=False).indices


def _finer(logits: Tensor, chosen: Tensor, rivals: Tensor) -> Tensor:
    dtype = torch.promote_types(logits.dtype, torch.float32)
    weights = logits.to(dtype).log_softmax(dim=1).gather(1, rivals).softmax(dim=1)  # p_j / sum p_j
    return (weights * (_chosen(logits, chosen).unsqueeze(1) - logits.gather(1, rivals))).sum(dim=1)


def named(
    target: Callable[..., Tensor], name: str, settle: Settle | None = None, *, wants_output: bool = False
) -> Target:
    """A target with its name, how it is settled, and whether it reads the model's output instead of the logits."""
    target.__name__ = name
    target.__dict__.update(wants_output=wants_output, **({"settle": settle} if settle else {}))
    return target


def settled(target: Target, logits: Tensor, labels: Tensor | None = None) -> Target:
    """The target with every choice it makes from the logits fixed as it is on these logits.

    >>> fixed = settled(predicted_class, torch.tensor([[1.0, 5.0]]))
    >>> fixed(torch.tensor([[4.0, 2.0]]), None)
    tensor([2.])
    """
    settle = getattr(target, "settle", None)
    return settle(logits.detach(), labels) if settle else target


def score_of(target: Target, output: Any, labels: Tensor | None = None) -> Tensor:
    """The scores `(B,)` of a model's output: of its logits, or of all of it where the target wants that.

    >>> score_of(predicted_class, {"logits": torch.tensor([[1.0, 5.0]])})
    tensor([5.])
    """
    return target(output if getattr(target, "wants_output", False) else find_logits(output), labels)


def _settle_log_probability(logits: Tensor, labels: Tensor | None) -> Target:
    chosen = logits.argmax(dim=1) if labels is None else labels
    return lambda varied, _: log_probability(varied, chosen)


def _settle_multi_label(logits: Tensor, labels: Tensor | None) -> Target:
    present = logits > 0 if labels is None else labels
    return lambda varied, _: multi_label(varied, present)


named(predicted_class, "predicted_class", lambda logits, labels: class_index(logits.argmax(dim=1)))
named(log_probability, "log_probability", _settle_log_probability)
named(multi_label, "multi_label", _settle_multi_label)
