"""Alignment of any network, in any loop: look for the network, then align one step after the other."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn

from camtrain.alignment.batch import (
    AnnotationTally,
    Census,
    Later,
    Processes,
    Subject,
    asked_of,
    check_alignable,
    count,
    have_masks_each,
    have_soft_labels,
    united,
    with_object_masks,
)
from camtrain.alignment.budget import Plan
from camtrain.alignment.network import Looking, Network
from camtrain.alignment.penalty import Penalty
from camtrain.alignment.step import Scalar, Step
from camtrain.alignment.twins import Twins
from camtrain.data.batches import Batch, check_masks
from camtrain.errors import ConfigurationError
from camtrain.tasks import Task

_NOT_FINITE = (
    "An alignment term, penalty or twins, was not finite: such a step trains without it, and alignment/skipped counts "
    "it."
)
_SOFT_LABELS = (
    "reads labels (B, C) as several classes an image, each present or not, and these lie between 0 and 1. For smoothed "
    "or mixed labels of one class give its index, in a batch_adapter, and twins=0"
)


class Alignment:
    """The two terms, the network that they teach, and what is known of the data; one step after the other.

    Args:
        penalty: on evidence outside the masks; None for none.
        twins: counterfactual ones; None for none.
        layers: whose maps are penalized: "auto" (the last map), a name in the module, a module, or a list of these.
        model: the part of the module that returns the logits, by name or as a module; None to find it.
        mask_kind: "object" for masks of where the evidence should be, "forbidden" for masks of where it must not be.
        task: what the network is asked: "auto" (by the labels of the first batch), "single_label", "binary",
            "multi_label", "regression", or a Task of one's own, whose `evidence` and `losses` are taken.
        seed: of the terms' own random numbers.

    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    >>> masks = torch.zeros(4, 8, 8)
    >>> masks[:, 2:6, 2:6] = 1
    >>> batch = Batch(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 0, 1]), masks)
    >>> alignment = Alignment(Penalty(weight=1.0), Twins()).attach(net)
    >>> with alignment.step(batch) as step:
    ...     loss = nn.functional.cross_entropy(net(batch.images), batch.labels)
    ...     step.add(loss).backward()
    >>> alignment.steps
    1
    """

    def __init__(
        self,
        penalty: Penalty | None = None,
        twins: Twins | None = None,
        *,
        layers: Any = "auto",
        model: str | nn.Module | None = None,
        mask_kind: Literal["object", "forbidden"] = "object",
        task: str | Task = "auto",
        seed: int = 0,
    ) -> None:
        check_alignable(task)
        self.task, self.subject = task, Subject()
        self.penalty, self.twins = penalty or Penalty(0.0), twins or Twins(0.0)
        self.layers, self.model, self.mask_kind, self.seed = layers, model, mask_kind, seed
        self.processes = Processes()
        self.module: nn.Module | None = None
        self.network: Looking | Network | None = None
        self.first_batch_seen = False
        self._step: Step | None = None  # of the batch that is trained on
        self._past: Step | None = None  # of the one before, to be learnt of
        self._given: Batch | None = None  # the last batch as it was read
        self.begin_anew()

    def begin_anew(self) -> None:
        """As if nothing had been trained yet."""
        self.steps = self.skipped = 0
        self._finite: list[Later] = []
        self._part: dict[str, Any] = {"network": None, "takes_own": None}  # of the network, for a checkpoint
        self.penalty.begin_anew()
        self.twins.begin_anew()

    def attach(self, module: nn.Module, processes: Processes | None = None) -> "Alignment":
        """Look for the network in a module, from now on."""
        self.module, self.processes = module, processes or Processes()
        self.network = Looking(
            module, model=self.model, layers=self.layers, name=self._part["network"], takes_own=self._part["takes_own"]
        )
        self.penalty.proven = False  # it is to be shown once more that it has a gradient
        self.annotations = AnnotationTally()
        self.first_batch_seen, self._step, self._past = False, None, None
        return self

    def detach(self, *, learn: bool = True) -> None:
        """Leave the module as it was, and hold it no longer; learn of the last batch, unless something has failed."""
        self.close()
        try:
            if learn:
                self.take_in_last_step()
        finally:
            self.module = self.network = self._step = self._past = self._given = None
            self.processes = Processes()

    @property
    def off(self) -> bool:
        """Whether neither term has anything to do."""
        return not (self.penalty.on or self.twins.on)

    @contextmanager
    def step(self, batch: Batch, *, scale: float = 1.0) -> Iterator[Step]:
        """A step of a plain loop: within it the forward pass, `Step.add` and the backward pass.

        ConfigurationError for a first batch without masks.
        """
        if batch.masks is None and not (self.first_batch_seen or self.off):
            raise ConfigurationError(
                "An alignment needs masks, and its first batch holds none: give Batch(images, labels, masks); an image "
                "without an annotation gets a mask of all -1."
            )
        batch, notes = self.read(batch)
        step = self.begin(batch, scale=scale)
        try:
            yield step
            notes += self.conclude_step(step)
            self.end()
        finally:
            self.close()
        for note in notes:
            warnings.warn(f"Alignment {note}.", stacklevel=3)

    def read(self, batch: Batch) -> tuple[Batch, list[str]]:
        """A batch with masks of where the evidence may be, and what there is to say of it. MaskError for bad masks."""
        notes = []
        if not self.first_batch_seen:
            check_masks(batch)
            self.first_batch_seen = True
            self.subject = asked_of(batch, self.task)
            if batch.images.ndim == 5 and self.twins.on and self.twins.blend.jitter:
                raise ConfigurationError("jitter moves an object in an image; in the frames of a clip leave it at 0.")
            if have_masks_each(batch) and self.twins.on and self.twins.blend.jitter:
                raise ConfigurationError("jitter moves one object an image; with a mask for each label leave it at 0.")
            notes = [_SOFT_LABELS if have_soft_labels(batch) else "", self.twins.look(batch)]
        batch = with_object_masks(batch, forbidden=self.mask_kind == "forbidden", kind=self.subject.kind)
        return batch, [note for note in (*notes, self.twins.accept(batch, self.subject.kind)) if note]

    def begin(self, batch: Batch, *, scale: float = 1.0) -> Step:
        """A step, with its hooks on where there is anything to align. Of one batch it may begin several times.

        Args:
            batch: as `read` returns it.
            scale: the schedule's factor on both terms.
        """
        if self.module is None or self.network is None:
            raise ConfigurationError("An alignment needs a network before its first step: call attach(network).")
        each = batch.masks if have_masks_each(batch) and batch.labels is not None else None
        batch = batch if each is None else replace(batch, masks=united(each, batch.labels))
        earlier = self._step
        self.close()
        self.take_in_last_step()
        step = self._step = Step(
            self.module,
            self.network,
            batch,
            number=self.steps,
            scale=scale,
            seed=((self.seed * 1_000_003 + self.steps) * 1_009 + self.processes.rank) % 2**63,
            processes=self.processes,
            again=earlier is not None,
            subject=replace(self.subject, masks=each),
        )
        self._given = batch
        step.plan = earlier.plan if earlier else self.twins.plan(step)
        step.census = self._count(batch, step.plan)
        if not step.counts.is_read and batch.masks is not None:  # bad ones are refused a step later, and teach nothing
            column = step.counts.annotated.view(-1, *[1] * (batch.masks.ndim - 1))
            step.batch = replace(batch, masks=torch.where(column, batch.masks, -1))
        if self.processes.count == 1:
            self.twins.refused |= self.twins.refuses
        terms = [term for term in (self.penalty, self.twins) if term.on]
        if self._is_wanted(step, terms):
            if self.penalty.on and isinstance(self.network, Looking):
                self.network.look_ahead(batch.images)
            step.open(terms, self.network.layers if self.penalty.on else ())
        return step

    def _is_wanted(self, step: Step, terms: list[Penalty | Twins]) -> bool:
        """Whether a batch has anything to align with. Once one had, no step waits to know: terms of nothing are 0."""
        if not step.counts.is_read:
            if self.annotations.ever:
                return bool(terms)
            step.counts.read()
        return any(term.wants(step) for term in terms)

    def _count(self, batch: Batch, plan: Plan) -> Census:
        return count(
            batch,
            plan.added if plan.dealt is None else len(batch),
            self.processes,
            remembered=len(self.twins.memory) if plan.added else 0,
            fill_donors=self.twins.blend.fill_donors,
            refused=self.twins.refuses,
        )

    def conclude_step(self, step: Step) -> list[str]:
        """The step's loss is known; returns what there is to say of it. All processes are here together."""
        if isinstance(step.network, Network):
            self.network = step.network
            self._part = {"network": self.network.name, "takes_own": self.network.takes_own}
        if not step.again:
            for term in (self.penalty, self.twins):
                term.settle(step)
        finite = [result.finite for result in step.results if result.finite is not None]
        self._finite += [Later(torch.stack(finite))] if finite else []
        return step.notes

    def take_in_last_step(self) -> None:
        """Learn of the batch before, which nobody waits for any more. MaskError for masks that cannot be meant."""
        skipped = sum(1 - int(finite) for later in self._finite for finite in later.read())
        self._finite = []
        if skipped and not self.skipped:
            warnings.warn(_NOT_FINITE, stacklevel=2)
        self.skipped += skipped
        step, self._past = self._past, None
        if step is None:
            return
        census = step.counts.read()
        if census.of("bad"):
            check_masks(self._given or step.batch)  # raises
        self.twins.refused |= census.number("refused", all_processes=True) > 0  # alike in all processes
        images = len(step.batch) * self.processes.count
        self.annotations.count(images, census)
        self.twins.see(images, census)
        for term in (self.penalty, self.twins):
            term.learn()

    def scalars(self, step: Step) -> list[Scalar]:
        """For the log: the same names and numbers of images in every process, which reduce them together."""
        terms = [term for term in (self.penalty, self.twins) if term.on]
        finite = None if step.result is None else step.result.finite
        skipped = 0.0 if finite is None else 1 - finite.float()
        return [Scalar("skipped", skipped, 1), *(each for term in terms for each in term.scalars(step))]

    def end(self) -> None:
        """The backward pass of a batch is over."""
        self.close()
        self.steps += self._step is not None
        self._past, self._step = self._step or self._past, None

    def close(self) -> None:
        """Take all hooks away."""
        if self._step is not None:
            self._step.close()

    def state(self) -> dict[str, Any]:
        """For a checkpoint: its steps, what the automatic weights measured, the network's name; no image."""
        self.take_in_last_step()
        return {
            "steps": self.steps,
            "skipped": self.skipped,
            "balance": self.penalty.balance.state(),
            "seen": self.twins.dose.state(),
            **self._part,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint; an older one may lack all but the first two."""
        self.steps, self.skipped = state["steps"], state["skipped"]
        self.penalty.balance.restore(state.get("balance", (0.0, 0.0, 0.0, 0.0)))
        self.twins.dose.restore(state.get("seen", (0, 0)))
        self._part = {name: state.get(name) for name in ("network", "takes_own")}
