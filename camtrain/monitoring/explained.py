"""One explained round of a batch: its heatmaps, and a row of numbers for each unit."""

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
UNIT = ("about", "right")


@dataclass(eq=False)
class Explained:
    """A round of units with their heatmaps: everything on the batch's device, one row per unit.

    `samples` are the names of the units, `images_of` those of their images, and `rows` `(N,)` where in the batch these
    are, None where the units are the batch's images. `form` is that of the task.
    `heatmaps` `(B, *S)`, `energies` and `hits` (of the pointing game, both `(B,)`, NaN without an answer) go by method;
    so do `ceilings`, the inside energy of a map that is the object itself on the heatmap's grid. `chance` is that of an
    even map, the object's share of the frame. `cells` `(B,)` are indices into `CELLS`, -1 for none. `inputs` `(B, ...)`
    is what the network was given: not always the images; None where that is more than one tensor.
    """

    batch: Batch
    inputs: Tensor | None
    samples: list[str]
    images_of: list[str]
    rows: Tensor | None
    form: str
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
        groups = self.batch.groups
        group = torch.full_like(confidence, -1.0) if groups is None else self.of_units(groups).float()
        label = torch.where(units.are_known, units.labels, torch.nan if self.form == "value" else -1.0)
        right = torch.where(units.are_known, units.right.float(), torch.nan)
        judged = [label, units.predictions, confidence, units.true_probability, units.loss]
        measured = [*self.energies.values(), *self.hits.values(), *map(is_empty, self.heatmaps.values())]
        measured += [self.chance, *self.ceilings.values()]
        columns = (*judged, self.cells, group, self.annotated, units.about, right, *measured)
        return torch.stack([column.to(confidence) for column in columns], dim=1)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of `numbers`, as they are logged."""
        kinds = (("inside_energy", self.energies), ("pointing_game", self.hits), ("empty", self.heatmaps))
        by_name = (f"{kind}/{name}" for kind, by_method in kinds for name in by_method)
        return (*COLUMNS, *UNIT, *by_name, "chance", *(f"ceiling/{name}" for name in self.ceilings))

    @property
    def annotated(self) -> Tensor:
        """Which units have a mask, with unknown pixels or without, `(N,)`."""
        if self.units.masks is None:
            return torch.zeros_like(self.cells, dtype=torch.bool)
        return (self.units.masks >= 0).flatten(1).any(dim=1)

    def of_units(self, values: Tensor) -> Tensor:
        """Of values for each image those of the units' images."""
        return values if self.rows is None else values[self.rows]

    def of_image(self, units: Tensor) -> Tensor:
        """Where in the batch the images of some units are."""
        return units if self.rows is None else self.rows[units]


def explain_batch(
    batch: Batch,
    captured: Capture,
    *,
    task: Task,
    units: Units,
    methods: Mapping[str, Method],
    samples: list[str],
    inputs: Tensor | None,
    grounded_above: float,
) -> Explained:
    """Heatmaps of a round of units by every method, and what they say about the masks where there are any."""
    heatmaps, images_of, rows = heatmaps_of(captured, methods), samples, None
    if not task.one_unit:
        rows = units.asked.nonzero().squeeze(1)
        units, heatmaps = units.chosen(rows), {name: maps[rows] for name, maps in heatmaps.items()}
        images_of = [samples[row] for row in rows.tolist()]
        kinds = [units.name] * len(images_of) if units.name else [str(about) for about in units.about.tolist()]
        samples = [f"{sample}#{kind}" for sample, kind in zip(images_of, kinds, strict=True)]
    whose = (batch, inputs, samples, images_of, rows, task.form, units, heatmaps)
    cells = torch.full(units.right.shape, -1, device=units.right.device)
    masks_of = units.masks
    if masks_of is None:
        unknown = torch.full(cells.shape, torch.nan, device=cells.device)
        nowhere = dict.fromkeys(heatmaps, unknown)
        return Explained(*whose, nowhere, nowhere, unknown, nowhere, cells)
    # Masks are large: they are read as seldom as can be.
    pooled = {size: pool_masks(masks_of, size) for size in {heat.shape[1:] for heat in heatmaps.values()}}
    inside, energies, hits = masks_of >= 0.5, {}, {}
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
    known = shares >= 0
    chance = (shares * known).sum(dim=1) / known.sum(dim=1)  # NaN where nothing is
    return Explained(*whose, energies, hits, chance, ceilings, cells)


def ceiling(masks: Float[Tensor, "B *S"]) -> Float[Tensor, " B"]:
    """The inside energy of a heatmap that is the pooled mask itself: what the grid leaves of a perfect map.

    NaN for an image without a mask (-1) or without an object.

    >>> ceiling(torch.tensor([[[0.5, 1.0], [0.0, 0.5]]]))
    tensor([0.7500])
    """
    flat = masks.flatten(1)
    flat = flat.clamp_min(0)  # cells of which nothing is known count neither inside nor outside
    total = flat.sum(dim=1)
    known = total > 0
    return torch.where(known, flat.square().sum(dim=1) / total.where(known, 1.0), torch.nan)
