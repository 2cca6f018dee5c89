"""One explained batch: its heatmaps, and a row of numbers for each image."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from camtrain.cam import Capture, is_empty, pool_masks
from camtrain.cam.methods import Method
from camtrain.data.batches import Batch
from camtrain.explanation import heatmaps_of
from camtrain.metrics import inside_energy, maxima_inside, reason_cells
from camtrain.metrics.functional.evidence import answerable

COLUMNS = ("label", "predicted", "probability", "true_probability", "loss", "cell", "group", "annotated")


@dataclass(eq=False)
class ExplainedBatch:
    """A batch with its heatmaps: everything on the batch's device, one row per image."""

    batch: Batch
    samples: list[str]
    probabilities: Tensor  # (B, C)
    predictions: Tensor  # (B,)
    heatmaps: Mapping[str, Tensor]  # (B, *S)
    energies: Mapping[str, Tensor]  # (B,), NaN without an answer
    hits: Mapping[str, Tensor]  # (B,), the pointing game, NaN without an answer
    cells: Tensor  # (B,) index into CELLS, -1 for none

    @property
    def correct(self) -> Tensor:
        """Which predictions are the label, `(B,)`; none without labels."""
        if self.batch.labels is None:
            return torch.zeros_like(self.predictions, dtype=torch.bool)
        return self.predictions == self.batch.labels

    @cached_property
    def numbers(self) -> Tensor:
        """What is known of each image `(B, len(columns))` float32: NaN for what is not, -1 for no class or group."""
        none = torch.full_like(self.probabilities[:, 0], -1.0)
        label = none if self.batch.labels is None else self.batch.labels.float()
        true = none * torch.nan if self.batch.labels is None else _picked(self.probabilities, self.batch.labels)
        group = none if self.batch.groups is None else self.batch.groups.float()
        fixed = [label, self.predictions.float(), self.probabilities.amax(1), true, -true.clamp_min(1e-12).log()]
        fixed += [self.cells.float(), group, self.annotated.float()]
        measured = [*self.energies.values(), *self.hits.values(), *map(is_empty, self.heatmaps.values())]
        return torch.stack([column.to(none) for column in (*fixed, *measured)], dim=1)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of `numbers`, as they are logged."""
        kinds = (("inside_energy", self.energies), ("pointing_game", self.hits), ("empty", self.heatmaps))
        return (*COLUMNS, *(f"{kind}/{name}" for kind, by_method in kinds for name in by_method))

    @property
    def annotated(self) -> Tensor:
        """Which images have a mask, `(B,)`."""
        if self.batch.masks is None:
            return torch.zeros_like(self.predictions, dtype=torch.bool)
        return (self.batch.masks >= 0).flatten(1).all(dim=1)


def _picked(probabilities: Tensor, labels: Tensor) -> Tensor:
    """The probability of each image's label; NaN for a label that is no class."""
    known = (labels >= 0) & (labels < probabilities.shape[1])
    return probabilities.gather(1, torch.where(known, labels, 0).unsqueeze(1))[:, 0].where(known, torch.nan)


def explained_batch(
    batch: Batch, captured: Capture, methods: Mapping[str, Method], samples: list[str], grounded_above: float
) -> ExplainedBatch:
    """Heatmaps by every method, and what they say about the masks where there are any."""
    heatmaps = heatmaps_of(captured, methods)
    logits = captured.logits.float()
    predictions = logits.argmax(dim=1)
    energies, hits, cells = _grounded(heatmaps, batch, predictions, grounded_above)
    return ExplainedBatch(batch, samples, logits.softmax(dim=1), predictions, heatmaps, energies, hits, cells)


def _grounded(
    heatmaps: Mapping[str, Tensor], batch: Batch, predictions: Tensor, grounded_above: float
) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Inside energy and pointing game by method, and the cells. Masks are large: they are read as seldom as can be."""
    cells = torch.full_like(predictions, -1)
    if batch.masks is None:
        unknown = torch.full(predictions.shape, torch.nan, device=predictions.device)
        return dict.fromkeys(heatmaps, unknown), dict.fromkeys(heatmaps, unknown), cells
    pooled = {size: pool_masks(batch.masks, size) for size in {heat.shape[1:] for heat in heatmaps.values()}}
    inside, energies, hits = batch.masks >= 0.5, {}, {}
    for name, heat in heatmaps.items():
        masks = pooled[heat.shape[1:]]
        energies[name] = inside_energy(heat, masks)
        hits[name] = torch.where(answerable(heat, masks), maxima_inside(heat, inside), torch.nan)
    if batch.labels is not None:
        first = next(iter(heatmaps.values()))
        cells = reason_cells(predictions == batch.labels, first, pooled[first.shape[1:]], grounded_above)
    return energies, hits, cells
