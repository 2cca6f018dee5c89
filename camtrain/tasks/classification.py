"""One label an image, one logit an image, several labels an image."""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from camtrain.errors import BatchError
from camtrain.tasks.base import Asked, Task, Units, View, are_unknown, in_float


class SingleLabel(Task):
    """One of several classes: logits `(B, C >= 2)`, labels `(B,)` of class indices. A unit is an image.

    >>> from types import SimpleNamespace
    >>> batch = SimpleNamespace(images=None, labels=torch.tensor([1, 0]), masks=None)
    >>> unit, = SingleLabel().units(torch.tensor([[0.0, 2.0], [0.0, 1.0]]), batch)
    >>> unit.predictions.tolist(), unit.right.tolist()
    ([1.0, 1.0], [True, False])
    """

    name = "single_label"

    def read(self, output: Any) -> Float[Tensor, "B C"]:
        """`(B, C)`; a map of one cell counts as such."""
        logits = super().read(output)
        if logits.ndim > 2 and logits[0, 0].numel() == 1:
            logits = logits.flatten(1)
        if logits.ndim != 2 or logits.shape[1] < 2:
            raise BatchError(
                f"One label an image needs logits (B, C) of two classes or more; the network gave "
                f"{tuple(logits.shape)}. Name another task, as task='binary' for a single logit."
            )
        return logits

    def units(self, output: Any, batch: Asked) -> list[Units]:
        """An image each; explained is the logit of the predicted class."""
        logits = self.read(output)
        labels = None if batch.labels is None else class_indices(batch.labels, len(logits))
        predictions = logits.argmax(dim=1)
        scores = logits.gather(1, predictions.unsqueeze(1)).squeeze(1)
        return [judged(in_float(logits.detach()).softmax(dim=1), predictions, labels, scores, batch.masks)]

    def evidence(self, output: Any, labels: Any) -> Float[Tensor, " B"]:
        """`log_softmax(logits)[label]`."""
        logits = in_float(self.read(output))
        classes = class_indices(labels, len(logits))
        likelihood = logits.log_softmax(dim=1).gather(1, classes.clamp(0, logits.shape[1] - 1).unsqueeze(1)).squeeze(1)
        return torch.where((classes >= 0) & (classes < logits.shape[1]), likelihood, 0)

    def losses(self, output: Any, labels: Any) -> Float[Tensor, " B"]:
        """Cross-entropy."""
        return -self.evidence(output, labels)

    def views(self, output: Any, labels: Any) -> list[View]:
        """The one choice there is."""
        logits = self.read(output)
        return [View(logits, None if labels is None else class_indices(labels, len(logits)))]


class Binary(SingleLabel):
    """Yes or no: one logit an image, `(B,)` or `(B, 1)`, that of the second of two classes.

    Labels are `(B,)` or `(B, 1)`, 0 or 1, integer or float. Explained is the evidence for the answer that was given:
    the logit where it is above 0, else its negative.

    >>> Binary().views(torch.tensor([[1.5]]), None)[0].logits
    tensor([[0.0000, 1.5000]])
    """

    name = "binary"

    def read(self, output: Any) -> Float[Tensor, "B 2"]:
        """`(B, 2)`: 0 for the first class and the logit for the second."""
        logit = self.logit(output)
        return torch.stack([torch.zeros_like(logit), logit], dim=1)

    def logit(self, output: Any) -> Float[Tensor, " B"]:
        """The logit as the network gave it."""
        logits = Task.read(self, output)
        if logits.ndim == 0 or logits.numel() != len(logits):
            raise BatchError(
                f"A binary task has one logit an image, (B,) or (B, 1); the network gave {tuple(logits.shape)}. "
                "Name another task, as task='single_label'."
            )
        return logits.reshape(-1)

    def units(self, output: Any, batch: Asked) -> list[Units]:
        """An image each; explained is the logit, or its negative where the answer is the first class."""
        logit = self.logit(output)
        logits = torch.stack([torch.zeros_like(logit), logit], dim=1).detach()
        labels = None if batch.labels is None else zero_or_one(batch.labels, len(logit))
        predictions = logits.argmax(dim=1)
        scores = torch.where(predictions == 1, logit, -logit)
        return [judged(in_float(logits).softmax(dim=1), predictions, labels, scores, batch.masks)]

    def evidence(self, output: Any, labels: Any) -> Float[Tensor, " B"]:
        """`log sigmoid` of the logit where the label is 1, of its negative where it is 0."""
        logit = in_float(self.logit(output))
        classes = zero_or_one(labels, len(logit))
        return torch.where(classes < 0, 0, F.logsigmoid(torch.where(classes == 1, logit, -logit)))

    def views(self, output: Any, labels: Any) -> list[View]:
        """The choice between no and yes."""
        logits = self.read(output)
        return [View(logits, None if labels is None else zero_or_one(labels, len(logits)))]


class MultiLabel(Task):
    """Several labels an image, each there or not: logits `(B, C)`, labels `(B, C)` of 0 and 1; -1 or NaN is unknown.

    A unit is an image and a label: of every image those labels that are present or predicted, the surest first, at
    most `units_per_image` of them. Masks are `(B, C, *S)`, one for each label, or `(B, *S)` for all of an image.
    """

    name = "multi_label"
    form = "presence"
    one_unit = False

    def __init__(self, units_per_image: int = 4) -> None:
        self.units_per_image = units_per_image

    def read(self, output: Any) -> Float[Tensor, "B C"]:
        """`(B, C)`."""
        logits = super().read(output)
        if logits.ndim == 1:
            logits = logits.unsqueeze(1)
        if logits.ndim != 2:
            raise BatchError(f"Several labels an image need logits (B, C); the network gave {tuple(logits.shape)}.")
        return logits

    def units(self, output: Any, batch: Asked) -> list[Units]:
        """Rounds of labels: the first of each image, the second, ...; explained is what speaks for the answer given."""
        logits = self.read(output)
        labels = None if batch.labels is None else multi_hot(batch.labels, logits.shape)
        answers = logits.detach() > 0
        relevant = answers if labels is None else answers | (labels == 1)
        order = torch.where(relevant, logits.detach(), -torch.inf).argsort(dim=1, descending=True, stable=True)
        count = min(self.units_per_image, int(relevant.sum(dim=1).max()) if len(logits) else 0)
        return [self._round(logits, labels, relevant, order[:, rank], batch) for rank in range(max(count, 1))]

    def _round(self, logits: Tensor, labels: Tensor | None, relevant: Tensor, about: Tensor, batch: Asked) -> Units:
        column = about.unsqueeze(1)
        logit, asked = logits.gather(1, column).squeeze(1), relevant.gather(1, column).squeeze(1)
        present = torch.full_like(about, -1) if labels is None else labels.gather(1, column).squeeze(1)
        yes = logit.detach() > 0
        pair = in_float(torch.stack([torch.zeros_like(logit), logit], dim=1).detach()).softmax(dim=1)
        unit = judged(pair, yes.long(), present, torch.where(yes, logit, -logit), of_labels(batch, about))
        return replace(unit, about=about, asked=asked)

    def evidence(self, output: Any, labels: Any) -> Float[Tensor, " B"]:
        """The mean log-likelihood of the labels present, of all labels where none is."""
        logits = in_float(self.read(output))
        present = multi_hot(labels, logits.shape)
        counted = torch.where((present == 1).any(dim=1, keepdim=True), present == 1, present >= 0)
        likelihood = F.logsigmoid(torch.where(present == 1, logits, -logits))
        return torch.where(counted, likelihood, 0).sum(dim=1) / counted.sum(dim=1).clamp(min=1)

    def losses(self, output: Any, labels: Any) -> Float[Tensor, " B"]:
        """Binary cross-entropy, the mean over the labels that are known."""
        logits = in_float(self.read(output))
        present = multi_hot(labels, logits.shape)
        likelihood = F.logsigmoid(torch.where(present == 1, logits, -logits))
        return -torch.where(present >= 0, likelihood, 0).sum(dim=1) / (present >= 0).sum(dim=1).clamp(min=1)

    def views(self, output: Any, labels: Any) -> list[View]:
        """A choice between absent and present for each label."""
        logits = self.read(output)
        present = None if labels is None else multi_hot(labels, logits.shape)
        zeros = torch.zeros_like(logits[:, 0])
        return [
            View(torch.stack([zeros, logits[:, index]], dim=1), None if present is None else present[:, index], index)
            for index in range(logits.shape[1])
        ]

    def __repr__(self) -> str:
        return f"MultiLabel(units_per_image={self.units_per_image})"


def likelihood_of_present(
    logits: Float[Tensor, "B C"], labels: Any = None, *, chosen: Int[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """`log sigmoid` of the logit of one label of each image, a target of several labels.

    >>> likelihood_of_present(torch.tensor([[0.0, 9.0]]), chosen=torch.tensor([0])).exp()
    tensor([0.5000])
    """
    return F.logsigmoid(in_float(logits).gather(1, chosen.to(logits.device).unsqueeze(1)).squeeze(1))


def class_indices(labels: Any, count: int) -> Int[Tensor, " B"]:
    """Class indices `(B,)`, -1 for those that are none; a column `(B, 1)` is taken. BatchError for others.

    >>> class_indices(torch.tensor([[2], [-100]]), 2)
    tensor([ 2, -1])
    """
    if isinstance(labels, Tensor) and labels.shape in ((count,), (count, 1)):
        flat = labels.reshape(-1)
        if not labels.is_floating_point():
            return torch.where(flat < 0, -1, flat.long())
    raise BatchError(
        f"One label an image is a class index, integers of shape ({count},); got {describe(labels)}. Convert them in a "
        "batch_adapter, or name the task: task='multi_label', 'binary' or 'regression'."
    )


def zero_or_one(labels: Any, count: int) -> Int[Tensor, " B"]:
    """0, 1, or -1 for unknown, from labels `(B,)` or `(B, 1)`, integer, boolean or float. BatchError for others.

    >>> zero_or_one(torch.tensor([[1.0], [float("nan")]]), 2)
    tensor([ 1, -1])
    """
    if not isinstance(labels, Tensor) or labels.shape not in ((count,), (count, 1)):
        raise BatchError(f"A binary label is 0 or 1, of shape ({count},) or ({count}, 1); got {describe(labels)}.")
    flat = labels.reshape(-1)
    return _hard(flat, "A binary label")


def multi_hot(labels: Any, shape: torch.Size) -> Int[Tensor, "B C"]:
    """0, 1, or -1 for unknown, from labels `(B, C)`. BatchError for others.

    >>> multi_hot(torch.tensor([[1.0, -1.0]]), torch.Size([1, 2]))
    tensor([[ 1, -1]])
    """
    if not isinstance(labels, Tensor) or labels.shape != shape:
        raise BatchError(
            f"Several labels an image are 0 or 1, of the logits' shape {tuple(shape)}; got {describe(labels)}."
        )
    return _hard(labels, "A label of several")


def _hard(labels: Tensor, what: str) -> Tensor:
    unknown = are_unknown(labels)
    odd = ~unknown & (labels != 0) & (labels != 1)
    if bool(odd.any()):
        raise BatchError(
            f"{what} is 0 or 1, and below 0 or NaN where it is not known; got {labels[odd].flatten()[0].item():g}. "
            "Convert smoothed labels in a batch_adapter, or name the task: task='regression' for values."
        )
    return torch.where(unknown, -1, (labels == 1).long())


def judged(
    probabilities: Float[Tensor, "B C"],
    predictions: Int[Tensor, " B"],
    labels: Int[Tensor, " B"] | None,
    scores: Float[Tensor, " B"],
    masks: Tensor | None,
) -> Units:
    """The units of a choice between classes, one an image; probabilities that are not finite are no answer."""
    finite = probabilities.isfinite().all(dim=1)
    known = torch.zeros_like(predictions, dtype=torch.bool)
    unknown = torch.full_like(probabilities[:, 0], torch.nan)
    truth = true = unknown
    if labels is not None:
        known = (labels >= 0) & (labels < probabilities.shape[1])
        truth = torch.where(known, labels.to(probabilities.dtype), torch.nan)
        column = torch.where(known, labels, 0).unsqueeze(1)
        true = torch.where(known, probabilities.gather(1, column).squeeze(1), torch.nan)
    return Units(
        scores=scores,
        asked=torch.ones_like(known),
        about=predictions if labels is None else torch.where(known, labels, predictions),
        labels=truth,
        predictions=torch.where(finite, predictions.to(probabilities.dtype), torch.nan),
        right=known & finite & (predictions == labels) if labels is not None else known,
        confidence=probabilities.gather(1, predictions.unsqueeze(1)).squeeze(1),
        true_probability=true,
        loss=-true.clamp_min(1e-12).log(),
        masks=masks,
    )


def of_labels(batch: Asked, about: Tensor) -> Tensor | None:
    """The mask of each image's label, from `(B, C, *S)`; masks `(B, *S)` are those of the image."""
    masks = batch.masks
    if masks is None or masks.ndim < batch.images.ndim:
        return masks
    return masks[torch.arange(len(masks), device=masks.device), about]


def describe(labels: Any) -> str:
    """What came in place of labels, in words."""
    if isinstance(labels, Tensor):
        return f"{str(labels.dtype).removeprefix('torch.')} of shape {tuple(labels.shape)}"
    return "none" if labels is None else type(labels).__name__
