"""A class for every pixel."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from camtrain.errors import BatchError
from camtrain.tasks.base import Asked, Task, Units, View, in_float
from camtrain.tasks.classification import describe


class Segmentation(Task):
    """A class for every pixel: logits `(B, C, *S)`, labels `(B, *S)` of class indices of the same size.

    A unit is an image and a class: of every image those classes that are there or predicted, the largest first, at
    most `regions_per_image`; class `background` is none of them. Explained is the sum of the class's logits over the
    region where it is predicted (Seg-Grad-CAM, Vinogradova et al. 2020), where it is missed over the region where it
    is. A region is right that overlaps the true one by half of their union or more. The mask is the true region. One
    channel of logits is that of the second of two classes.

    Args:
        background: the class that is no object; None if there is none.
        regions_per_image: at most so many, at least 1.
        ignore_index: the label of pixels that are not known; negative labels never are.
    """

    name = "segmentation"
    form = "presence"
    one_unit = False

    def __init__(self, background: int | None = 0, regions_per_image: int = 4, ignore_index: int = 255) -> None:
        self.background, self.regions_per_image, self.ignore_index = background, regions_per_image, ignore_index

    def read(self, output: Any) -> Float[Tensor, "B C *S"]:
        """`(B, C, *S)` with at least two classes."""
        logits = super().read(output)
        if logits.ndim < 3:
            raise BatchError(f"A segmentation has logits (B, C, *S); the network gave {tuple(logits.shape)}.")
        return logits if logits.shape[1] > 1 else torch.cat([torch.zeros_like(logits), logits], dim=1)

    def maps(self, labels: Any, logits: Tensor) -> Int[Tensor, "B *S"]:
        """Class indices, -1 for unknown pixels. BatchError for labels of another form."""
        expected = (len(logits), *logits.shape[2:])
        if isinstance(labels, Tensor) and labels.shape == (len(logits), 1, *logits.shape[2:]):
            labels = labels.squeeze(1)
        if not isinstance(labels, Tensor) or labels.shape != expected or labels.is_floating_point():
            raise BatchError(f"A segmentation's labels are class indices {expected}; got {describe(labels)}.")
        unknown = (labels < 0) | (labels == self.ignore_index)
        return torch.where(unknown, -1, labels.long())

    def units(self, output: Any, batch: Asked) -> list[Units]:
        """Rounds of regions."""
        logits = self.read(output)
        labels = None if batch.labels is None else self.maps(batch.labels, logits)
        predictions = logits.detach().max(dim=1).indices  # of maps, a tenth of the time of argmax
        sizes = self._sizes(predictions, logits.shape[1])
        if labels is not None:
            sizes = torch.maximum(sizes, self._sizes(labels, logits.shape[1]))
        order = sizes.argsort(dim=1, descending=True, stable=True)
        count = min(self.regions_per_image, int((sizes > 0).sum(dim=1).max()) if len(logits) else 0)
        finite = logits.detach().flatten(1).sum(dim=1, dtype=torch.float32).isfinite()
        shares = in_float(logits.detach()).softmax(dim=1)
        known = (logits, shares, finite, labels, predictions, sizes)
        return [self._round(*known, order[:, rank]) for rank in range(max(count, 1))]

    def _sizes(self, maps: Tensor, count: int) -> Int[Tensor, "B C"]:
        flat = maps.flatten(1)  # one pass over the pixels for all classes; what is not known counts behind them
        cells = torch.where((flat >= 0) & (flat < count), flat, count)
        sizes = torch.zeros(len(maps), count + 1, dtype=torch.long, device=maps.device)
        sizes = sizes.scatter_add_(1, cells, torch.ones_like(cells))[:, :count]
        if self.background is not None:
            sizes[:, self.background] = 0
        return sizes

    def _round(
        self,
        logits: Tensor,
        shares: Tensor,
        finite: Tensor,
        labels: Tensor | None,
        predictions: Tensor,
        sizes: Tensor,
        about: Tensor,
    ) -> Units:
        spread = (-1, *[1] * (logits.ndim - 2))
        rows = torch.arange(len(logits), device=logits.device)
        of_class, answered = logits[rows, about], predictions == about.view(spread)
        true = torch.zeros_like(answered) if labels is None else labels == about.view(spread)
        known = torch.ones_like(answered) if labels is None else labels >= 0
        explained = torch.where(some(answered), answered, true)
        probability = shares[rows, about]
        nothing = torch.full_like(probability.flatten(1)[:, 0], torch.nan)
        overlap = (answered & true).flatten(1).sum(1) / ((answered | true) & known).flatten(1).sum(1)
        truth = nothing if labels is None else true.flatten(1).any(dim=1).to(nothing)
        return Units(
            scores=(of_class * explained).flatten(1).sum(dim=1),
            asked=sizes.gather(1, about.unsqueeze(1)).squeeze(1) > 0,
            about=about,
            labels=truth,
            predictions=torch.where(finite, answered.flatten(1).any(dim=1).to(nothing), torch.nan),
            right=(overlap >= 0.5) & finite & (labels is not None),
            confidence=mean_over(probability, explained),
            true_probability=nothing if labels is None else mean_over(probability, true),
            loss=nothing if labels is None else -mean_over(probability.clamp_min(1e-12).log(), true),
            masks=None if labels is None else torch.where(known, true.to(nothing), -1),
        )

    def evidence(self, output: Any, labels: Any) -> Float[Tensor, " B"]:
        """The mean log-likelihood of the pixels of objects, of all known pixels where no object is."""
        logits = self.read(output)
        maps = self.maps(labels, logits)
        objects = (maps >= 0) if self.background is None else (maps >= 0) & (maps != self.background)
        return mean_over(self._likelihood(logits, maps), torch.where(some(objects), objects, maps >= 0)).nan_to_num(0)

    def losses(self, output: Any, labels: Any) -> Float[Tensor, " B"]:
        """Cross-entropy, the mean over the pixels that are known."""
        logits = self.read(output)
        maps = self.maps(labels, logits)
        return -mean_over(self._likelihood(logits, maps), maps >= 0).nan_to_num(0)

    def objects(self, batch: Asked, count: int) -> Float[Tensor, "B C *S"] | None:
        """The true regions by class, none of the background; -1 where a pixel is not known."""
        labels = batch.labels
        if not isinstance(labels, Tensor):
            return batch.masks
        labels = labels.squeeze(1) if labels.ndim == batch.images.ndim else labels
        unknown = (labels < 0) | (labels == self.ignore_index)
        regions = torch.stack([labels == index for index in range(count)], dim=1).float()
        if self.background is not None and self.background < count:
            regions[:, self.background] = 0
        return torch.where(unknown.unsqueeze(1), -1.0, regions)

    def views(self, output: Any, labels: Any) -> list[View]:
        """For each class whether it is anywhere: by the 1 % of the pixels that are surest of it."""
        logits = self.read(output)
        shares = in_float(logits).softmax(dim=1).flatten(2)
        surest = shares.topk(max(1, shares.shape[2] // 100), dim=2).values.mean(dim=2).clamp(1e-6, 1 - 1e-6)
        maps = None if labels is None else self.maps(labels, logits)
        return [
            View(
                torch.stack([1 - surest[:, index], surest[:, index]], dim=1).log(),
                None if maps is None else (maps == index).flatten(1).any(dim=1).long(),
                index,
            )
            for index in range(logits.shape[1])
            if index != self.background
        ]

    def _likelihood(self, logits: Tensor, maps: Tensor) -> Tensor:
        chosen = maps.clamp(0, logits.shape[1] - 1).unsqueeze(1)
        return in_float(logits).log_softmax(dim=1).gather(1, chosen).squeeze(1)

    def __repr__(self) -> str:
        return f"Segmentation(background={self.background}, regions_per_image={self.regions_per_image})"


def some(regions: Bool[Tensor, "B *S"]) -> Bool[Tensor, "B ..."]:
    """Whether an image's region holds a pixel, with axes of one for the pixels."""
    return regions.flatten(1).any(dim=1).view(-1, *[1] * (regions.ndim - 1))


def mean_over(values: Float[Tensor, "B *S"], regions: Bool[Tensor, "B *S"]) -> Float[Tensor, " B"]:
    """The mean of each image's values over its region; NaN for an empty one.

    >>> mean_over(torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[True, False]]]))
    tensor([1.])
    """
    return torch.where(regions, values, 0).flatten(1).sum(dim=1) / regions.flatten(1).sum(dim=1)
