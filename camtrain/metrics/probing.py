"""Forward passes on changed images: many changes of each image in one call, and what all methods share but once."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from camtrain.cam import is_empty, normalize, resize
from camtrain.cam.folding import Layout, batch_size, laid_out, quickened_for
from camtrain.cam.passes import image_of, score_as_given, score_variants, undisturbed
from camtrain.cam.targets import Target, settled
from camtrain.errors import BatchError


@dataclass(frozen=True)
class Probe:
    """A model that answers for changed images: what it says of the explained class, settled on the images as given."""

    model: nn.Module
    inputs: Any
    images: Tensor
    before: Tensor
    target: Target
    labels: Tensor | None
    layout: Layout
    max_batch: int

    def ask(self, change: Callable[[int, int], Tensor], count: int) -> Tensor:
        """The confidences `(count, B)` in `count` changes of each image, which `change(start, stop)` makes."""
        if count == 0:
            return self.before.new_zeros(0, len(self.images))
        changes, most = laid_out(change, self.layout), batch_size(self.images, self.max_batch)
        return score_variants(self.model, self.inputs, changes, count, self.target, self.labels, max_batch=most)


@contextmanager
def probing(
    model: nn.Module,
    images: Any,
    target: Target,
    labels: Tensor | None,
    logits: Tensor | None,
    *,
    changes: int,
    max_batch: int,
) -> Iterator[Probe]:
    """The model at rest and without gradients, for about `changes` of each image; `logits`, if known, save a forward.

    Everything about the model is restored on leaving.
    """
    with undisturbed(model, images) as (net, inputs), torch.no_grad():
        pictures = image_of(inputs)
        if logits is None:
            before, fixed = score_as_given(net, inputs, target, labels)
        else:
            before, fixed = target(logits, labels), settled(target, logits, labels)
        if before.shape != (len(pictures),):
            raise BatchError(f"A target gives one confidence for each of {len(pictures)} images, not {before.shape}.")
        with quickened_for(net, inputs, changes) as layout:
            yield Probe(net, inputs, pictures, before, fixed, labels, layout, max_batch)


def heat_at(heatmaps: Mapping[str, Tensor], images: Tensor) -> dict[str, Tensor]:
    """Each method's heatmaps at image size `(B, *S)`, in [0, 1]; a map that is empty is NaN."""
    size = images.shape[2:]
    scaled = {}
    for name, maps in heatmaps.items():
        if len(maps) != len(images) or maps.ndim - 1 != len(size):
            raise BatchError(
                f"The heatmaps of {name!r} are {tuple(maps.shape)}, the images {tuple(images.shape)}: a heatmap is "
                "needed for each image, with as many axes in space."
            )
        maps = maps.detach().to(images.device)
        empty = is_empty(maps).view(-1, *[1] * len(size))
        scaled[name] = torch.where(empty, torch.nan, normalize(resize(maps, size)))
    return scaled
