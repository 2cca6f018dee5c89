"""One training step: all its facts, and the hooks that stay until its backward pass is over."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from camtrain.alignment.batch import Census, Processes
from camtrain.alignment.budget import Plan, is_measured
from camtrain.alignment.calls import Call, Calls, depends_on, holds_logits, other_answers, recording
from camtrain.alignment.exchange import Deal, Dealer
from camtrain.alignment.network import Looking, Network
from camtrain.cam import Layer
from camtrain.data.batches import Batch


@dataclass(frozen=True)
class Scalar:
    """A value for the log: a mean over so many images."""

    name: str
    value: Tensor | float
    images: int


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
        """The step's loss is known: learn of it. All processes are here together."""

    def scalars(self, step: "Step") -> list[Scalar]:
        """For the log, the same names in every process."""


class Step:
    """All facts of one training step, and the owner of its hooks until the backward pass is over.

    `compute` is called once the module has its own loss; `close` once the backward pass is over, in any case.
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
    ) -> None:
        self.module, self.network, self.batch = module, network, batch
        self.number, self.scale, self.seed, self.processes = number, scale, seed, processes
        self.again = again  # an optimizer asks for the loss of this batch once more
        self.generator = torch.Generator().manual_seed(seed)
        self.measures = is_measured(number)
        self.repeats = bool(network.takes_own)  # every backward pass of a manual step may have terms of its own
        self.plan, self.census = Plan(1.0, 0), Census()
        self.terms: tuple[Term, ...] = ()
        self.layers: tuple[Layer, ...] = ()
        self.notes: list[str] = []
        # what comes of the forward pass
        self.calls = Calls()
        self.task: Tensor | None = None  # the module's own loss
        self.is_first = False  # the network was found in this step
        self.others: list[Call] = []  # what else was called
        self.dealer: Dealer | None = None
        self.deal: Deal | None = None
        # what comes of the terms
        self.done = self.skipped = False  # terms were computed; and were not finite, so that nothing was added
        self.skips = 0
        self.outside: Outside | None = None
        self.norms: Tensor | None = None  # squared, of the task's and the penalty's gradients, for one image each
        self.entropy: Tensor | None = None  # of twins
        self.losses: Tensor | None = None  # of added twins, and of the images beside them
        self._call: Call | None = None
        self._forward, self._hooks = ExitStack(), ExitStack()

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
    def call(self) -> Call:
        """The network's answer to the batch's images."""
        assert self._call is not None
        return self._call

    def read_layers(self) -> tuple[Layer, ...]:
        """The layers, with how the outputs that were recorded are read as maps."""
        assert isinstance(self.network, Network)
        return self.network.read_layers(self.batch.images, self.call.activations)

    @property
    def own(self) -> Sequence[Tensor]:
        """The tensors that are the batch's images: as they came, and as they were dealt."""
        return [self.batch.images] if self.dealer is None else self.dealer.own

    @property
    def is_mute(self) -> bool:
        """Whether its scalars are of no image: nothing was computed, and nobody else's are to be reduced with them."""
        return (self.skipped or not self.done) and self.census.processes == 1

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
        self.deal = None if self.dealer is None else self.dealer.close()
        added = self._compute(task)
        if more and self.dealer is not None:
            self.dealer.reopen()
        return added

    def add(self, loss: Tensor) -> Tensor:
        """The module's own loss, and what there is to add to it."""
        added = self.compute(loss)
        return loss if added is None else loss + added

    def _compute(self, task: Tensor | None) -> Tensor | None:
        self._call = self._find_call(task)
        if self._call is None:
            return None
        self.task = task
        self.others = [call for call in self.calls.made if call is not self._call]
        parts = [part for part in (term.after(self) for term in self.terms) if part is not None]
        for term in self.terms:
            term.check(self)
        self.calls.made.clear()  # each call has its terms once
        self.done = True
        total = torch.stack(parts).sum() if parts else None
        self.skipped = total is not None and not bool(total.isfinite())
        self.skips += self.skipped
        return None if self.skipped else total

    def _find_call(self, task: Tensor | None) -> Call | None:
        images = len(self.batch)
        if isinstance(self.network, Network):
            return self.network.read(self.calls, self.own, images, task)
        self.network, call = self.network.find(self.calls, self.own, images, task)
        self.is_first = True
        doubt = other_answers(call)
        self.notes += [doubt] if doubt else []
        return call

    def is_meant(self, loss: Tensor) -> bool:
        """Whether a loss depends on what was recorded, so that a term may join it."""
        recorded = [call.activations or tuple(call.answers) for call in self.calls.made]
        if not recorded and self.calls.activations.complete:
            recorded = [tuple(self.calls.activations)]
        return any(depends_on(loss, tensor) for tensors in recorded for tensor in tensors)

    @property
    def is_missed(self) -> bool:
        """Whether the network answered and nothing was added."""
        return bool(self.terms) and not self.done and any(map(holds_logits, self.calls.made))

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
