"""Counterfactual twins in training: exchanged for their images or added to them, and asked for their labels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from camtrain.alignment.batch import (
    Census,
    Kind,
    Later,
    are_multi_hot,
    as_classes,
    can_ask_twins,
    mean_of,
    outline_objects,
)
from camtrain.alignment.budget import Dose, Plan
from camtrain.alignment.exchange import Deal, Dealer
from camtrain.alignment.network import answers_again, find_images
from camtrain.alignment.step import Scalar, Step
from camtrain.cam import ownership
from camtrain.checks import check_arguments
from camtrain.data.batches import Batch
from camtrain.errors import ConfigurationError
from camtrain.swaps import Blend, blend_twins, choose_twins, same_class_share
from camtrain.tasks.answers import divergence, mean_loss
from camtrain.tasks.calls import Call

_MOST = 1e4  # what a loss of values may count
_COMPARED = (
    "exchanges the batch's own images alone, and the step asks for answers to others as well. A loss that compares "
    "both, image by image (consistency, distillation), wants twins_place='add'"
)
_NOT_GIVEN = (
    "{part!r}, which returns the logits, is not given the batch's images. Call one module on them as they are, as "
    "self(images) with a forward that holds all of the network, or name that one with model='...'"
)


class Twins:
    """Annotated objects in front of other images' backgrounds, asked for their labels; a term of an `Alignment`.

    Args:
        weight: of a twin's cross-entropy, where that of an image of the batch is 1; at least 0, or "auto", see `Dose`.
        share: at most this share of a batch is added as twins, in (0, 1].
        place: "exchange" deals the backgrounds anew on their way into the network, and adds what that leaves to do;
            "add" leaves every image as it is.
        reuse: on average at most so many twins are added of an annotated image in an epoch.
        memory: so many annotated images of earlier batches are kept to make added twins of.
        loss: "cross_entropy" of the label, or "consistency" with the answer to the image.
        blend: how a twin is put together.
    """

    def __init__(
        self,
        weight: float | Literal["auto"] = "auto",
        *,
        share: float = 0.5,
        place: Literal["exchange", "add"] = "exchange",
        reuse: float = 10.0,
        memory: int = 256,
        loss: Literal["cross_entropy", "consistency"] = "cross_entropy",
        blend: Blend = Blend(),  # noqa: B008  frozen
    ) -> None:
        check_arguments(twins=weight, share=share, place=place, reuse=reuse, memory=memory, twins_loss=loss)
        self.weight, self.blend, self.consistent = weight, blend, loss == "consistency"
        self.exchanges = place == "exchange" and not self.consistent
        self.share, self.reuse, self.memory_size = share, reuse, memory
        self.begin_anew()

    def begin_anew(self) -> None:
        """As if nothing had been trained yet."""
        self.dose = Dose(self.weight, self.share, self.reuse)
        self.memory = Memory(self.memory_size)
        self.refused = self.refuses = False  # agreed on by all processes; wanted by this one
        self.most = 0  # images of a batch that could have a twin
        self._kin: float | None = None  # of the last batch that was looked at
        self._next_kin: Later | None = None
        self._measured: Later | None = None

    def keep_donors(self, kept: bool) -> None:
        """Whether masks are of what may not matter, so that no object of a donor is to be filled in; see `Blend`."""
        if self.blend.fill_donors == kept:
            self.blend = replace(self.blend, fill_donors=not kept)
            self.memory = Memory(self.memory_size)  # its masks are of the other kind

    @property
    def on(self) -> bool:
        """Whether they are asked for, and can be."""
        return self.weight != 0 and not self.refused

    @property
    def needs_labels(self) -> bool:
        """Whether a batch without labels is an error."""
        return self.weight not in (0, "auto") and not self.consistent

    def look(self, batch: Batch) -> str:
        """Why twins of data such as in the first batch are not made by default; empty where they are."""
        if self.weight != "auto" or outline_objects(batch):
            return ""
        return self._refuse("the masks are soft, and outline no object to cut out; twins=1 asks for them")

    def accept(self, batch: Batch, kind: Kind = "classes") -> str:
        """Why twins of this batch are not made by default; empty where they are."""
        problem = can_ask_twins(batch, kind) if self.weight == "auto" and self.on else ""
        return self._refuse(problem) if problem else ""

    def _refuse(self, reason: str) -> str:
        """From the next census on, which all processes make together."""
        self.refuses = True
        return f"makes no twins: {reason}"

    def plan(self, step: Step) -> Plan:
        """How many twins the batch gets, and what each counts: by the classes of the batch before it.

        Those of the first batch have to be waited for.
        """
        labels = step.batch.labels
        if not (self.exchanges and self.on and step.network.is_named) or labels is None:
            return self.dose.plan(len(step.batch))
        classes = as_classes(labels)
        if classes is None:  # no two values count as alike
            return self.dose.plan(len(step.batch), 1 / max(len(step.batch), 1))
        kin = same_class_share(classes)
        if self._kin is None or ownership.are_at_hand(kin):
            self._kin = float(kin)
        else:
            self._next_kin = Later(kin.unsqueeze(0))
        return self.dose.plan(len(step.batch), self._kin)

    def wants(self, step: Step) -> bool:
        """Whether any twin can be made."""
        return self.on and bool(step.counts.number("twinned"))

    @property
    def needs_look(self) -> bool:
        """What the network answers is looked at row by row."""
        return False

    def before(self, step: Step) -> None:
        """Deal the backgrounds of what the network is given anew, until the backward pass is over.

        As many are composed as could have a twin in any batch so far; the first one has to show.
        """
        if step.plan.dealt is not None:
            step.dealer = Dealer(
                step.batch,
                step.generator.initial_seed(),
                min(step.scale, 1.0),
                self.blend,
                rows=self.most or None,
                own_only=bool(step.network.takes_own),
            )
            step.hold(step.dealer.dealing(step.network.parts.values()))

    def after(self, step: Step) -> Tensor | None:
        """What dealt and added twins add to the loss. Those dealt are in the module's own loss and count once there."""
        others = step.outcome.others
        if others is not None and self.exchanges and answers_again(others, step.call, step.batch):
            step.notes.append(_COMPARED)
        if not self._is_given_images(step):
            return None
        parts = [part for part in (self._dealt(step), self._added(step)) if part is not None]
        if not parts:
            return None
        count = torch.stack([part.count for part in parts]).sum().clamp(min=1)
        step.outcome.entropy = torch.stack([part.count * part.entropy for part in parts]).sum() / count
        terms = [part.extra * part.count / len(step.batch) * part.entropy for part in parts if part.extra != 0]
        return self._unit(step) * torch.stack(terms).sum() if terms else None

    def _unit(self, step: Step) -> Tensor | float:
        """What a loss of 1 counts: for values, whose loss may be in any unit, as much as in the module's own loss."""
        result, labels = step.outcome, step.batch.labels
        if step.subject.kind != "values" or result.task is None or labels is None:
            return 1.0
        own = step.subject.loss(step.call.logits.detach(), labels)
        return (result.task.detach() / own).nan_to_num(1.0, 1.0, 1.0).clamp(0, _MOST)

    def _is_given_images(self, step: Step) -> bool:
        """Whether the network takes the batch's images; an error where it does not and twins were asked for."""
        if self.weight != "auto" and step.dealer is None:
            return True  # who makes them will tell
        try:
            images_among(step.call, step.batch, step.own)
        except ConfigurationError:
            if self.weight != "auto":
                raise
            step.notes.append(self._refuse(_NOT_GIVEN.format(part=step.call.name or "the module")))
            return False
        return True

    def _dealt(self, step: Step) -> "_Part | None":
        deal, labels = step.deal, step.batch.labels
        if deal is None or labels is None or len(deal.index) == 0:
            return None
        extra = max(0.0, step.plan.weight - 1)
        logits = step.call.logits if extra != 0 else step.call.logits.detach()
        entropy = step.subject.loss(logits[deal.index], labels[deal.index], deal.counted)
        return _Part(deal.counted.sum().to(entropy.dtype), entropy, extra)

    def _added(self, step: Step) -> "_Part | None":
        if step.plan.added == 0 or not self._can_add(step):
            return None
        answered = answer_twins(
            step.call,
            step.batch,
            self.memory,
            step.generator,
            step.plan.added,
            eligible=step.counts.eligible,
            blend=self.blend,
            deal=step.deal,
            consistent=self.consistent,
        )
        if answered is None:
            return None
        if step.subject.task is not None and not self.consistent and answered.batch.labels is not None:
            logits = answered.call.logits[: len(answered.batch)]
            entropy = step.subject.loss(logits, answered.batch.labels, answered.counted)
        else:
            entropy = answered.loss
        if self._compares and step.measures and step.batch.labels is not None:
            own = step.subject.loss(step.call.logits.detach(), step.batch.labels)
            step.outcome.losses = torch.stack([entropy.detach(), own])
        return _Part(answered.counted.sum().to(entropy.dtype), entropy, step.plan.weight * step.scale)

    @staticmethod
    def _can_add(step: Step) -> bool:
        """Not where a forward pass of one process waits for the others, which may add no twin in this step."""
        synchronized = any(isinstance(module, nn.SyncBatchNorm) for module in step.module.modules())
        if step.processes.count > 1 and synchronized:
            step.notes.append("adds no twins beside SyncBatchNorm, whose processes wait for each other")
            return False
        return True

    @property
    def _compares(self) -> bool:
        return self.weight == "auto" and self.on and not self.consistent

    def check(self, step: Step) -> None:
        """Nothing to refuse."""

    def settle(self, step: Step) -> None:
        """Set out what the step measured."""
        if self._compares and step.measures:
            self._measured = step.processes.gather(None if step.result is None else step.result.losses)

    def learn(self) -> None:
        """Take it into the dose, alike in all processes."""
        losses, self._measured = mean_of(self._measured), None
        if losses is not None:
            self.dose.compare(*losses)
        if self._next_kin is not None:
            (self._kin,), self._next_kin = self._next_kin.read(), None

    def see(self, images: int, census: Census) -> None:
        """Take a batch into the counts, all processes' images, and keep those that another batch needs."""
        self.dose.see(images, census.number("eligible", all_processes=True))
        self.most = max(self.most, census.number("eligible"))
        self.memory.settle(census.number("eligible"))

    def scalars(self, step: Step) -> list[Scalar]:
        """The mean loss of twins."""
        entropy = None if step.result is None else step.result.entropy
        return [Scalar("twins", step.mean(entropy, step.counts.share("twinned")), step.images("twinned"))]


class Memory:
    """The last `size` images that can have a twin, as the network took them, on their device; a ring.

    It starts anew where images of another size or device come.

    >>> memory = Memory(2)
    >>> able = torch.ones(3, dtype=torch.bool)
    >>> memory.remember(torch.rand(3, 1, 4, 4), torch.eye(4).expand(3, 4, 4), torch.arange(3), able, 3)
    >>> len(memory), sorted(memory.recall(5, torch.Generator())[2].tolist())
    (2, [1, 2])
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._kept: tuple[Tensor, Tensor, Tensor] | None = None
        self._noted: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
        self._next = self._filled = 0

    def __len__(self) -> int:
        return self._filled

    def note(self, images: Tensor, masks: Tensor, labels: Tensor, eligible: Tensor) -> None:
        """Remember those that are eligible once the step is over, and in place of what was noted before."""
        self._noted = images, masks, labels, eligible

    def settle(self, eligible: int) -> None:
        """The step is over, and so many of its images were eligible."""
        if self._noted is not None:
            self.remember(*self._noted, eligible)
        self._noted = None

    def remember(self, images: Tensor, masks: Tensor, labels: Tensor, eligible: Tensor, count: int) -> None:
        """Keep the rows that are eligible, so many, in place of the oldest."""
        if not self.size or not count:
            return
        rows = (~eligible).byte().argsort(stable=True)[:count][-self.size :]
        if not self.fits(images):
            self._kept = tuple(part.new_zeros(self.size, *part.shape[1:]) for part in (images, masks, labels))  # type: ignore[assignment]
            self._next = self._filled = 0
        assert self._kept is not None
        slots = (torch.arange(len(rows), device=images.device) + self._next) % self.size
        for kept, part in zip(self._kept, (images, masks, labels), strict=True):
            kept[slots] = part[rows].detach().to(kept.dtype)
        self._next = (self._next + len(rows)) % self.size
        self._filled = min(self._filled + len(rows), self.size)

    def recall(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """At most `count` of the kept images with their masks and labels, at random without repetition."""
        assert self._kept is not None
        chosen = torch.randperm(self._filled, generator=generator)[:count].to(self._kept[0].device, non_blocking=True)
        images, masks, labels = (part[chosen] for part in self._kept)
        return images, masks, labels

    def fits(self, images: Tensor) -> bool:
        """Whether it keeps images of such a size, on the same device."""
        kept = self._kept
        return kept is not None and kept[0].shape[1:] == images.shape[1:] and kept[0].device == images.device


@dataclass(frozen=True)
class _Part:
    """So many twins, their mean cross-entropy, and what each is to weigh beside what it weighs already."""

    count: Tensor
    entropy: Tensor
    extra: float


@dataclass(frozen=True)
class Answered:
    """Counterfactual twins with their labels, the call that answered, and what their images were answered with.

    `counted` are those that are twins. `expected` are the logits of the images that they were made of, without a graph;
    None where labels are asked for.
    """

    batch: Batch
    call: Call
    counted: Tensor
    expected: Tensor | None = None

    @property
    def loss(self) -> Tensor:
        """The cross-entropy of the labels, binary where they are multi-hot; or the divergence from what is expected."""
        logits = self.call.logits[: len(self.batch)]
        if self.expected is None:
            return mean_loss(logits, self.batch.labels, self.counted)
        each = divergence(logits, self.expected, self.batch.labels)
        return torch.where(self.counted, each, 0).sum() / self.counted.sum().clamp(min=1)


def answer_twins(
    call: Call,
    batch: Batch,
    memory: Memory,
    generator: torch.Generator,
    limit: int,
    *,
    eligible: Tensor,
    blend: Blend | None = None,
    deal: Deal | None = None,
    consistent: bool = False,
) -> Answered | None:
    """Twins of what the module was given, run through it once more; None where there is nobody to make one of.

    They are made of the module's own input, so whatever was done to the images before holds for them as well, and of
    images of earlier batches where this one has too few annotated. They run through the module in the mode it is in,
    and BatchNorm sees them. If they shall be `consistent` with their images' answers, they are made of this batch
    alone. `eligible` are the images that can have one, `deal` holds them as they were before some were exchanged. A
    single twin that BatchNorm does not take goes with an image of the batch, whose answer is not read.
    """
    images = images_among(call, batch, () if deal is None else [deal.mixed])
    alone = not _travels_with_others(call, images)
    blend = blend or Blend()
    pool = _material(
        images if deal is None else deal.originals,
        batch,
        eligible,
        memory if alone and not consistent else Memory(0),
        generator,
        2 * limit,
    )
    classes = as_classes(pool.labels) if batch.labels is not None and not are_multi_hot(batch.labels) else None
    index, donors, counted = choose_twins(
        pool.masks,
        classes,
        blend,
        limit=min(limit, len(pool.masks)),
        candidates=pool.candidates,
        lenders=pool.lenders,
        generator=generator,
    )
    if ownership.are_at_hand(counted):  # then what does not count need not be answered
        index, donors, counted = index[counted], donors[counted], counted[counted]
    if len(index) == 0:
        return None
    twins, masks = blend_twins(pool.images, pool.masks, index, donors, blend, generator)

    def answered(shown: Tensor, rows: Tensor) -> Call:
        def exchanged(value: Tensor) -> Tensor:
            if value is images:
                return shown
            return value[rows] if not alone and value.ndim > 0 and len(value) == len(images) else value

        args, kwargs = pytree.tree_map_only(Tensor, exchanged, (call.args, call.kwargs))
        return Call(call.name, call.module, args, kwargs, call.module(*args, **kwargs), ())

    try:
        answer = answered(twins, index)
    except ValueError:  # BatchNorm wants more than one value a channel
        if len(twins) > 1:
            raise
        other = (index + 1) % len(images)
        answer = answered(torch.cat([twins, images[other].detach().to(twins.dtype)]), torch.cat([index, other]))
    expected = call.logits.detach()[index] if consistent else None
    return Answered(Batch(twins, pool.labels[index], masks), answer, counted, expected)


@dataclass(frozen=True)
class _Pool:
    """What twins are made of: images with their masks and labels; who may have one, and who may lend a background."""

    images: Tensor
    masks: Tensor
    labels: Tensor
    candidates: Tensor | None = None
    lenders: Tensor | None = None


def _material(
    images: Tensor, batch: Batch, eligible: Tensor, memory: Memory, generator: torch.Generator, wanted: int
) -> _Pool:
    """The batch's images, which the memory keeps once the step is over.

    Where fewer than `wanted` are annotated, only these, with some of the memory; then nobody with its object there
    lends a background.
    """
    assert batch.masks is not None
    labels = torch.zeros(len(images), dtype=torch.long, device=images.device) if batch.labels is None else batch.labels
    pool = _Pool(images.detach(), batch.masks, labels)
    if len(memory) > 1 and memory.fits(images):
        recalled = memory.recall(wanted, generator)
        missing = (wanted - eligible.sum()).clamp(min=0)
        usable = torch.arange(len(recalled[0]), device=images.device) < missing
        others, other_masks, other_labels = recalled
        pool = _Pool(
            torch.cat([pool.images, others.to(images.dtype)]),
            torch.cat([pool.masks, other_masks.to(pool.masks.dtype)]),
            torch.cat([labels, other_labels.to(labels.dtype)]),
            candidates=torch.cat([eligible, usable]),
            lenders=torch.cat([eligible | (missing == 0), usable]),
        )
    memory.note(images, batch.masks, labels, eligible)
    return pool


def _travels_with_others(call: Call, images: Tensor) -> bool:
    """Whether the module takes more per image than the image, which images of earlier batches do not have."""
    given = [v for v in pytree.tree_leaves((call.args, call.kwargs)) if isinstance(v, Tensor) and v is not images]
    return any(value.ndim > 0 and len(value) == len(images) for value in given)


def images_among(call: Call, batch: Batch, own: Sequence[Tensor] = ()) -> Tensor:
    """The images that a module was given, of the batch's number and size. ConfigurationError if it was given none."""
    images = find_images(call.args, call.kwargs, batch, own)
    if images is None:
        raise ConfigurationError(
            f"Twins need a module that takes images of shape {tuple(batch.images.shape)} and returns logits; the one "
            "read takes none. Name the whole network with model='...', or set twins=0."
        )
    return images
