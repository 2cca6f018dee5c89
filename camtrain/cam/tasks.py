"""Targets beyond one class of one image: regression, embeddings, segmentation, detection, text."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from camtrain.cam.spatial import pool_masks
from camtrain.cam.targets import Target, named
from camtrain.errors import BatchError


def regression_output(index: int = 0, *, sign: int = 1) -> Target:
    """A target: one output of a regression, from outputs `(B,)` or `(B, D)`.

    `sign=-1` explains what lowers it.

    >>> regression_output()(torch.tensor([[1.5], [2.0]]), None)
    tensor([1.5000, 2.0000])
    """

    def target(outputs: Tensor, labels: Tensor | None = None) -> Tensor:
        columns = outputs.reshape(outputs.shape[0], -1)
        if not -columns.shape[1] <= index < columns.shape[1]:
            raise BatchError(f"regression_output({index}) is outside the {columns.shape[1]} outputs of the model.")
        return sign * columns[:, index]

    return named(target, f"output_{index}" if sign > 0 else f"minus_output_{index}")


def embedding_similarity(embeddings: Float[Tensor, "*B D"]) -> Target:
    """A target: the cosine between the model's embedding `(B, D)` and a given one, `(D,)` or one per image `(B, D)`.

    A zero embedding has similarity 0.

    >>> embedding_similarity(torch.tensor([1.0, 0.0]))(torch.tensor([[3.0, 4.0]]), None)
    tensor([0.6000])
    """

    def target(outputs: Tensor, labels: Tensor | None = None) -> Tensor:
        if outputs.ndim != 2 or outputs.shape[1] != embeddings.shape[-1]:
            raise BatchError(
                f"embedding_similarity compares with {embeddings.shape[-1]} numbers; the model gave "
                f"{tuple(outputs.shape)}."
            )
        return F.cosine_similarity(outputs, embeddings.to(outputs), dim=1)

    return named(target, "embedding_similarity")


def segmentation_region(index: int, masks: Tensor | None = None) -> Target:
    """A target: the sum of a class's logits over a region, from logits `(B, C, *S)`.

    The region is given by masks `(B, *S)` or one `(*S)` at any resolution, else it is where the class is predicted.
    An empty region scores 0 and gives an empty map. Source: Vinogradova et al. 2020 (Seg-Grad-CAM).

    >>> segmentation_region(1, torch.tensor([[1.0, 0.0]]))(torch.tensor([[[[5.0, 2.0]], [[3.0, 4.0]]]]), None)
    tensor([3.])
    """

    def target(logits: Tensor, labels: Tensor | None = None) -> Tensor:
        return _over(logits, index, _region(logits, index) if masks is None else masks)

    def settle(logits: Tensor, labels: Tensor | None = None) -> Target:
        fixed = _region(logits, index) if masks is None else masks
        return lambda varied, _: _over(varied, index, fixed)

    return named(target, f"region_{index}", settle)


def _region(logits: Tensor, index: int) -> Tensor:
    return (logits.detach().argmax(dim=1) == index).to(logits.dtype)


def _over(logits: Tensor, index: int, masks: Tensor) -> Tensor:
    if logits.ndim < 4 or not -logits.shape[1] <= index < logits.shape[1]:
        raise BatchError(
            f"segmentation_region({index}) needs logits (B, C, *S) with that class, not {tuple(logits.shape)}."
        )
    size = logits.shape[2:]
    batched = masks.to(logits).expand(logits.shape[0], *masks.shape[-len(size) :])
    return (logits[:, index] * pool_masks(batched, size)).flatten(1).sum(dim=1)


def answer_log_probability(answer: int | Tensor, *, ignore: int = -100) -> Target:
    """A target: the log-probability of an answer.

    From logits `(B, C)` the answer is a class, one number or `(B,)`; from token logits `(B, T, V)` it is `T` token
    numbers, `(T,)` or `(B, T)`, whose log-probabilities are summed; `ignore` marks padding.

    >>> answer_log_probability(torch.tensor([0, 1]))(torch.zeros(1, 2, 4), None).exp()
    tensor([0.0625])
    """
    tokens = torch.as_tensor(answer)

    def target(logits: Tensor, labels: Tensor | None = None) -> Tensor:
        words = tokens.to(logits.device).expand(logits.shape[:-1])
        chosen = words.masked_fill(words == ignore, 0).unsqueeze(-1)
        likelihood = _log_softmax(logits).gather(-1, chosen).squeeze(-1)
        return likelihood.masked_fill(words == ignore, 0).reshape(logits.shape[0], -1).sum(dim=1)

    return named(target, "answer_log_probability")


def caption_token(position: int, token: int | None = None) -> Target:
    """A target: the log-probability of one word of a caption, from token logits `(B, T, V)`.

    The word is the given one, else the label `(B, T)` at that position, else the most likely one.

    >>> caption_token(1)(torch.zeros(1, 3, 5), None).exp()
    tensor([0.2000])
    """

    def words(logits: Tensor, labels: Tensor | None) -> Tensor:
        if logits.ndim != 3 or not -logits.shape[1] <= position < logits.shape[1]:
            raise BatchError(
                f"caption_token({position}) needs logits (B, T, V) that reach it, not {tuple(logits.shape)}."
            )
        if token is not None:
            return torch.full((logits.shape[0],), token, device=logits.device)
        return logits[:, position].argmax(dim=1) if labels is None else labels[:, position].to(logits.device)

    def score(logits: Tensor, chosen: Tensor) -> Tensor:
        return _log_softmax(logits[:, position]).gather(1, chosen.unsqueeze(1)).squeeze(1)

    def settle(logits: Tensor, labels: Tensor | None = None) -> Target:
        chosen = words(logits, labels)
        return lambda varied, _: score(varied, chosen)

    return named(lambda logits, labels=None: score(logits, words(logits, labels)), f"word_{position}", settle)


def _log_softmax(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)


def detection_box(boxes: Float[Tensor, "*B 4"], index: int | None = None) -> Target:
    """A target: how sure a detector is of an object at a given box `(x1, y1, x2, y2)`, one or `(B, 4)`.

    It reads the model's output: a list of `{"boxes", "scores", "labels"}` (torchvision's detectors), or a mapping with
    `boxes` `(B, N, 4)` and `scores` or `logits` `(B, N, C)`, one for each anchor. The score is that of the box which
    overlaps the given one most, among those of class `index` where it is given. Where none overlaps, the score is 0 and
    the map empty.

    >>> boxes = torch.tensor([[0.0, 0, 2, 2], [4, 4, 8, 8]])
    >>> found = {"boxes": boxes, "scores": torch.tensor([0.9, 0.6]), "labels": torch.tensor([1, 1])}
    >>> detection_box(torch.tensor([4.0, 4, 8, 7]))([found], None)
    tensor([0.6000])
    """

    def target(output: Any, labels: Tensor | None = None) -> Tensor:
        found = _detections(output, index)
        wanted = boxes.expand(len(found), 4)
        return torch.stack([_score_at(*each, box) for each, box in zip(found, wanted, strict=True)])

    return named(target, "detection_box", wants_output=True)


def _detections(output: Any, index: int | None) -> list[tuple[Tensor, Tensor]]:
    """Boxes `(N, 4)` and scores `(N,)` of each image, of the wanted class."""
    if isinstance(output, Sequence) and all(isinstance(each, Mapping) for each in output):
        return [_of_class(each, index) for each in output]
    scores = output.get("scores", output.get("logits")) if isinstance(output, Mapping) else None
    if scores is None or "boxes" not in output:
        held = list(output) if isinstance(output, Mapping) else type(output).__name__
        raise BatchError(
            "detection_box reads a list of mappings with boxes, scores and labels, or a mapping with boxes and scores; "
            f"the model gave {held}."
        )
    chosen = scores.max(dim=2).values if index is None else scores[:, :, index]
    return list(zip(output["boxes"], chosen, strict=True))


def _of_class(found: Mapping[str, Tensor], index: int | None) -> tuple[Tensor, Tensor]:
    boxes, scores = found["boxes"], found["scores"]
    if index is None:
        return boxes, scores
    of_class = found["labels"] == index
    return boxes[of_class], scores[of_class]


def _score_at(boxes: Tensor, scores: Tensor, wanted: Tensor) -> Tensor:
    if len(boxes) == 0:
        return scores.sum()  # zero, and part of the graph
    overlap = _overlap(boxes.detach(), wanted.to(boxes))
    return torch.where(overlap.max() > 0, scores[overlap.argmax()], 0)


def _overlap(boxes: Float[Tensor, "N 4"], box: Float[Tensor, "4"]) -> Float[Tensor, " N"]:
    """Intersection over union of boxes with one box."""
    sides = (torch.minimum(boxes[:, 2:], box[2:]) - torch.maximum(boxes[:, :2], box[:2])).clamp_min(0)
    shared = sides.prod(dim=1)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1) + (box[2:] - box[:2]).prod() - shared
    return shared / union.clamp_min(torch.finfo(boxes.dtype).tiny)
