"""Does a model rest on objects or on what surrounds them: accuracies under noise on either, on other backgrounds."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from camtrain.cam import annotated
from camtrain.errors import BatchError, ConfigurationError

__all__ = [
    "BackgroundGap",
    "RelativeForegroundSensitivity",
    "background_gap",
    "noise_in_region",
    "relative_foreground_sensitivity",
]


def relative_foreground_sensitivity(foreground: Tensor, background: Tensor) -> Tensor:
    """`(a_bg - a_fg) / (2 min(a, 1 - a))` of accuracies under noise in the foreground and in the background only.

    `a` is the mean of both. In [-1, 1]: above 0 the model is more sensitive to its objects, below to their backgrounds.
    NaN where both accuracies are 0, or both 1: nothing could differ. Source: Moayeri et al. 2022 (RIVAL10).

    >>> relative_foreground_sensitivity(torch.tensor(0.5), torch.tensor(0.75))
    tensor(0.3333)
    """
    mean = (foreground + background) / 2
    room = 2 * torch.minimum(mean, 1 - mean)
    return (background - foreground) / torch.where(room > 0, room, torch.nan)


def background_gap(same: Tensor, random: Tensor) -> Tensor:
    """How much accuracy objects lose on random backgrounds, against backgrounds of other images of their own class.

    In [-1, 1]; 0 for a model that does not mind. Source: Xiao et al. 2021 (Noise or signal), BG-Gap.

    >>> background_gap(torch.tensor(0.75), torch.tensor(0.5))
    tensor(0.2500)
    """
    return same - random


def noise_in_region(
    images: Float[Tensor, "B C H W"],
    masks: Float[Tensor, "B H W"],
    *,
    inside: bool,
    sigma: float = 0.25,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "B C H W"]:
    """The images with normal noise on their objects (`inside`) or on their backgrounds alone, for an accuracy each.

    `sigma` is in the images' units: 0.25 for pixels in [0, 1], as in Moayeri et al. 2022, and divided by the standard
    deviation for normalized ones. An image without an annotation comes back as it is.

    >>> images, masks = torch.zeros(1, 1, 1, 2), torch.tensor([[[1.0, 0.0]]])
    >>> noise_in_region(images, masks, inside=True).flatten() != 0
    tensor([ True, False])
    """
    if sigma < 0:
        raise ConfigurationError(f"A standard deviation is at least 0, not sigma={sigma}.")
    region = masks if inside else 1 - masks
    region = torch.where(annotated(masks).view(-1, 1, 1), region, 0).to(images.dtype).unsqueeze(1)
    drawn = torch.randn(images.shape, generator=generator, device=images.device, dtype=torch.float32)
    return images + sigma * region * drawn.to(images.dtype)


class _TwoAccuracies(Metric):
    """Accuracies of the same images under two conditions, reduced over processes."""

    full_state_update = False
    hits: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("hits", torch.zeros(2), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0.0), dist_reduce_fx="sum")

    def _add(self, first: Tensor, second: Tensor) -> None:
        if first.shape != second.shape:
            raise BatchError(
                f"Both are answers for the same images, not {tuple(first.shape)} and {tuple(second.shape)}."
            )
        self.hits += torch.stack([first.float().sum(), second.float().sum()]).to(self.hits)
        self.count += first.numel()

    def _accuracies(self) -> Tensor:
        return self.hits / torch.where(self.count > 0, self.count, torch.nan)


class RelativeForegroundSensitivity(_TwoAccuracies):
    """Is the model more sensitive to noise on the objects than on their backgrounds? NaN before the first image.

    See `relative_foreground_sensitivity`, and `noise_in_region` for the images.

    >>> metric = RelativeForegroundSensitivity()
    >>> metric.update(torch.tensor([True, False, False, True]), torch.tensor([True, True, False, True]))
    >>> metric.compute()
    tensor(0.3333)
    """

    higher_is_better = True

    def update(self, foreground: Tensor, background: Tensor) -> None:
        """Add which images `(B,)` were right under noise in the foreground, and in the background."""
        self._add(foreground, background)

    def compute(self) -> Tensor:
        """The relative sensitivity over all batches and processes."""
        return relative_foreground_sensitivity(*self._accuracies())


class BackgroundGap(_TwoAccuracies):
    """How much accuracy objects lose on random backgrounds. See `background_gap`. NaN before the first image.

    >>> metric = BackgroundGap()
    >>> metric.update(torch.tensor([True, False, True, True]), torch.tensor([True, False, False, True]))
    >>> metric.compute()
    tensor(0.2500)
    """

    higher_is_better = False

    def update(self, same: Tensor, random: Tensor) -> None:
        """Add which objects `(B,)` were recognized on backgrounds of their own class, and on random ones."""
        self._add(same, random)

    def compute(self) -> Tensor:
        """The gap over all batches and processes."""
        return background_gap(*self._accuracies())
