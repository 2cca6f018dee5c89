"""The terms that alignment adds to a loss: the penalty of a recorded call, and the cross-entropy of its twins."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from camtrain.callbacks._alignment_deal import Deal, find_images
from camtrain.callbacks._alignment_memory import Memory
from camtrain.callbacks._alignment_recording import Call, as_rows, graph_of
from camtrain.cam import (
    Layer,
    annotated,
    gradients_of,
    is_empty,
    log_probability,
    sampled_positive,
)
from camtrain.data.batches import Batch
from camtrain.errors import BatchError, ConfigurationError, GradientError
from camtrain.swaps.blending import Blend
from camtrain.swaps.twins import can_have_twin, make_masked_twins

_HALF_SCALE = 1024.0  # float16 gradients of a confident answer would vanish below 6e-8


@dataclass(frozen=True)
class Penalty:
    """The mean penalty of a batch, and the fraction of its annotated images whose map is dead."""

    value: Tensor
    dead: Tensor


def penalize(
    call: Call,
    layers: Sequence[Layer],
    batch: Batch,
    *,
    method: Callable[..., Tensor],
    target: Callable[..., Tensor],
    loss: Callable[..., Tensor],
    second_order: bool = True,
    generator: torch.Generator | None = None,
) -> Penalty:
    """The loss of each layer's heatmaps against the masks, averaged over layers, in at least float32.

    Of multi-hot labels one class present in each image is drawn, where the target is the log-probability of a label.
    """
    assert batch.masks is not None
    keep = annotated(batch.masks)
    batch = replace(batch, labels=known_labels(batch.labels, keep))
    if target is log_probability and are_multi_hot(batch.labels) and call.logits.shape[1] > 1:
        target = partial(sampled_positive, generator=generator)
    gradients = score_gradients(call, batch, target, second_order)
    maps = [
        method(layer.to_map(a), layer.to_map(g))
        for layer, a, g in zip(layers, call.activations, gradients, strict=True)
    ]
    dead = torch.stack([is_empty(heatmaps.detach()[keep]).float().mean() for heatmaps in maps]).mean()
    return Penalty(torch.stack([loss(heatmaps, batch.masks) for heatmaps in maps]).mean(), dead)


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
    return [g.to(torch.promote_types(g.dtype, torch.float32)) / scale for g in gradients]


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


@dataclass(frozen=True)
class Twins:
    """Counterfactual twins with their labels, the call that answered, and what their images were answered with.

    `expected` are the logits of the images that they were made of, without a graph; None where labels are asked for.
    """

    batch: Batch
    call: Call
    expected: Tensor | None = None

    @property
    def loss(self) -> Tensor:
        """The cross-entropy of the labels, binary where they are multi-hot; or the divergence from what is expected."""
        logits = self.call.logits[: len(self.batch)]
        if self.expected is None:
            return cross_entropy(logits, self.batch.labels)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        expected = self.expected.to(logits.dtype)
        if are_multi_hot(self.batch.labels) or logits.shape[1] == 1:
            return F.binary_cross_entropy_with_logits(logits, expected.sigmoid())
        answers, wanted = logits.log_softmax(dim=1), expected.log_softmax(dim=1)
        return F.kl_div(answers, wanted, reduction="batchmean", log_target=True)


def cross_entropy(logits: Tensor, labels: Tensor | None) -> Tensor:
    """The mean over twins, in at least float32; binary where labels are multi-hot. BatchError for other labels.

    Class indices below 0, and multi-hot labels off [0, 1], are not known and left out.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    assert labels is not None
    if logits.shape[1] == 1 and labels.numel() == len(logits):
        return F.binary_cross_entropy_with_logits(logits.squeeze(1), labels.reshape(-1).to(logits.dtype))
    if are_multi_hot(labels) and labels.shape == logits.shape:
        known = (labels >= 0) & (labels <= 1)  # -1 or NaN: not known
        wanted = torch.where(known, labels, 0).to(logits.dtype)
        total = F.binary_cross_entropy_with_logits(logits, wanted, known.to(logits.dtype), reduction="sum")
        return total / known.sum().clamp(min=1)
    if labels.ndim != 1 or labels.is_floating_point():
        raise BatchError(
            f"Twins need a class index per image, or multi-hot labels of the logits' shape {tuple(logits.shape)}; "
            f"got {labels.dtype} of shape {tuple(labels.shape)}. Convert them in a batch_adapter, or set twins=0."
        )
    return F.cross_entropy(logits, torch.where(labels < 0, -100, labels).long())


def are_multi_hot(labels: Tensor | None) -> bool:
    """Whether labels are `(B, C)`, several classes an image.

    >>> are_multi_hot(torch.tensor([[0, 1]])), are_multi_hot(torch.tensor([1]))
    (True, False)
    """
    return labels is not None and labels.ndim == 2


def answer_twins(
    call: Call,
    layers: Sequence[Layer],
    batch: Batch,
    memory: Memory,
    generator: torch.Generator,
    limit: int,
    *,
    blend: Blend | None = None,
    deal: Deal | None = None,
    consistent: bool = False,
) -> Twins | None:
    """Twins of what the module was given, run through it once more; None where there is nobody to make one of.

    They are made of the module's own input, so whatever was done to the images before holds for them as well, and of
    images of earlier batches where this one has too few annotated. They run through the module in the mode it is in,
    and BatchNorm sees them. If they shall be `consistent` with their images' answers, they are made of this batch
    alone. `deal` holds the images before some of them were exchanged. A single twin that BatchNorm does not take goes
    with an image of the batch, whose answer is not read.
    """
    images = images_among(call, batch, () if deal is None else [deal.mixed])
    alone = not _travels_with_others(call, images)
    blend = blend or Blend()
    pool = _material(
        images if deal is None else deal.originals,
        batch,
        memory if alone and not consistent else Memory(0, blend.fill_donors),
        generator,
        2 * limit,
    )
    known = None if batch.labels is None or are_multi_hot(batch.labels) else pool[2].long()
    twins, masks, index = make_masked_twins(*pool[:2], known, blend, generator=generator, limit=limit)
    if len(twins) == 0:
        return None

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
    return Twins(Batch(twins, pool[2][index], masks), answer, call.logits.detach()[index] if consistent else None)


def _material(
    images: Tensor, batch: Batch, memory: Memory, generator: torch.Generator, wanted: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Images, masks and labels to make twins of: the batch's, which the memory keeps once the step is over.

    Where fewer than `wanted` are annotated, only these, with some of the memory; then nobody with its object there
    lends a background.
    """
    assert batch.masks is not None
    labels = torch.zeros(len(images), dtype=torch.long, device=images.device) if batch.labels is None else batch.labels
    pool = images.detach(), batch.masks, labels
    rows = can_have_twin(batch.masks, fill_donors=memory.fill_donors).nonzero().flatten()
    if len(rows) < wanted and len(memory) > 1 and memory.fits(images):
        recalled = memory.recall(wanted - len(rows), generator)
        pool = tuple(torch.cat([a[rows], b.to(a.dtype)]) for a, b in zip(pool, recalled, strict=True))  # type: ignore[assignment]
    memory.note(images, batch.masks, labels)
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


def answers_again(made: Sequence[Call], call: Call, batch: Batch) -> bool:
    """Whether another call answered as many images, of the batch's size, with logits of as many classes."""
    others = (other for other in made if other is not call and find_images(other.args, other.kwargs, batch) is not None)
    return any(as_rows(answer).shape == call.logits.shape for other in others for answer in other.answers)


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
    if isinstance(output, Tensor):
        return output
    found = output.get("loss") if isinstance(output, Mapping) else None
    return found if isinstance(found, Tensor) else None
