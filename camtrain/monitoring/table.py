"""Every image of a pass as a row of numbers: histograms, classes, confusions, and what changed since the last pass."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from camtrain.cam import Capture, is_empty, pool_masks
from camtrain.cam.methods import Method
from camtrain.data.batches import Batch
from camtrain.explanation import heatmaps_of
from camtrain.metrics import inside_energy, maxima_inside, reason_cells, reliability, share_interval
from camtrain.metrics.functional.evidence import answerable
from camtrain.records import CELLS, Calibration, ClassRow, ConfidenceBin
from camtrain.tasks import Task, Units

BINS = 20
MOST_PAIRS = 4000
MOST_REMEMBERED = 200_000
GROUNDED = tuple(index for index, cell in enumerate(CELLS) if cell.endswith("/grounded"))

Numbers = NDArray[np.float32]
COLUMNS = ("label", "predicted", "probability", "true_probability", "loss", "cell", "group", "annotated")
UNIT = ("about", "right")


@dataclass(frozen=True, eq=False)
class Table:
    """Images by sample and number: `numbers` `(N, len(columns))`, a row for each image."""

    samples: list[str]
    columns: tuple[str, ...]
    numbers: Numbers

    def __getitem__(self, column: str) -> Numbers:
        """A column `(N,)`; any column of no rows is empty."""
        return self.numbers[:, self.columns.index(column)] if len(self.samples) else np.zeros(0, np.float32)

    def starting(self, prefix: str) -> dict[str, Numbers]:
        """The columns whose names start so, by the rest of the name."""
        return {name.removeprefix(prefix): self[name] for name in self.columns if name.startswith(prefix)}


def joined(tables: Sequence[Table]) -> Table:
    """The rows of several processes; a sample that an earlier one saw (a sampler's padding) does not count again."""
    tables = [table for table in tables if table.columns]
    if not tables:
        return Table([], (), np.zeros((0, 0), np.float32))
    samples, numbers, seen = list[str](), [], set[str]()
    for table in tables:
        fresh = [row for row, sample in enumerate(table.samples) if sample not in seen]
        samples += [table.samples[row] for row in fresh]
        numbers.append(table.numbers[fresh])
        seen.update(table.samples)
    return Table(samples, tables[0].columns, np.concatenate(numbers))


def scalars(table: Table, names: Sequence[str]) -> dict[str, float]:
    """Means over the images that have an answer, and the shares of the four cells, by logged name.

    Of heatmaps of these names; NaN where no image has an answer. Without masks only what needs none.

    >>> scalars(Table(["a"], ("empty/grad_cam", "cell"), np.array([[1.0, -1.0]], np.float32)), ["grad_cam"])
    {'cam/empty_maps/grad_cam': 1.0}
    """
    counts = cell_counts(table)
    if not counts and _has_objects(table):  # all of their heatmaps are empty: not the last pass's shares once more
        counts = dict.fromkeys(CELLS, 0)
    answered = bool(counts) or any(np.isfinite(values).any() for values in table.starting("inside_energy/").values())
    measures = {"inside_energy": "inside_energy", "pointing_game": "pointing_game"} if answered else {}
    values = {
        f"cam/{logged}/{name}": _mean(table, f"{column}/{name}")
        for name in names
        for logged, column in {**measures, "empty_maps": "empty"}.items()
    }
    if counts:
        values["cam/inside_energy_chance"] = _mean(table, "chance")
        values |= {f"cam/inside_energy_ceiling/{name}": _mean(table, f"ceiling/{name}") for name in names}
    total = np.float32(sum(counts.values()) or np.nan)
    return values | {f"cam/{cell.replace('/', '_')}": float(np.float32(n) / total) for cell, n in counts.items()}


def _has_objects(table: Table) -> bool:
    """Whether an image has a known answer and a mask of an object with something around it."""
    return any(
        bool((np.isfinite(table["right"]) & (shares > 0) & (shares < 1)).any())
        for shares in table.starting("chance").values()
    )


def unanswered(table: Table) -> int:
    """Of how many images the answer is not finite.

    >>> unanswered(Table(["a", "b"], ("predicted",), np.array([[1.0], [np.nan]], np.float32)))
    1
    """
    return int(np.isnan(table["predicted"]).sum())


def cell_counts(table: Table) -> dict[str, int]:
    """How many images are in each cell; empty where none is in any."""
    cells = table["cell"].astype(int)
    return {cell: int((cells == index).sum()) for index, cell in enumerate(CELLS)} if (cells >= 0).any() else {}


def _mean(table: Table, column: str) -> float:
    values = table[column][~np.isnan(table[column])]
    return float(np.float32(values.sum(dtype=np.float64) / len(values))) if len(values) else float("nan")


def histograms(table: Table) -> dict[str, list[int]]:
    """Counts of inside energy in `BINS` bins of [0, 1], by logged name; none where no image has an answer.

    >>> table = Table(["a", "b"], ("inside_energy/grad_cam",), np.array([[0.0], [np.nan]], np.float32))
    >>> sum(histograms(table)["cam/inside_energy_histogram/grad_cam"])
    1
    """
    finite = {name: values[np.isfinite(values)] for name, values in table.starting("inside_energy/").items()}
    return {
        f"cam/inside_energy_histogram/{name}": np.histogram(values, BINS, (0.0, 1.0))[0].tolist()
        for name, values in finite.items()
        if len(values)
    }


def class_rows(table: Table, names: Sequence[str], form: str = "choice") -> tuple[ClassRow, ...]:
    """The table by what units are about (the true class), inside energy by the first method; empty without labels.

    Where units are something that is there or not, a row counts also those that were missed and those invented.
    """
    if not len(table.samples):
        return ()
    about = np.where(np.isnan(table["right"]), -1, table["about"]).astype(int)
    return tuple(
        _class_row(table, about == index, _name(names, index), presence=form == "presence")
        for index in np.unique(about[about >= 0]).tolist()
    )


def _class_row(table: Table, chosen: NDArray[np.bool_], name: str, *, presence: bool) -> ClassRow:
    energies = next(iter(table.starting("inside_energy/").values()))[chosen]
    finite, cells = energies[np.isfinite(energies)], table["cell"][chosen].astype(int)
    there, answered = table["label"][chosen] > 0, table["predicted"][chosen] > 0
    shares = table["chance"][chosen][np.isfinite(table["chance"][chosen])]
    return ClassRow(
        class_name=name,
        images=int(chosen.sum()),
        right=int(table["right"][chosen].sum()),
        inside_energy=float(finite.mean()) if len(finite) else float("nan"),
        cells={cell: int((cells == index).sum()) for index, cell in enumerate(CELLS)} if (cells >= 0).any() else {},
        chance=float(shares.mean()) if len(shares) else float("nan"),
        missed=int((there & ~answered).sum()) if presence else None,
        invented=int((answered & ~there).sum()) if presence else None,
    )


def confusion(table: Table, names: Sequence[str]) -> tuple[tuple[str, str, int], ...]:
    """How often each class was taken for each, the most frequent `MOST_PAIRS` pairs; empty without labels."""
    known = np.isfinite(table["right"])
    labels, predicted = (table[column][known].astype(int).tolist() for column in ("label", "predicted"))
    counts = Counter((true, answer) for true, answer in zip(labels, predicted, strict=True) if true >= 0)
    return tuple((_name(names, t), _name(names, p), count) for (t, p), count in counts.most_common(MOST_PAIRS))


def calibration(table: Table, epoch: int, step: int) -> Calibration | None:
    """What the answers' confidence is worth; None where no image has both a label and a confidence."""
    answered = np.isfinite(table["right"]) & np.isfinite(table["probability"])
    if not answered.any():
        return None
    confidence = torch.from_numpy(table["probability"][answered])
    right = torch.from_numpy(table["right"][answered] > 0)
    bins = reliability(confidence, right)
    share = share_interval(float(right.sum()), len(right))
    edges = np.linspace(0, 1, len(bins.counts) + 1).round(4).tolist()
    columns = (bins.counts.int().tolist(), bins.confidence.tolist(), bins.accuracy.tolist())
    rows = tuple(ConfidenceBin(*row) for row in zip(edges[:-1], edges[1:], *columns, strict=True))
    mean = float(confidence.mean())
    return Calibration(len(right), share.mean, share.low, share.high, mean, bins.error, rows, epoch, step)


def remembered(table: Table) -> dict[str, tuple[float, bool]]:
    """Loss of each sample and whether its answer was grounded, for the next pass; of so many images at most."""
    grounded = np.isin(table["cell"].astype(int), GROUNDED)
    rows = zip(table.samples, table["loss"].tolist(), grounded.tolist(), strict=True)
    return {sample: (loss, on_object) for sample, loss, on_object in list(rows)[:MOST_REMEMBERED]}


def lookup(
    earlier: Mapping[str, tuple[float, bool]], samples: Sequence[str], device: torch.device
) -> tuple[Tensor, Tensor]:
    """The last pass's losses (NaN where unknown) and whether it was grounded, `(B,)` each, on a device."""
    rows = [earlier.get(sample, (float("nan"), False)) for sample in samples]
    values = torch.tensor(rows, dtype=torch.float32).to(device, non_blocking=True).reshape(-1, 2)
    return values[:, 0], values[:, 1] > 0


def _name(names: Sequence[str], index: int) -> str:
    return names[index] if 0 <= index < len(names) else f"class {index}"


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
