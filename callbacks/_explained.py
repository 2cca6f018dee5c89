"""One explained batch, and the small readers that the monitor hands it to: a tally, the probes, the failures."""

import heapq
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from camtrain.cam import Capture, is_empty, pool_masks
from camtrain.cam.methods import Method
from camtrain.data.batches import Batch
from camtrain.explanation import heatmaps_of
from camtrain.metrics import NanMean, ReasonCells, inside_energy, maxima_inside, reason_cells
from camtrain.metrics.grounding import answerable
from camtrain.render import overlay, to_uint8
from camtrain.sinks.records import CELLS, Panel


@dataclass(frozen=True, eq=False)
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


class GroundingTally:
    """The scalars of one pass, by logged name, reduced over processes."""

    def __init__(self, methods: Sequence[str]) -> None:
        measures = ("inside_energy", "pointing_game", "empty_maps")
        self._means = {f"{measure}/{method}": NanMean() for method in methods for measure in measures}
        self._cells = ReasonCells()
        self._masked = NanMean()

    def reset(self, device: torch.device) -> None:
        """Start a new pass on a device."""
        for metric in (*self._means.values(), self._cells, self._masked):
            metric.reset()
            metric.to(device)

    def update(self, explained: ExplainedBatch) -> None:
        """Add a batch."""
        for name, heatmaps in explained.heatmaps.items():
            self._means[f"inside_energy/{name}"].update(explained.energies[name])
            self._means[f"pointing_game/{name}"].update(explained.hits[name])
            self._means[f"empty_maps/{name}"].update(is_empty(heatmaps).float())
        self._cells.update(explained.cells)
        self._masked.update((explained.cells >= 0).float())

    def compute(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        """Scalars by logged name, and the counts of the four cells; without masks, what needs none."""
        with warnings.catch_warnings():  # a process whose batches all failed has no update to reduce
            warnings.filterwarnings("ignore", message=".*was called before the ``update`` method.*")
            return self._computed()

    def _computed(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        masked = float(self._masked.compute().nan_to_num(0.0)) > 0
        scalars = {f"cam/{name}": metric.compute() for name, metric in self._means.items()}
        if not masked:
            return {name: value for name, value in scalars.items() if "/empty_maps/" in name}, {}
        counts = self._cells.compute()
        shares = counts / counts.sum()
        for cell, share in zip(CELLS, shares, strict=True):
            scalars[f"cam/{cell.replace('/', '_')}"] = share
        return scalars, {cell: int(count) for cell, count in zip(CELLS, counts, strict=True)}


@dataclass(frozen=True, eq=False)
class Kept:
    """One image kept for a picture, on the CPU."""

    sample: str
    image: Tensor
    heatmaps: Mapping[str, Tensor]
    mask: Tensor | None
    label: int | None
    predicted: int
    probability: float
    true_probability: float | None
    energies: Mapping[str, float]
    cell: str | None
    group: int | None


def keep(explained: ExplainedBatch, row: int) -> Kept:
    """One row of a batch, copied to the CPU."""
    batch = explained.batch
    label = None if batch.labels is None else int(batch.labels[row])
    predicted, cell = int(explained.predictions[row]), int(explained.cells[row])
    probabilities = explained.probabilities[row]
    mask = None if batch.masks is None or bool((batch.masks[row] < 0).any()) else batch.masks[row].float().cpu()
    return Kept(
        sample=explained.samples[row],
        image=batch.images[row].detach().float().cpu(),
        heatmaps={name: maps[row].detach().float().cpu() for name, maps in explained.heatmaps.items()},
        mask=mask,
        label=label,
        predicted=predicted,
        probability=float(probabilities[predicted]),
        true_probability=None if label is None else float(probabilities[label]),
        energies={name: float(values[row]) for name, values in explained.energies.items()} if mask is not None else {},
        cell=CELLS[cell] if cell >= 0 else None,
        group=None if batch.groups is None else int(batch.groups[row]),
    )


class Probes:
    """A fixed set of images, spread evenly over the first pass and found again by their identity in later ones."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.samples: list[str] = []
        self._kept: dict[str, Kept] = {}
        self._chosen_before = False
        self._positions: set[int] = set()

    def reset(self, expected: int | None) -> None:
        """Start a pass over about `expected` images; None where the length is not known."""
        self._kept = {}
        self._chosen_before = bool(self.samples)
        last = max(expected or self.count, self.count) - 1
        self._positions = set(torch.linspace(0, last, self.count).round().long().tolist())

    def update(self, explained: ExplainedBatch, first_position: int) -> None:
        """Keep the probes that a batch holds."""
        for row, sample in enumerate(explained.samples):
            if not self._chosen_before and first_position + row in self._positions and sample not in self.samples:
                self.samples.append(sample)
            if sample in self.samples and sample not in self._kept:
                self._kept[sample] = keep(explained, row)

    def kept(self) -> list[Kept]:
        """The probes of this pass, always in the same order."""
        return [self._kept[sample] for sample in self.samples if sample in self._kept]


@dataclass
class Failures:
    """The images with the highest score of a pass; a score of NaN or below zero keeps an image out."""

    count: int
    score: Callable[[ExplainedBatch], Tensor]
    _heap: list[tuple[float, str, Kept]] = field(default_factory=list)

    def reset(self) -> None:
        """Start a new pass."""
        self._heap = []

    def update(self, explained: ExplainedBatch) -> None:
        """Keep those of a batch that rank among the highest so far."""
        if not self.count or not len(explained.samples):
            return
        scores = self.score(explained).nan_to_num(-1.0)
        values, rows = scores.topk(min(self.count, len(scores)))
        for value, row in zip(values.tolist(), rows.tolist(), strict=True):
            full = len(self._heap) == self.count
            if value < 0 or (full and value <= self._heap[0][0]):
                return
            push = heapq.heapreplace if full else heapq.heappush
            push(self._heap, (value, explained.samples[row], keep(explained, row)))

    def ranked(self) -> list[tuple[float, str, Kept]]:
        """Score, sample and image, highest first."""
        return sorted(self._heap, key=lambda item: (-item[0], item[1]))


def confidently_wrong(explained: ExplainedBatch) -> Tensor:
    """The probability of a wrong prediction; -1 for a right one and where labels are missing. `(B,)`."""
    confidence = explained.probabilities.amax(dim=1)
    if explained.batch.labels is None:
        return torch.full_like(confidence, -1.0)
    return torch.where(explained.correct, -1.0, confidence)


def right_for_the_wrong_reason(explained: ExplainedBatch) -> Tensor:
    """Probability times evidence outside the object, for right predictions off the object; -1 elsewhere. `(B,)`."""
    outside = 1 - next(iter(explained.energies.values()))
    score = explained.probabilities.amax(dim=1) * outside
    return torch.where(explained.cells == CELLS.index("right/ungrounded"), score, -1.0)


def merged(ranked: Iterable[tuple[float, str, Kept]], count: int) -> list[Kept]:
    """The highest of several processes' rankings, each sample once."""
    best: dict[str, tuple[float, Kept]] = {}
    for score, sample, kept in ranked:
        if sample not in best or score > best[sample][0]:
            best[sample] = (score, kept)
    order = sorted(best.items(), key=lambda item: (-item[1][0], item[0]))
    return [kept for _, (_, kept) in order[:count]]


def panels(
    kept: Sequence[Kept], names: Sequence[str], group_names: Sequence[str], denormalize: Callable[[Tensor], Any] | None
) -> tuple[Panel, ...]:
    """Pictures of kept images, drawn in one batch per image size."""
    return tuple(_panel(item, names, group_names, denormalize) for item in kept)


def _panel(
    kept: Kept, names: Sequence[str], group_names: Sequence[str], denormalize: Callable[[Tensor], Any] | None
) -> Panel:
    image = kept.image.unsqueeze(0)
    pixels = to_uint8(image if denormalize is None else denormalize(image))
    return Panel(
        sample=kept.sample,
        image=pixels[0],
        overlays={name: overlay(pixels, heat.unsqueeze(0))[0] for name, heat in kept.heatmaps.items()},
        label=kept.label,
        predicted=kept.predicted,
        label_name=None if kept.label is None else _name(names, kept.label),
        predicted_name=_name(names, kept.predicted),
        probability=kept.probability,
        true_probability=kept.true_probability,
        inside_energy=dict(kept.energies),
        cell=kept.cell,
        mask=kept.mask,
        group_name=None if kept.group is None or kept.group < 0 else _name(group_names, kept.group, "group"),
    )


def _name(names: Sequence[str], index: int, kind: str = "class") -> str:
    return names[index] if 0 <= index < len(names) else f"{kind} {index}"
