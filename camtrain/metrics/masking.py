"""Average Drop, Confidence Increase and Win: what is left of the confidence in the heated pixels alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from camtrain.cam.targets import Target
from camtrain.metrics.confidence import class_probability
from camtrain.metrics.probing import heat_at, probing

__all__ = ["Confidences", "masked_confidences"]


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
