"""One explained batch: its heatmaps, and a row of numbers for each image."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from camtrain.cam import Capture, is_empty, pool_masks
from camtrain.cam.methods import Method
from camtrain.data.batches import Batch
from camtrain.explanation import heatmaps_of
from camtrain.metrics import inside_energy, maxima_inside, reason_cells
from camtrain.metrics.functional.evidence import answerable
from camtrain.tasks import Task, Units

COLUMNS = ("label", "predicted", "probability", "true_probability", "loss", "cell", "group", "annotated")


@dataclass(eq=False)
class Explained:
    """A batch with its heatmaps: everything on the batch's device, one row per image.

    `heatmaps` `(B, *S)`, `energies` and `hits` (of the pointing game, both `(B,)`, NaN without an answer) go by method;
    so do `ceilings`, the inside energy of a map that is the object itself on the heatmap's grid. `chance` is that of an
    even map, the object's share of the frame. `cells` `(B,)` are indices into `CELLS`, -1 for none. `inputs` `(B, ...)`
    is what the network was given: not always the images; None where that is more than one tensor.
    """

    batch: Batch
    inputs: Tensor | None
    samples: list[str]
    units: Units
    heatmaps: Mapping[str, Tensor]
    energies: Mapping[str, Tensor]
    hits: Mapping[str, Tensor]
    chance: Tensor
    ceilings: Mapping[str, Tensor]
    cells: Tensor

    @cached_property
    def numbers(self) -> Tensor:
        """What is known of each image `(B, len(columns))` float32: NaN for what is not, -1 for no class or group."""
        units = self.units
        confidence = units.confidence.float()
        group = torch.full_like(confidence, -1.0) if self.batch.groups is None else self.batch.groups.float()
        label = torch.where(units.are_known, units.labels, -1.0)
        judged = [label, units.predictions, confidence, units.true_probability, units.loss]
        measured = [*self.energies.values(), *self.hits.values(), *map(is_empty, self.heatmaps.values())]
        measured += [self.chance, *self.ceilings.values()]
        columns = (*judged, self.cells, group, self.annotated, *measured)
        return torch.stack([column.to(confidence) for column in columns], dim=1)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of `numbers`, as they are logged."""
        kinds = (("inside_energy", self.energies), ("pointing_game", self.hits), ("empty", self.heatmaps))
        by_name = (f"{kind}/{name}" for kind, by_method in kinds for name in by_method)
        return (*COLUMNS, *by_name, "chance", *(f"ceiling/{name}" for name in self.ceilings))

    @property
    def annotated(self) -> Tensor:
        """Which images have a mask, `(B,)`."""
        if self.batch.masks is None:
            return torch.zeros_like(self.cells, dtype=torch.bool)
        return (self.batch.masks >= 0).flatten(1).all(dim=1)


def explain_batch(
    batch: Batch,
    captured: Capture,
    *,
    task: Task,
    methods: Mapping[str, Method],
    samples: list[str],
    inputs: Tensor | None,
    grounded_above: float,
) -> Explained:
    """Heatmaps by every method, and what they say about the masks where there are any."""
    heatmaps = heatmaps_of(captured, methods)
    (units,) = task.units(captured.logits, batch)
    cells = torch.full(units.right.shape, -1, device=units.right.device)
    if batch.masks is None:
        unknown = torch.full(cells.shape, torch.nan, device=cells.device)
        nowhere = dict.fromkeys(heatmaps, unknown)
        return Explained(batch, inputs, samples, units, heatmaps, nowhere, nowhere, unknown, nowhere, cells)
    # Masks are large: they are read as seldom as can be.
    pooled = {size: pool_masks(batch.masks, size) for size in {heat.shape[1:] for heat in heatmaps.values()}}
    inside, energies, hits = batch.masks >= 0.5, {}, {}
    for name, heat in heatmaps.items():
        masks = pooled[heat.shape[1:]]
        energies[name] = inside_energy(heat, masks)
        hits[name] = torch.where(answerable(heat, masks), maxima_inside(heat, inside), torch.nan)
    if batch.labels is not None:
        first = next(iter(heatmaps.values()))
        answers = reason_cells(units.right, first, pooled[first.shape[1:]], grounded_above)
        cells = torch.where(units.are_known, answers, -1)
    ceilings = {name: ceiling(pooled[heat.shape[1:]]) for name, heat in heatmaps.items()}
    shares = next(iter(pooled.values())).flatten(1)
    chance = torch.where((shares >= 0).all(dim=1), shares.mean(dim=1), torch.nan)
    return Explained(batch, inputs, samples, units, heatmaps, energies, hits, chance, ceilings, cells)


def ceiling(masks: Float[Tensor, "B *S"]) -> Float[Tensor, " B"]:
    """The inside energy of a heatmap that is the pooled mask itself: what the grid leaves of a perfect map.

    NaN for an image without a mask (-1) or without an object.

    >>> ceiling(torch.tensor([[[0.5, 1.0], [0.0, 0.5]]]))
    tensor([0.7500])
    """
    flat = masks.flatten(1)
    total = flat.sum(dim=1)
    known = (flat >= 0).all(dim=1) & (total > 0)
    return torch.where(known, flat.square().sum(dim=1) / total.where(known, 1.0), torch.nan)
