"""Forward passes on changed images: many changes of each in one call, what all methods share once; the masked image."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from camtrain.cam import is_empty, normalize, resize
from camtrain.cam.passes import (
    Layout,
    batch_size,
    image_of,
    laid_out,
    quickened_for,
    score_as_given,
    score_variants,
    undisturbed,
)
from camtrain.cam.targets import Target, settled
from camtrain.errors import BatchError
from camtrain.tasks.answers import class_probability


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


@dataclass(frozen=True, eq=False)
class Confidences:
    """Confidence in the image and in what a heatmap leaves of it, `(B,)` each; NaN after an empty heatmap."""

    before: Float[Tensor, " B"]
    after: Float[Tensor, " B"]


def masked_confidences(
    model: nn.Module,
    images: Any,
    heatmaps: Mapping[str, Tensor],
    *,
    target: Target = class_probability,
    labels: Tensor | None = None,
    logits: Tensor | None = None,
    baseline: float | Tensor = 0.0,
    max_batch: int = 64,
) -> dict[str, Confidences]:
    """The confidence in each image and in `image * heatmap`, by method: for `average_drop` and `confidence_increase`.

    A heatmap `(B, *s)` is resized to the image and rescaled to [0, 1]; where it is 0 the image becomes `baseline` (a
    number, or a tensor that broadcasts to the images; 0 is the mean color of normalized images). The explained class is
    the label, else the one predicted for the whole image. One forward pass for each method and one for the image, which
    `logits` spare; at most `max_batch` images in each. The model is left as it was.
    Source: Chattopadhyay et al. 2018 (Grad-CAM++), section 4.1.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> confidences = masked_confidences(net, torch.rand(3, 1, 2, 2), {"mine": torch.rand(3, 2, 2)})
    >>> confidences["mine"].after.shape
    torch.Size([3])
    """
    with probing(model, images, target, labels, logits, changes=len(heatmaps), max_batch=max_batch) as probe:
        scaled = heat_at(heatmaps, probe.images)
        ground = torch.as_tensor(baseline, dtype=probe.images.dtype, device=probe.images.device)
        maps = list(scaled.values())

        def masked(start: int, stop: int) -> Tensor:
            heat = torch.stack(maps[start:stop]).nan_to_num(0.0).unsqueeze(2).to(probe.images.dtype)  # (n, B, 1, *S)
            return heat * probe.images + (1 - heat) * ground

        after = probe.ask(masked, len(maps))
        return {
            name: Confidences(probe.before, torch.where(_undefined(heat), torch.nan, scores))
            for (name, heat), scores in zip(scaled.items(), after, strict=True)
        }


def _undefined(heat: Tensor) -> Tensor:
    return heat.flatten(1).isnan().any(dim=1)
