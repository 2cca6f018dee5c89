"""One training step with alignment: record what it calls, and add the terms to its loss."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from camtrain.callbacks._alignment_balance import squared_norms
from camtrain.callbacks._alignment_batch import Census
from camtrain.callbacks._alignment_deal import Deal, Dealer
from camtrain.callbacks._alignment_memory import Memory
from camtrain.callbacks._alignment_patch import eager, patched
from camtrain.callbacks._alignment_recording import Call, Calls, depends_on, holds_logits, recording
from camtrain.callbacks._alignment_terms import (
    Penalty,
    Twins,
    add_to_loss,
    cross_entropy,
    loss_in,
    twice_differentiable,
)
from camtrain.callbacks._lightning import LightningModule
from camtrain.cam import Layer, annotated
from camtrain.data.batches import Batch


@dataclass(frozen=True)
class Recipe:
    """What is added in one step: the weights as they are now, and how twins are made, at most `limit` more.

    `dealer`, where there is one, exchanges images for twins before the network sees them. `scale` is the schedule's:
    the penalty's weight holds it already, that of twins does not. `measure` asks for the `norms`, `compare` for the
    `losses` of `Terms`.
    """

    weight: float
    twins: float
    limit: int
    generator: torch.Generator
    memory: Memory
    penalize: Callable[..., Penalty] | None
    answer_twins: Callable[..., Twins | None]
    measure: bool = False
    dealer: Dealer | None = None
    scale: float = 1.0
    compare: bool = False


@dataclass(frozen=True)
class Terms:
    """What was added, and its parts for the log; `added` is None where it was not finite and was left out.

    `norms` are the squared gradient norms of the task and the penalty at the layers, for one image each, where they
    were to be measured; `losses` the cross-entropies of the twins that were added and of the images beside them.
    """

    added: Tensor | None
    penalty: Penalty | None
    twins: Tensor | None
    norms: Tensor | None = None
    losses: Tensor | None = None


def compute_terms(recipe: Recipe, call: Call, layers: Sequence[Layer], batch: Batch, task: Tensor | None) -> Terms:
    """`weight * penalty + twins * cross-entropy`, in which a twin counts as `twins` images of the batch do.

    Twins that were exchanged for their images are in the module's own loss already, and count once there.
    """
    deal = recipe.dealer.close() if recipe.dealer is not None else None
    parts: list[Tensor] = []
    penalty = norms = None
    images = 0 if batch.masks is None else int(annotated(batch.masks).sum())
    if recipe.penalize is not None and images:
        penalty = recipe.penalize(call, layers, batch if deal is None else replace(batch, masks=deal.masks))
        parts.append(recipe.weight * penalty.value)
        if recipe.measure and task is not None:
            with twice_differentiable():
                norms = squared_norms(task, penalty.value, call.activations)
            norms = norms * norms.new_tensor([len(batch), images])  # of a mean over so many: to that of one image
    answered = _twins(recipe, call, layers, batch, deal) if recipe.twins > 0 else []
    parts.extend(part.extra * len(part) / len(batch) * part.entropy for part in answered if part.extra != 0)
    total = torch.stack(parts).sum() if parts else call.logits.new_zeros(())
    known = sum(map(len, answered))
    entropy = torch.stack([len(part) / known * part.entropy for part in answered]).sum() if known else None
    if entropy is None and recipe.twins > 0:
        entropy = call.logits.new_zeros(())
    losses = None
    if recipe.compare and answered and answered[-1].added and batch.labels is not None:
        own = cross_entropy(call.logits.detach(), batch.labels)
        losses = torch.stack([answered[-1].entropy.detach(), own])
    return Terms(total if bool(total.isfinite()) else None, penalty, entropy, norms, losses)


@dataclass(frozen=True)
class _Answered:
    """So many twins, their mean cross-entropy, what each is to weigh beside what it weighs already; added or dealt."""

    count: int
    entropy: Tensor
    extra: float
    added: bool

    def __len__(self) -> int:
        return self.count


def _twins(recipe: Recipe, call: Call, layers: Sequence[Layer], batch: Batch, deal: Deal | None) -> list[_Answered]:
    """Those that were dealt, and those that are added."""
    answered = []
    if deal is not None and len(deal.index):
        assert batch.labels is not None
        extra = max(0.0, recipe.twins - 1)
        logits = call.logits if extra != 0 else call.logits.detach()
        entropy = cross_entropy(logits[deal.index], batch.labels[deal.index])
        answered.append(_Answered(len(deal.index), entropy, extra, added=False))
    if recipe.limit > 0:
        twins = recipe.answer_twins(call, layers, batch, recipe.memory, recipe.generator, recipe.limit, deal=deal)
        if twins is not None:
            answered.append(_Answered(len(twins.batch), twins.loss, recipe.twins * recipe.scale, added=True))
    return answered


@dataclass(frozen=True)
class Scalar:
    """A value for the log: a mean over so many images."""

    name: str
    value: Tensor | float
    images: int


def scalars(terms: Terms | None, census: Census, *, penalty: bool, twins: bool) -> list[Scalar]:
    """What a step logs: the same names and numbers of images in every process, which reduce them together.

    >>> [scalar.name for scalar in scalars(None, Census(), penalty=True, twins=False)]
    ['alignment/skipped', 'alignment/penalty', 'alignment/dead_maps']
    """
    skipped = terms is not None and terms.added is None
    kept = None if skipped else terms
    nobody = kept is None and census.processes == 1
    found = [Scalar("alignment/skipped", float(skipped), 1)]
    if penalty:
        share, images = census.penalty_share, 0 if nobody else census.all_annotated
        known = kept.penalty if kept else None
        found.append(Scalar("alignment/penalty", known.value.detach() * share if known else 0.0, images))
        found.append(Scalar("alignment/dead_maps", known.dead * share if known else 0.0, images))
    if twins:
        entropy = kept.twins.detach() * census.twins_share if kept and kept.twins is not None else 0.0
        found.append(Scalar("alignment/twins", entropy, 0 if nobody else census.all_twinned))
    return found


class AlignedStep:
    """Runs a `training_step` with the hooks on, in automatic or manual optimization.

    With `repeats` every `manual_backward` of a manual step gets terms of its own, as long as `compute` has any for it.
    """

    def __init__(
        self,
        pl_module: LightningModule,
        modules: dict[str, nn.Module],
        layers: Sequence[Layer],
        compute: Callable[[Calls, Tensor | None], Terms | None],
        *,
        dealer: Dealer | None = None,
        divide_by: int = 1,
        compiled: bool = False,
        repeats: bool = False,
    ) -> None:
        self.pl_module, self.modules, self.layers, self.repeats = pl_module, modules, layers, repeats
        self.compute, self.dealer, self.divide_by, self.compiled = compute, dealer, divide_by, compiled
        self.terms: Terms | None = None
        self.missed = False  # a manual step that went without a backward pass to add anything to

    def run(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What the step returns, with the terms in its loss; under manual optimization they go into its backward."""
        with ExitStack() as stack:
            if self.compiled:
                stack.enter_context(eager())
            if self.pl_module.automatic_optimization:
                return self._automatic(original, *args, **kwargs)
            return self._manual(original, *args, **kwargs)

    def _automatic(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with recording(self.modules, self.layers) as calls:
            output = original(*args, **kwargs)
        if output is None:  # Lightning's way to leave a batch out
            return None
        self.terms = self.compute(calls, loss_in(output))
        added = None if self.terms is None else self.terms.added
        return output if added is None else add_to_loss(output, added)

    def _manual(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with recording(self.modules, self.layers) as calls:

            def manual_backward(backward: Callable[..., Any], loss: Tensor, *rest: Any, **options: Any) -> None:
                if (self.terms is None or self.repeats) and self._is_meant(loss, calls):
                    terms = self.compute(calls, loss * self.divide_by)
                    if terms is not None:
                        self.terms = terms
                        calls.made.clear()  # each call has its terms once
                        loss = loss if terms.added is None else loss + terms.added / self.divide_by
                    if self.dealer is not None:
                        self.dealer.reopen()
                backward(loss, *rest, **options)

            with patched(self.pl_module, "manual_backward", manual_backward):
                output = original(*args, **kwargs)
            if self.dealer is not None:
                self.dealer.close()
            self.missed = self.terms is None and any(map(holds_logits, calls.made))
            return output

    @staticmethod
    def _is_meant(loss: Tensor, calls: Calls) -> bool:
        seen = [call.activations or tuple(call.answers) for call in calls.made]
        if not seen and calls.activations.complete:
            seen = [tuple(calls.activations)]
        return any(depends_on(loss, tensor) for tensors in seen for tensor in tensors)
