"""The penalty: evidence for the label that lies outside the mask, as a term of the loss."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from camtrain.alignment.batch import Later, are_multi_hot, mean_of
from camtrain.alignment.budget import Balance
from camtrain.alignment.step import Outside, Scalar, Step
from camtrain.cam import (
    Layer,
    gradients_of,
    is_empty,
    log_probability,
    resolve_method,
    sampled_positive,
)
from camtrain.cam.hooks import first_tensor, hooked, replace_first
from camtrain.checks import check_arguments
from camtrain.data.batches import Batch
from camtrain.errors import BatchError, GradientError
from camtrain.losses import AlignmentLoss
from camtrain.tasks.answers import graph_of
from camtrain.tasks.calls import Call
from camtrain.tasks.classification import likelihood_of_present

_HALF_SCALE = 1024.0  # float16 gradients of a confident answer, or at a feature map, would vanish below 6e-8
_NO_EFFECT = (
    "The alignment penalty of the first step has a gradient of 0 for every parameter: every map is empty, or the layer "
    "does not matter to the target. Watch alignment/dead_maps, or name an earlier layer."
)


class Penalty:
    """Evidence outside the masks, penalized during a network's own training step; a term of an `Alignment`.

    Args:
        weight: at least 0; "auto" keeps the penalty's gradient at `gradient_ratio` of the task's, see `Balance`.
        gradient_ratio: see `weight`.
        method: the map, by name or as a function of activations and gradients.
        target: what is explained, a function `(logits, labels) -> scores`.
        loss: `(heatmaps, masks) -> scalar`. If None, `AlignmentLoss()`, which tolerates some evidence outside where
            twins answer for it.
        second_order: differentiate through the gradient as well; False treats it as a constant.
    """

    def __init__(
        self,
        weight: float | Literal["auto"] = "auto",
        *,
        gradient_ratio: float = 1.0,
        method: str | Callable[..., Any] = "contribution_cam",
        target: Callable[..., Any] = log_probability,
        loss: Callable[..., Any] | None = None,
        second_order: bool = True,
    ) -> None:
        check_arguments(
            weight=weight, gradient_ratio=gradient_ratio, target=target, loss=loss, second_order=second_order
        )
        self.given, self.gradient_ratio = weight, gradient_ratio
        self.method, self.target, self.loss, self.second_order = resolve_method(method), target, loss, second_order
        self.begin_anew()

    def begin_anew(self) -> None:
        """As if nothing had been trained yet."""
        self.balance = Balance(self.gradient_ratio)
        self._measured: Later | None = None
        self.proven = False  # that it has a gradient

    @property
    def on(self) -> bool:
        """Whether it is asked for at all."""
        return self.given != 0

    @property
    def weight(self) -> float:
        """As it is now."""
        return self.balance.weight if isinstance(self.given, str) else self.given

    def wants(self, step: Step) -> bool:
        """Whether any mask of the batch leaves a background."""
        return self.on and bool(step.counts.number("guiding"))

    @property
    def needs_look(self) -> bool:
        """What is one's own may be anything."""
        loss_is_ours = self.loss is None or (type(self.loss) is AlignmentLoss and not self.loss.looks)
        ours = f"{getattr(self.target, '__module__', '')}{self.method.__module__}".count("camtrain.cam.") == 2
        return self.on and not (loss_is_ours and ours)

    def before(self, step: Step) -> None:
        """While the step lasts, attention runs as plain operations: its fused kernels have no second derivative."""
        if self.second_order:
            step.hold(sdpa_kernel(SDPBackend.MATH))

    def after(self, step: Step) -> Tensor | None:
        """The weighted penalty of the recorded call; None where no image is annotated, or no layer was recorded."""
        call, census, batch, result = step.call, step.counts, step.batch, step.outcome
        if not call.activations or (census.is_read and not census.of("annotated")):
            return None
        step.hold(frozen_as_leaves(step.layers, call.activations))
        layers = step.read_layers()
        # the first step is strict: what is tolerated has no gradient, and it is to tell whether there is any
        loss = self.loss or AlignmentLoss(tolerance=step.plan.tolerance if step.number else 0.0)
        target = self._target(step)
        if step.subject.masks is not None and batch.masks is not None and self.target is log_probability:
            drawn = drawn_labels(step.subject.masks, batch.labels, step.generator)
            rows = torch.arange(len(batch), device=drawn.device)
            masks = torch.where(batch.masks < 0, -1.0, step.subject.masks[rows, drawn])
            batch, target = replace(batch, masks=masks), partial(likelihood_of_present, chosen=drawn)
        elif step.deal is not None:
            batch = replace(batch, masks=step.deal.masks)
        result.outside = outside = penalize(
            call,
            layers,
            batch,
            method=self.method,
            target=target,
            loss=loss,
            annotated=census.annotated,
            second_order=self.second_order,
        )
        if self.given == "auto" and step.measures and result.task is not None:
            with twice_differentiable():
                task, penalty = squared_norms(result.task, outside.value, call.activations)
            # of a mean over so many: to that of one
            result.norms = torch.stack([task * len(batch), penalty * census.of("annotated")])
        if self.counts_learned and batch.labels is not None:
            result.learned = step.subject.learned(call.logits.detach(), batch.labels)
        weight = self.weight * step.scale * census.share("annotated")
        return weight * outside.value if result.learned is None else weight * result.learned * outside.value

    @property
    def counts_learned(self) -> bool:
        """Whether it weighs the less the less the network has learned: an automatic weight does.

        A network that has learned nothing has no reasons to correct. Its images' gradients cancel out in the task's
        loss and add up in the penalty, which would be won by leaving it so.
        """
        return self.given == "auto" and self.target is log_probability

    def _target(self, step: Step) -> Callable[..., Tensor]:
        """What is explained; of values what moves them, of several labels one, unless it was given."""
        if self.target is not log_probability:
            return self.target
        if step.subject.task is None:
            several = are_multi_hot(step.batch.labels) and step.call.logits.shape[1] > 1
            return partial(sampled_positive, generator=step.generator) if several else self.target
        return _value if step.subject.kind == "values" else step.subject.task.evidence

    def check(self, step: Step) -> None:
        """GradientError for a penalty without a gradient, looked at once."""
        outside = step.outcome.outside
        if not self.proven and outside is not None:
            self.proven = True
            if not require_gradient(outside.value, step.module) and step.number == 0:
                warnings.warn(_NO_EFFECT, stacklevel=2)

    def settle(self, step: Step) -> None:
        """Set out what the step measured."""
        if self.given == "auto" and step.measures:
            self._measured = step.processes.gather(None if step.result is None else step.result.norms)

    def learn(self) -> None:
        """Take it into the weight, alike in all processes."""
        norms, self._measured = mean_of(self._measured), None
        if norms is not None:
            self.balance.add(*norms)

    def scalars(self, step: Step) -> list[Scalar]:
        """The mean penalty, the fraction of dead maps, and what the automatic weight counts."""
        share, images = step.counts.share("annotated"), step.images("annotated")
        outside = None if step.result is None else step.result.outside
        learned = None if step.result is None else step.result.learned
        return [
            Scalar("penalty", step.mean(outside.value if outside else None, share), images),
            Scalar("dead_maps", step.mean(outside.dead if outside else None, share), images),
            *(
                [Scalar("learned", step.mean(learned, share), images)]
                if self.counts_learned and step.batch.labels is not None
                else []
            ),
        ]


def drawn_labels(masks: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """One label of each image, drawn among those that are present, `(B,)`; any where none is."""
    present = (labels > 0.5).float()
    shares = torch.where(present.any(dim=1, keepdim=True), present, 1.0).cpu()
    return torch.multinomial(shares, 1, generator=generator).squeeze(1).to(masks.device)


def _value(logits: Tensor, labels: Tensor | None) -> Tensor:
    return logits.flatten(1)[:, 0]


def penalize(
    call: Call,
    layers: Sequence[Layer],
    batch: Batch,
    *,
    method: Callable[..., Tensor],
    target: Callable[..., Tensor],
    loss: Callable[..., Tensor],
    annotated: Tensor,
    second_order: bool = True,
) -> Outside:
    """The loss of each layer's heatmaps against the masks, averaged over layers, in at least float32."""
    assert batch.masks is not None
    masks = batch.masks
    batch = replace(batch, labels=known_labels(batch.labels, annotated))
    gradients = score_gradients(call, batch, target, second_order)
    maps = [
        method(layer.to_map(a), layer.to_map(g))
        for layer, a, g in zip(layers, call.activations, gradients, strict=True)
    ]
    dead = torch.stack([(is_empty(heatmaps.detach()) & annotated).sum() for heatmaps in maps]).float().mean()
    ours = loss if type(loss) is AlignmentLoss and not loss.looks else None
    if ours is not None:
        values = [ours.over(heatmaps, masks, annotated) for heatmaps in maps]
    else:
        values = [loss(heatmaps, masks) for heatmaps in maps]
    return Outside(torch.stack(values).mean(), dead / annotated.sum().clamp(min=1))


def known_labels(labels: Tensor | None, keep: Tensor) -> Tensor | None:
    """Class indices, 0 for images that are left out: theirs may be none (-100 is left out of a cross-entropy).

    >>> known_labels(torch.tensor([3, -100]), torch.tensor([True, False])).tolist()
    [3, 0]
    """
    if labels is None or labels.ndim != 1 or labels.is_floating_point():
        return labels
    return torch.where(keep.to(labels.device), labels, 0)


def score_gradients(call: Call, batch: Batch, target: Callable[..., Tensor], second_order: bool) -> list[Tensor]:
    """`d score / d A` per layer, outside autocast, unscaled and in float32 where it was less.

    Raises BatchError where the call saw another number of images than the batch holds, GradientError where the logits
    have no graph.
    """
    logits = call.logits
    if len(logits) != len(batch):
        raise BatchError(
            f"Masks belong to the images in their order; the batch holds {len(batch)} images and "
            f"{call.name or 'the module'} returned {len(logits)} rows. Read the batch with batch_adapter as the module "
            "sees it."
        )
    scale = _HALF_SCALE if any(a.dtype == torch.float16 for a in call.activations) else 1.0
    with torch.autocast(logits.device.type, enabled=False):
        scores = target(logits.to(torch.promote_types(logits.dtype, torch.float32)), batch.labels)
        gradients = gradients_of(scores * scale, call.activations, create_graph=second_order, retain_graph=True)
    exact = [g.to(torch.promote_types(g.dtype, torch.float32)) for g in gradients]
    return exact if scale == 1 else [g / scale for g in exact]


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """GradientError, with the remedy, where a part of the network has no second derivative."""
    try:
        yield
    except RuntimeError as error:
        if "twice" not in str(error) and "double" not in str(error) and "derivative" not in str(error):
            raise
        raise GradientError(
            f"The alignment penalty cannot be differentiated: {error}. Set second_order=False, which takes the map's "
            "gradient for a constant, or name a layer behind the part that cannot be differentiated twice."
        ) from error


def require_gradient(penalty: Tensor, pl_module: nn.Module) -> bool:
    """Whether any trainable parameter has a gradient other than 0; GradientError if none is in the graph at all."""
    parameters = [p for p in pl_module.parameters() if p.requires_grad]
    gradients: Sequence[Tensor | None] = ()
    if penalty.requires_grad and parameters:
        with twice_differentiable():
            if any(type(node).__name__ == "Error" for node in graph_of(penalty)):  # where `once_differentiable` waits
                raise RuntimeError("a part of the network is marked with @once_differentiable, not twice")
            gradients = torch.autograd.grad(penalty, parameters, retain_graph=True, allow_unused=True)
    used = [g for g in gradients if g is not None]
    if not used:
        raise GradientError(
            "The alignment penalty does not depend on any trainable parameter, so it would change nothing: the layer "
            "and all that feeds it are frozen, or the method detaches. Unfreeze the layer, name another, or choose "
            "another method."
        )
    return any(bool(g.count_nonzero()) for g in used)


def squared_norms(task: Tensor, penalty: Tensor, activations: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The squared norms of the gradients of both at the activations, summed over layers, on their device.

    Zero where one does not depend on them. The graph is kept.
    """
    scale = _HALF_SCALE if any(a.dtype == torch.float16 for a in activations) else 1.0
    return _squared_norm(task, activations, scale), _squared_norm(penalty, activations, scale)


def _squared_norm(value: Tensor, activations: Sequence[Tensor], scale: float) -> Tensor:
    none = torch.zeros((), device=activations[0].device)
    if not value.requires_grad:
        return none
    gradients: Any = torch.autograd.grad(value * scale, activations, retain_graph=True, allow_unused=True)
    squares = [(g.float() / scale).square().sum() for g in gradients if g is not None]
    return torch.stack(squares).sum() if squares else none


@contextmanager
def frozen_as_leaves(layers: Sequence[Layer], activations: Sequence[Tensor]) -> Iterator[None]:
    """The outputs of frozen layers are made leaves still, as they were while their activations were recorded.

    Activation checkpointing computes them again in the backward pass, and would save another number of tensors.
    """
    frozen = [layer for layer, activation in zip(layers, activations, strict=True) if activation.is_leaf]
    with hooked(layer.module.register_forward_hook(_make_leaf) for layer in frozen):
        yield


def _make_leaf(module: nn.Module, args: Any, output: Any) -> Any:
    tensor = first_tensor(output)
    if tensor is None or tensor.requires_grad or not (torch.is_grad_enabled() and tensor.is_floating_point()):
        return None
    return replace_first(output, tensor.detach().requires_grad_().clone())
