"""Images kept for pictures: the fixed probes, and the candidates for failure cases."""

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from camtrain.callbacks._explained import ExplainedBatch
from camtrain.callbacks._ledger import GROUNDED, lookup
from camtrain.records import CELLS, RIGHT_UNGROUNDED

CANDIDATES = 4  # for each failure case that is shown
USUAL = 0.5  # a rise of the loss up to this surprises nobody

Score = Callable[[ExplainedBatch], Tensor]


@dataclass(frozen=True, eq=False)
class Kept:
    """One image of a pass, on the device that explained it; `numbers` is its row of `ExplainedBatch.numbers`."""

    sample: str
    image: Tensor
    heatmaps: Mapping[str, Tensor]
    mask: Tensor | None
    numbers: Tensor
    columns: tuple[str, ...]
    score: float = 0.0
    true_heatmap: Tensor | None = None


def keep(explained: ExplainedBatch, rows: Sequence[int], scores: Sequence[float] | None = None) -> list[Kept]:
    """Some rows of a batch, copied on their device, so that the batch itself can go."""
    index = torch.tensor(list(rows), device=explained.probabilities.device)
    batch = explained.batch
    images, numbers = batch.images.detach()[index], explained.numbers[index]
    masks = None if batch.masks is None else batch.masks[index]
    heatmaps = {name: maps.detach()[index].float() for name, maps in explained.heatmaps.items()}
    return [
        Kept(
            sample=explained.samples[row],
            image=images[at],
            heatmaps={name: maps[at] for name, maps in heatmaps.items()},
            mask=None if masks is None else masks[at],
            numbers=numbers[at],
            columns=explained.columns,
            score=0.0 if scores is None else scores[at],
        )
        for at, row in enumerate(rows)
    ]


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
        rows = [row for row, sample in enumerate(explained.samples) if self._wants(sample, first_position + row)]
        for kept in keep(explained, rows) if rows else ():
            self._kept.setdefault(kept.sample, kept)

    def kept(self) -> list[Kept]:
        """The probes of this pass, always in the same order."""
        return [self._kept[sample] for sample in self.samples if sample in self._kept]

    def _wants(self, sample: str, position: int) -> bool:
        if not self._chosen_before and position in self._positions and sample not in self.samples:
            self.samples.append(sample)
        return sample in self.samples and sample not in self._kept


@dataclass
class Candidates:
    """The images with the highest score of a pass, several times as many as are shown.

    A score of NaN or below zero keeps an image out.
    """

    reason: str
    count: int
    score: Score
    _heap: list[tuple[float, str, int, Kept]] = field(default_factory=list)

    def reset(self) -> None:
        """Start a new pass."""
        self._heap = []

    def ranked(self) -> list[Kept]:
        """Highest score first."""
        return [kept for *_, kept in sorted(self._heap, key=lambda item: (-item[0], item[1]))]

    def offer(self, explained: ExplainedBatch, values: Sequence[float], rows: Sequence[int]) -> None:
        """Take those of some rows, highest value first, that rank among the highest so far."""
        most = self.count * CANDIDATES
        least = self._heap[0][0] if len(self._heap) == most else -1.0
        good = [at for at, value in enumerate(values) if value >= 0 and value > least]
        for kept in keep(explained, [rows[at] for at in good], [values[at] for at in good]) if good else ():
            push = heapq.heapreplace if len(self._heap) == most else heapq.heappush
            if len(self._heap) < most or kept.score > self._heap[0][0]:
                push(self._heap, (kept.score, kept.sample, id(kept), kept))


def offer_to_all(candidates: Sequence[Candidates], explained: ExplainedBatch) -> None:
    """Offer a batch to every kind of failure, with one transfer to the host."""
    wanting = [one for one in candidates if one.count]
    if not wanting or not explained.samples:
        return
    scores = torch.stack([one.score(explained).nan_to_num(-1.0) for one in wanting])
    values, rows = scores.topk(min(CANDIDATES * max(one.count for one in wanting), scores.shape[1]), dim=1)
    found = torch.stack([values, rows.to(values)]).tolist()
    for one, best, where in zip(wanting, *found, strict=True):
        one.offer(explained, best, [int(row) for row in where])


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
    return torch.where(explained.cells == CELLS.index(RIGHT_UNGROUNDED), score, -1.0)


@dataclass
class Surprise:
    """How much worse than in the last pass: the rise of the loss, and 1 more where evidence left the object. `(B,)`.

    -1 where nothing got worse, or the last pass did not see the image.
    """

    earlier: Mapping[str, tuple[float, bool]] = field(default_factory=dict)

    def __call__(self, explained: ExplainedBatch) -> Tensor:
        device = explained.probabilities.device
        if not self.earlier:
            return torch.full_like(explained.probabilities[:, 0], -1.0)
        losses, grounded = lookup(self.earlier, explained.samples, device)
        rise = explained.numbers[:, explained.columns.index("loss")] - losses
        now = torch.isin(explained.cells, torch.tensor(GROUNDED, device=device))
        left = (grounded & ~now & (explained.cells >= 0)).float()
        score = rise.clamp_min(0).nan_to_num(0) + left
        return torch.where(score > USUAL, score, -1.0)
