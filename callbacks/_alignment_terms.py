"""The terms that alignment adds to a loss: the penalty of a recorded call, and the cross-entropy of its twins."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from camtrain.callbacks._alignment_recording import Call
from camtrain.cam import Layer, annotated, find_logits, gradients_of, is_empty
from camtrain.data.batches import Batch
from camtrain.errors import BatchError, ConfigurationError, GradientError
from camtrain.losses import make_twins

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
) -> Penalty:
    """The loss of each layer's heatmaps against the masks, averaged over layers, in at least float32."""
    assert batch.masks is not None
    gradients = score_gradients(call, batch, target, second_order)
    maps = [
        method(layer.to_map(a), layer.to_map(g))
        for layer, a, g in zip(layers, call.activations, gradients, strict=True)
    ]
    keep = annotated(batch.masks)
    dead = torch.stack([is_empty(heatmaps.detach()[keep]).float().mean() for heatmaps in maps]).mean()
    return Penalty(torch.stack([loss(heatmaps, batch.masks) for heatmaps in maps]).mean(), dead)


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


def require_gradient(penalty: Tensor, pl_module: nn.Module) -> bool:
    """Whether any trainable parameter has a gradient other than 0; GradientError if none is in the graph at all."""
    parameters = [p for p in pl_module.parameters() if p.requires_grad]
    gradients: Sequence[Tensor | None] = ()
    if penalty.requires_grad and parameters:
        gradients = torch.autograd.grad(penalty, parameters, retain_graph=True, allow_unused=True)
    used = [g for g in gradients if g is not None]
    if not used:
        raise GradientError(
            "The alignment penalty does not depend on any trainable parameter, so it would change nothing: the layer "
            "and all that feeds it are frozen, or the method detaches. Unfreeze the layer, name another, or choose "
            "another method."
        )
    return any(bool(g.count_nonzero()) for g in used)


def twins_cross_entropy(call: Call, batch: Batch, *, generator: torch.Generator, limit: int, **options: Any) -> Tensor:
    """Cross-entropy of the counterfactual twins of what the module was given; 0 where there are none.

    The twins are made of the module's own input, so whatever was done to the images before holds for them as well; they
    run through the module in the mode it is in, and BatchNorm sees them.
    """
    images = _images_among((call.args, call.kwargs), batch)
    assert batch.masks is not None
    assert batch.labels is not None
    twins, index = make_twins(images, batch.masks, batch.labels, generator=generator, limit=limit, **options)
    if len(twins) == 0:
        return images.new_zeros(())

    def exchanged(value: Tensor) -> Tensor:
        if value is images:
            return twins
        return value[index] if value.ndim > 0 and len(value) == len(images) else value

    args, kwargs = pytree.tree_map_only(Tensor, exchanged, (call.args, call.kwargs))
    logits = find_logits(call.module(*args, **kwargs))
    return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), batch.labels[index])


def _images_among(inputs: Any, batch: Batch) -> Tensor:
    for value in pytree.tree_leaves(inputs):
        if isinstance(value, Tensor) and value.ndim == 4 and _size(value) == _size(batch.images):
            return value
    raise ConfigurationError(
        f"Twins need a module that takes images of shape {tuple(batch.images.shape)} and returns logits; the one read "
        "takes none. Name the whole network with model='...', or set twins=0."
    )


def _size(images: Tensor) -> tuple[int, ...]:
    return len(images), *images.shape[2:]


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
