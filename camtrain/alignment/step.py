"""One training step: all its facts, and the hooks that stay until its backward pass is over."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from camtrain.alignment.batch import Census, Processes, Subject
from camtrain.alignment.budget import Plan, is_measured
from camtrain.alignment.exchange import Deal, Dealer
from camtrain.alignment.network import Looking, Network, holds_logits, other_answers, recording
from camtrain.cam import Layer, ownership
from camtrain.data.batches import Batch
from camtrain.tasks.answers import depends_on
from camtrain.tasks.calls import Call, Calls, moves_images

_LOOKED_AT = 20  # steps: a flip may not be drawn in the first
_MOVED = (
    "teaches other places than the masks mark: the step crops, mirrors or mixes the images before the network sees "
    "them. Augment images and masks together, in the data set or in on_after_batch_transfer"
)


@dataclass(frozen=True)
class Scalar:
    """A value for the log: a mean over so many images."""

    name: str
    value: Tensor | float
    images: int | Tensor


@dataclass(frozen=True)
class Outside:
    """The mean penalty of a batch, and the fraction of its annotated images whose map is dead."""

    value: Tensor
    dead: Tensor


@runtime_checkable
class Term(Protocol):
    """What is added to a loss: it is told of a step before its forward pass and after it."""

    @property
    def on(self) -> bool:
        """Whether there is anything to do, in this and later steps."""

    @property
    def needs_look(self) -> bool:
        """Whether what it adds may be not finite though all it was made of is, so that a look is worth the wait."""

    def begin_anew(self) -> None:
        """As if nothing had been trained yet."""

    def wants(self, step: "Step") -> bool:
        """Whether the step's batch has anything for it; a step that no term wants runs as it is."""

    def before(self, step: "Step") -> None:
        """The forward pass is to come."""

    def after(self, step: "Step") -> Tensor | None:
        """What to add to the loss, once the network's call is known."""

    def check(self, step: "Step") -> None:
        """Refuse what could teach nothing, once every term is known and before the backward pass."""

    def settle(self, step: "Step") -> None:
        """The step's loss is known: set out what there is to learn of it. All processes are here together."""

    def learn(self) -> None:
        """A step later: learn of it."""

    def scalars(self, step: "Step") -> list[Scalar]:
        """For the log, the same names in every process."""


@dataclass
class Result:
    """What a forward pass came to: the network's call, the module's own loss, and what the terms made of both.

    `others` are the calls beside the network's, where it was found in this step; else None.
    """

    call: Call
    task: Tensor | None
    others: list[Call] | None = None
    finite: Tensor | None = None  # whether all was, so that it was added
    outside: Outside | None = None
    learned: Tensor | None = None  # how much of what is asked, in [0, 1]
    norms: Tensor | None = None  # squared, of the task's and the penalty's gradients, for one image each
    entropy: Tensor | None = None  # of twins
    losses: Tensor | None = None  # of added twins, and of the images beside them


class Step:
    """All facts of one training step, and the owner of its hooks until the backward pass is over.

    `add` is called once the module has its own loss; `close` once the backward pass is over, in any case.
    """

    def __init__(
        self,
        module: nn.Module,
        network: Looking | Network,
        batch: Batch,
        *,
        number: int = 0,
        scale: float = 1.0,
        seed: int = 0,
        processes: Processes = Processes(),  # noqa: B008  frozen
        again: bool = False,
        subject: Subject = Subject(),  # noqa: B008  frozen
    ) -> None:
        self.module, self.network, self.batch = module, network, batch
        self.number, self.scale, self.processes = number, scale, processes
        self.subject = subject
        self.again = again  # an optimizer asks for the loss of this batch once more
        self.generator = torch.Generator().manual_seed(seed)
        self.repeats = bool(network.takes_own)  # every backward pass of a manual step may have terms of its own
        self.plan = Plan(1.0, 0)
        self.census: Census | None = None
        self.terms: tuple[Term, ...] = ()
        self.layers: tuple[Layer, ...] = ()
        self.calls = Calls()
        self.dealer: Dealer | None = None
        self.results: list[Result] = []
        self.notes: list[str] = []
        self._forward, self._hooks = ExitStack(), ExitStack()

    @property
    def result(self) -> Result | None:
        """What the last forward pass came to, if there was one."""
        return self.results[-1] if self.results else None

    @property
    def measures(self) -> bool:
        """Whether the automatic weights learn of this step."""
        return is_measured(self.number)

    @property
    def counts(self) -> Census:
        """The census of the batch."""
        assert self.census is not None
        return self.census

    def open(self, terms: Sequence[Term], layers: tuple[Layer, ...]) -> None:
        """Watch the forward pass to come."""
        self.terms, self.layers = tuple(terms), layers
        for term in self.terms:
            term.before(self)
        self.calls = self._forward.enter_context(recording(self.network.parts, layers))

    def hold(self, context: AbstractContextManager[Any]) -> None:
        """Enter a context that lasts until the backward pass is over."""
        self._hooks.enter_context(context)

    @property
    def outcome(self) -> Result:
        """What is known of the forward pass, while terms are computed."""
        assert self.result is not None
        return self.result

    @property
    def call(self) -> Call:
        """The network's answer to the batch's images."""
        return self.outcome.call

    @property
    def deal(self) -> Deal | None:
        """What was exchanged on its way into the network."""
        return None if self.dealer is None else self.dealer.deal

    def read_layers(self) -> tuple[Layer, ...]:
        """The layers, with how the outputs that were recorded are read as maps."""
        assert isinstance(self.network, Network)
        return self.network.read_layers(self.batch.images, self.call.activations)

    @property
    def own(self) -> Sequence[Tensor]:
        """The tensors that are the batch's images: as they came, and as they were dealt."""
        return [self.batch.images] if self.dealer is None else self.dealer.own

    def add(self, loss: Tensor) -> Tensor:
        """The module's own loss, and what there is to add to it."""
        added = self.compute(loss)
        return loss if added is None else loss + added

    def compute(self, task: Tensor | None, *, more: bool = False) -> Tensor | None:
        """What to add to the module's own loss; None for nothing, as where the step leaves the network out.

        Args:
            task: that loss, if it is known.
            more: another backward pass of this step may follow, with another loss.
        """
        if not self.terms:
            return None
        if not more:
            self.end_forward()
        if self.dealer is not None:
            self.dealer.close()
        added = self._compute(task)
        if more and self.dealer is not None:
            self.dealer.reopen()
        return added

    def _compute(self, task: Tensor | None) -> Tensor | None:
        result = self._find(task)
        if result is None:
            return None
        self.results.append(result)
        if self.number < _LOOKED_AT:
            given = result.call.tensors if self.deal is None else [self.deal.originals]
            self.notes += [_MOVED] if any(moves_images(self.batch.images, tensor) for tensor in given) else []
        parts = [part for part in (term.after(self) for term in self.terms) if part is not None]
        for term in self.terms:
            term.check(self)
        self.calls.made.clear()  # each call has its terms once
        total = torch.stack(parts).sum() if parts else None
        if total is None:
            return None
        result.finite = total.detach().isfinite()
        if any(term.needs_look for term in self.terms) or ownership.are_at_hand(total):
            return total if bool(result.finite) else None
        return torch.where(result.finite, total, 0)

    def _find(self, task: Tensor | None) -> Result | None:
        images = len(self.batch)
        if isinstance(self.network, Network):
            call = self.network.read(self.calls, self.own, images, task)
            return None if call is None else Result(call, task)
        self.network, call = self.network.find(self.calls, self.own, images, task)
        doubt = other_answers(call)
        self.notes += [doubt] if doubt else []
        return Result(call, task, [other for other in self.calls.made if other is not call])

    def is_meant(self, loss: Tensor) -> bool:
        """Whether a loss depends on what was recorded, so that a term may join it."""
        recorded = [call.activations or tuple(call.answers) for call in self.calls.made]
        if not recorded and self.calls.activations.complete:
            recorded = [tuple(self.calls.activations)]
        return any(depends_on(loss, tensor) for tensors in recorded for tensor in tensors)

    @property
    def is_missed(self) -> bool:
        """Whether the network answered and nothing was added."""
        return bool(self.terms) and self.result is None and any(map(holds_logits, self.calls.made))

    def images(self, name: str) -> int | Tensor:
        """Of how many images a scalar is, over all processes, by the name of a count.

        In a single process none, where nothing was computed or it was not finite; where several reduce it together, as
        many in each.
        """
        number = self.counts.of(name, all_processes=True)
        if self.processes.count > 1:
            return number
        if self.result is None:
            return 0
        return number if self.result.finite is None else number * self.result.finite

    @property
    def takes_more(self) -> bool:
        """Whether another backward pass of the step may have terms of its own."""
        return bool(self.terms) and (self.result is None or self.repeats)

    def mean(self, value: Tensor | None, share: float | Tensor) -> Tensor | float:
        """A mean over this process' images, as a share of that over all; 0 where there is none."""
        if value is None:
            return 0.0
        value = value.detach() * share
        finite = None if self.result is None else self.result.finite
        return value if finite is None else torch.where(finite, value, 0)

    def end_forward(self) -> None:
        """Watch no more calls."""
        self._forward.close()
        if self.dealer is not None:
            self.dealer.close()

    def close(self) -> None:
        """Leave the module as it was. Safe to call twice."""
        self._forward.close()
        self._hooks.close()


def add_to_loss(output: Any, extra: Tensor) -> Any:
    """A training step's output with a term added to its loss: a tensor, or a mapping with "loss"; None stays None.

    >>> add_to_loss({"loss": torch.tensor(1.0), "n": 3}, torch.tensor(0.5))
    {'loss': tensor(1.5000), 'n': 3}
    """
    if isinstance(output, Tensor):
        return output + extra
    if isinstance(output, Mapping) and output.get("loss") is not None:
        return {**output, "loss": output["loss"] + extra}
    return output


def loss_in(output: Any) -> Tensor | None:
    """The loss in a training step's output, or None.

    >>> loss_in({"loss": torch.tensor(1.0)})
    tensor(1.)
    """
    loss = output.get("loss") if isinstance(output, Mapping) else output
    return loss if isinstance(loss, Tensor) else None
