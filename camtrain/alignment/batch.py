"""What a batch holds for alignment: counted on its device, looked at a step later, refused where it cannot work."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from camtrain.cam import ownership
from camtrain.data.batches import Batch, MaskedPair, check_masks
from camtrain.errors import ConfigurationError
from camtrain.tasks import TASKS, Regression, Task, check_task
from camtrain.tasks.answers import mean_loss
from camtrain.tasks.base import are_unknown


def _same(values: Tensor) -> Tensor:
    return values


@dataclass(frozen=True)
class Processes:
    """Those that train together, by default one: how many, which one this is, how a tensor is summed over all."""

    count: int = 1
    rank: int = 0
    total: Callable[[Tensor], Tensor] = _same
    device: torch.device | str = "cpu"

    def gather(self, values: Tensor | None) -> "Later | None":
        """The sums over those that have values `(2,)`, and how many have, on their way to the host; see `mean_of`."""
        if self.count == 1:
            return None if values is None else Later(torch.cat([values.float(), values.new_ones(1)]))
        mine = torch.zeros(3, device=self.device) if values is None else torch.cat([values.float(), values.new_ones(1)])
        return Later(self.total(mine))


class Later:
    """Numbers on their way from a device to the host, to be looked at a step later: by then nobody waits for them.

    >>> Later(torch.ones(2)).read()
    [1.0, 1.0]
    """

    def __init__(self, values: Tensor) -> None:
        self._values = values.detach().to("cpu", non_blocking=True)
        self._arrived = torch.cuda.Event() if values.is_cuda else None  # type: ignore[no-untyped-call]
        if self._arrived is not None:
            self._arrived.record()

    def read(self) -> list[float]:
        """The numbers."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return [float(value) for value in self._values.tolist()]


def mean_of(sums: Later | None) -> list[float] | None:
    """The mean over the processes that had values, the same in all of them; None where none had.

    >>> mean_of(Processes().gather(torch.tensor([1.0, 2.0])))
    [1.0, 2.0]
    """
    if sums is None:
        return None
    *totals, having = sums.read()
    return [each / having for each in totals] if having else None


_COUNTS = ("annotated", "guiding", "twinned", "eligible", "empty", "bad", "refused")


class Census:
    """How many images of a batch have an annotation, one that leaves a background, and one that gets a twin.

    `mine` are the counts of this process, `everybodys` their sums over all, on the device; `read` looks at them on the
    host. `eligible` can have a twin, however many are wanted. A share is what the mean over this process' images counts
    for, so that the mean over processes is the mean over all images.
    """

    def __init__(self, mine: Tensor, everybodys: Tensor, processes: int, annotated: Tensor, eligible: Tensor) -> None:
        self.mine, self.everybodys, self.processes = mine, everybodys, processes
        self.annotated, self.eligible = annotated, eligible  # (B,), which images
        self._later = Later(torch.stack([mine, everybodys]).flatten())
        self._numbers: list[int] | None = None
        if ownership.are_at_hand(mine):
            self.read()

    @property
    def is_read(self) -> bool:
        """Whether the counts are on the host."""
        return self._numbers is not None

    def read(self) -> "Census":
        """Bring the counts to the host."""
        self._numbers = [int(number) for number in self._later.read()]
        return self

    def of(self, name: str, *, all_processes: bool = False) -> int | Tensor:
        """A count: a number once it was read, else where it is."""
        index = _COUNTS.index(name)
        if self._numbers is not None:
            return self._numbers[index + len(_COUNTS) * all_processes]
        return (self.everybodys if all_processes else self.mine)[index]

    def number(self, name: str, *, all_processes: bool = False) -> int:
        """A count that was read."""
        return int(self.of(name, all_processes=all_processes))

    def share(self, name: str) -> float | Tensor:
        """What the mean over this process' images counts for: 1 in a single process."""
        if self.processes == 1:
            return 1.0
        mine, everybodys = self.of(name), self.of(name, all_processes=True)
        if isinstance(everybodys, Tensor):
            return torch.where(everybodys > 0, mine * self.processes / everybodys, 1.0)
        return mine * self.processes / everybodys if everybodys else 1.0


class AnnotationTally:
    """What an epoch had to align with.

    >>> annotations = AnnotationTally()
    >>> batch = Batch(torch.zeros(8, 1, 1, 2), masks=torch.tensor([[[1.0, 0.0]]]).expand(8, 1, 2))
    >>> annotations.count(8, count(batch, 0))
    >>> annotations.end_epoch()
    ''
    """

    def __init__(self) -> None:
        self.ever = False  # whether any mask had a background
        self.images = self.annotated = self.guiding = self.empty = 0

    def count(self, images: int, census: Census) -> None:
        """Take a batch into the epoch, all processes' images."""
        self.ever |= census.number("guiding") > 0
        self.images += images
        self.annotated += census.number("annotated", all_processes=True)
        self.guiding += census.number("guiding", all_processes=True)
        self.empty += census.number("empty", all_processes=True)

    def end_epoch(self) -> str:
        """What there is to say of the epoch; empty where it had enough."""
        images, annotated, guiding, empty = self.images, self.annotated, self.guiding, self.empty
        self.images = self.annotated = self.guiding = self.empty = 0
        if images and not annotated:
            return f"saw no annotation on any of the {images} images of an epoch: it does nothing"
        if annotated and not guiding:
            return (
                f"saw {annotated} masks in an epoch, and none of them leaves a background: each is 1 all over (or "
                "forbids nothing), so that it does nothing. Of a label map or a trimap make masks that are 1 on the "
                "object alone"
            )
        if empty > annotated / 2:
            return (
                f"saw {annotated} masks in an epoch, {empty} of them empty. An empty mask says that nothing may "
                "matter; give an image without an annotation a mask of all -1"
            )
        return ""


def count(
    batch: Batch,
    limit: int,
    processes: Processes = Processes(),
    *,
    remembered: int = 0,
    fill_donors: bool = True,
    refused: bool = False,
) -> Census:
    """The census of a batch that makes at most `limit` twins, summed over the processes.

    `remembered` images of earlier batches are there to make twins of too; `fill_donors` is that of `make_twins`.

    MaskError for masks of another size, and, where a look costs nothing, for values that cannot be meant.

    >>> masks = torch.tensor([[[1.0, 0.0]], [[-1.0, -1.0]]])
    >>> count(Batch(torch.zeros(2, 1, 1, 2), masks=masks), limit=2).of("twinned")
    1
    """
    if batch.masks is None:
        counts = torch.zeros(7, dtype=torch.long, device=batch.images.device)
        annotated = eligible = torch.zeros(len(batch), dtype=torch.bool, device=batch.images.device)
    else:
        if (len(batch), *batch.images.shape[2:]) != tuple(batch.masks.shape):
            check_masks(batch)  # raises
        counts, annotated, eligible = _counts(batch.masks, fill_donors)
    counts[2] += remembered
    counts[2].clamp_(max=limit if len(batch) + remembered > 1 else 0)  # a single image has nobody's background
    counts[6].fill_(refused)
    everybodys = counts if processes.count == 1 else processes.total(counts.clone())
    census = Census(counts, everybodys, processes.count, annotated, eligible)
    if census.is_read and census.of("bad"):
        check_masks(batch)  # raises
    return census


def _counts(masks: Tensor, fill_donors: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Counts, in the order of `_COUNTS`, the last one 0; which images are annotated, and which can have a twin."""
    flat = masks.flatten(1)
    low, high = torch.where(flat == -1, 1, flat).amin(dim=1), flat.amax(dim=1)  # of known pixels; NaN is neither
    valid = (low >= 0) & (high >= 0) & (high <= 1)
    bad = ~valid & ~((low == 1) & (high == -1))
    guiding = valid & (low < 1)
    eligible = valid & (high > 0) & (low < 1) if fill_donors else valid & (high > 0)
    twinned = eligible & guiding.any()  # where nothing is forbidden, nothing can be exchanged
    empty = valid & (high == 0)
    counts = torch.stack([valid, guiding, twinned, eligible, empty, bad, torch.zeros_like(bad)]).sum(dim=1)
    return counts, valid, eligible


def require_masks(batch: Batch, raw: Any, *, twins: bool, made: bool = False) -> None:
    """ConfigurationError for data without masks that are given or `made`, or without the labels that twins need."""
    if not made and isinstance(raw, MaskedPair) and raw.masks is None:
        raise ConfigurationError(
            "AttentionAlignment needs masks, and the training batch is a MaskedPair without any. The precisions "
            "'bf16-true' and '64-true' convert batches and lose them: give a mapping with 'image', 'label' and 'mask' "
            '(batch_format="mapping" in the data modules).'
        )
    if batch.masks is None and not made:
        raise ConfigurationError(
            f"AttentionAlignment needs masks, and the training batch holds none: {_keys(raw)}. Give (images, labels, "
            "masks), a mapping with 'mask', a MaskedPair, or a batch_adapter; an image without an annotation gets a "
            "mask of all -1. Without any, segmenter='auto' makes them."
        )
    if twins and batch.labels is None:
        raise ConfigurationError(f"Twins need labels, and the training batch holds none: {_keys(raw)}. Set twins=0.")


Kind = Literal["classes", "binary", "several", "values", "none", "own"]
_OF_TASK: dict[str, Kind] = {
    "single_label": "classes",
    "binary": "binary",
    "multi_label": "several",
    "regression": "values",
    "question_answering": "classes",
}
_REFUSED = {
    "segmentation": "a region's outline is told by what lies around it, which both terms would take away",
    "detection": "in training a detector returns its losses, with no score to explain and no box to compare",
    "captioning": "both terms read logits (B, C), and a caption has (B, T, V)",
}

_UNREAD = "nothing says yet how a training step's answers are read for it"


@dataclass(frozen=True)
class Subject:
    """What the labels are of, the task that reads answers where these are not of a class, and masks for each label."""

    kind: Kind = "classes"
    task: Task | None = None
    masks: Tensor | None = None

    def loss(self, logits: Tensor, labels: Tensor, counted: Tensor | None = None) -> Tensor:
        """The mean loss of answers over the images that are counted."""
        if self.task is None:
            return mean_loss(logits, labels, counted)
        each = self.task.losses(logits, labels)
        rows = torch.ones_like(each, dtype=torch.bool) if counted is None else counted
        return torch.where(rows, each, 0).sum() / rows.sum().clamp(min=1)

    def learned(self, logits: Tensor, labels: Tensor) -> Tensor:
        """How much of what is asked the network has learned, in [0, 1]: what labels of others would cost more, `()`.

        0 as long as it answers alike to all images, at whatever loss; 1 where it is sure and right, and where a batch
        cannot tell, as if all its labels are one.

        >>> labels = torch.tensor([0, 1])
        >>> Subject().learned(torch.zeros(2, 2), labels), Subject().learned(9 * torch.eye(2), labels).round(decimals=3)
        (tensor(0.), tensor(1.))
        """
        labels = labels.to(logits.device)
        others = labels.roll(len(labels) // 2, 0)
        known = ~are_unknown(labels.flatten(1) if labels.ndim > 1 else labels.unsqueeze(1)).all(dim=1)
        known = known if self.task is None else self.task.known(labels)
        compared = known & known.roll(len(labels) // 2, 0) & (labels != others).reshape(len(labels), -1).any(dim=1)
        own, swapped = (self.loss(logits, each, compared).detach() for each in (labels, others))
        return (1 - own / swapped).nan_to_num(1.0, 1.0, 1.0).clamp(0, 1)


def asked_of(batch: Batch, task: str | Task = "auto") -> Subject:
    """The subject of a batch's labels; of values with their spread in this batch. Raises as `kind_of` does."""
    kind = kind_of(batch, task)
    if kind == "own" and isinstance(task, Task):
        return Subject(kind, task)
    if kind == "values" and batch.labels is not None:
        return Subject(kind, (task if isinstance(task, Regression) else Regression()).fitted(batch.labels))
    return Subject(kind)


def check_alignable(task: str | Task) -> None:
    """ConfigurationError, with the reason, for a task that neither term can be asked of.

    >>> check_alignable("regression")
    """
    check_task(task)
    name = task if isinstance(task, str) else task.name
    if name in TASKS and name not in _OF_TASK:
        reason = _REFUSED.get(name, _UNREAD)
        raise ConfigurationError(
            f"Alignment teaches one answer an image, and a {name} has many: {reason}, so that neither the penalty nor "
            f"twins work. It takes task='auto', {', '.join(map(repr, _OF_TASK))}, or a Task of your own."
        )


def kind_of(batch: Batch, task: str | Task = "auto") -> Kind:
    """What the labels of a batch are, by the task, or by a look at them: the same for all batches.

    Integers `(B,)` are classes, floats `(B,)` that are 0, 1 or unknown (below 0, NaN) are those of two, other floats
    are values, and `(B, C)` are several labels an image. ConfigurationError for others.

    >>> kind_of(Batch(torch.zeros(2, 1, 1, 2), torch.tensor([1.0, -1.0])))
    'binary'
    """
    if not isinstance(task, str):
        return _OF_TASK.get(task.name, "own") if type(task) in TASKS.values() else "own"
    if task != "auto":
        return _OF_TASK[task]
    labels = batch.labels
    if labels is None:
        return "none"
    if labels.shape not in ((len(batch),), (len(batch), 1)):
        if labels.ndim == 2:
            return "several"
        raise ConfigurationError(
            f"Alignment teaches one answer an image, and labels {tuple(labels.shape)} are one for each pixel or more: "
            "neither the penalty nor twins work. Give one label an image, several (B, C), or a value (B,), as by a "
            "batch_adapter; images without a label are aligned by a target of your own."
        )
    if not labels.is_floating_point():
        return "classes"
    known = labels[labels >= 0]
    hard = ((known == 0) | (known == 1)).all() and not ((labels < 0) & (labels != -1) & (labels != -100)).any()
    return "binary" if bool(hard) and len(known) else "values"


def with_object_masks(batch: Batch, *, forbidden: bool = False, kind: Kind = "classes") -> Batch:
    """With masks that are 1 where the evidence may be, turned over if they mark what may not matter.

    Images of a batch without masks have one of all -1 each, and so has an image whose label is none: a class index
    below 0, a value that is NaN. Labels `(B, 1)` become `(B,)`, and those of two classes integers.

    >>> with_object_masks(Batch(torch.zeros(1, 1, 1, 2), masks=torch.tensor([[[1.0, 0.0]]])), forbidden=True).masks
    tensor([[[0., 1.]]])
    """
    masks = batch.masks
    if masks is None and batch.images.ndim >= 4:
        masks = batch.images.new_full((len(batch), *batch.images.shape[2:]), -1, dtype=torch.float32)
    elif masks is not None and forbidden:
        masks = torch.where(masks < 0, masks, 1 - masks)
    labels = batch.labels
    if labels is not None and labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels.squeeze(1)
    if labels is not None and kind == "binary" and labels.is_floating_point():
        labels = torch.where((labels == 0) | (labels == 1), labels, -1).long()
    if masks is not None and labels is not None and labels.shape == (len(masks),):
        none = labels.isnan() if kind == "values" else labels < 0
        masks = torch.where(none.to(masks.device).view(-1, *[1] * (masks.ndim - 1)), -1, masks)
    if labels is not None and kind == "values":
        labels = labels.float()
    return replace(batch, masks=masks, labels=labels)


def have_masks_each(batch: Batch) -> bool:
    """Whether masks are `(B, C, *S)`, one for each of several labels.

    >>> have_masks_each(Batch(torch.zeros(1, 1, 1, 2), torch.ones(1, 3), torch.zeros(1, 3, 1, 2)))
    True
    """
    return batch.masks is not None and batch.masks.ndim == batch.images.ndim


def united(masks: Tensor, labels: Tensor) -> Tensor:
    """Of masks `(B, C, *S)`, one for each label, those of an image: the objects of all labels that are present.

    All -1 where no label is present, or the object of one is not known: it may lie anywhere.

    >>> masks = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]], [[-1.0, -1.0]]]])
    >>> united(masks, torch.tensor([[1, 1, 0]])), united(masks, torch.tensor([[1, 0, 1]]))
    (tensor([[[1., 1.]]]), tensor([[[-1., -1.]]]))
    """
    present = (labels > 0.5).to(masks.device).view(*labels.shape, *[1] * (masks.ndim - 2))
    objects = torch.where(present, masks, 0.0).amax(dim=1)
    unknown = (torch.where(present, masks, 0.0) < 0).flatten(2).any(dim=2).any(dim=1) | ~present.flatten(1).any(dim=1)
    return torch.where(unknown.view(-1, *[1] * (objects.ndim - 1)), -1.0, objects)


def can_ask_twins(batch: Batch, kind: Kind = "classes") -> str:
    """Why twins of a batch cannot be asked for by default: it wants images or clips, and a label or a value for each.

    >>> can_ask_twins(Batch(torch.zeros(2, 3, 4, 4), labels=torch.tensor([0, 1])))
    ''
    """
    labels = batch.labels
    if batch.images.ndim not in (4, 5):
        return f"the images are neither (B, C, H, W) nor clips (B, C, T, H, W) but {tuple(batch.images.shape)}"
    if labels is None:
        return "the batch holds no labels; give them as the second of a tuple, or as 'label'"
    if kind == "several" and not have_masks_each(batch):
        shape = tuple(labels.shape)
        return f"labels {shape} are several an image, of which the mask may outline some; twins=1 asks for them"
    return ""


def as_classes(labels: Tensor | None) -> Tensor | None:
    """Labels as whole numbers: class indices `(B,)`, or 1 for every class that is present `(B, C)`; None for values.

    >>> as_classes(torch.tensor([[0.9, 0.0]]))
    tensor([[1, 0]])
    """
    if labels is None or (labels.ndim == 1 and labels.is_floating_point()):
        return None
    return (labels > 0.5 if labels.ndim > 1 else labels).long()


def are_multi_hot(labels: Tensor | None) -> bool:
    """Whether labels are `(B, C)`, several classes an image.

    >>> are_multi_hot(torch.tensor([[0, 1]])), are_multi_hot(torch.tensor([1]))
    (True, False)
    """
    return labels is not None and labels.ndim == 2


def have_soft_labels(batch: Batch) -> bool:
    """Whether labels `(B, C)` hold values other than 0 and 1, as smoothed or mixed ones of a single class do.

    >>> have_soft_labels(Batch(torch.zeros(1, 1, 1, 2), labels=torch.tensor([[0.9, 0.1]])))
    True
    """
    labels = batch.labels
    return labels is not None and labels.ndim == 2 and bool(((labels > 0) & (labels < 1)).any())


def outline_objects(batch: Batch) -> bool:
    """Whether most masks are decided: more of their pixels are on the object than are neither on it nor off it.

    >>> outline_objects(Batch(torch.zeros(1, 1, 1, 2), masks=torch.tensor([[[0.4, 0.7]]])))
    False
    """
    if batch.masks is None:
        return True
    flat = batch.masks.flatten(1).float()
    undecided = ((flat > 0.1) & (flat < 0.9)).sum(dim=1) > (flat >= 0.9).sum(dim=1)
    known = (flat >= 0).any(dim=1)
    return bool((undecided & known).sum() * 2 <= known.sum())


def _keys(raw: Any) -> str:
    if isinstance(raw, dict):
        return f"a mapping with {', '.join(map(repr, raw))}"
    if isinstance(raw, (tuple, list)):
        return f"a {type(raw).__name__} of {len(raw)}"
    return f"a {type(raw).__name__}"
