"""Which images of a pass are kept for pictures: the fixed probes, and the worst failure cases, but not twelve alike."""

import heapq
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence, Set
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from camtrain.monitoring.table import GROUNDED, Explained, lookup
from camtrain.records import CELLS, RIGHT_UNGROUNDED

CANDIDATES = 4  # for each failure case that is shown
USUAL = 0.5  # a rise of the loss up to this surprises nobody
SAME_PAIR = 0.5  # what each further case of the same classes is worth
SAME_MAP = 0.5  # how much a heatmap that lies just where a chosen one lies takes from a case
FAMILIAR = 1.15  # a case that was shown last time stays, unless another one is clearly worse

Score = Callable[[Explained], Tensor]


@dataclass(frozen=True, eq=False)
class Kept:
    """One unit of a pass, on the device that explained it; `numbers` is its row of `Explained.numbers`.

    `of` is the name of its image, which is the unit's where it is the only one; `form` that of the task. `given` is
    what the network was given of it, None where that is not one tensor.
    """

    sample: str
    image: Tensor
    given: Tensor | None
    heatmaps: Mapping[str, Tensor]
    mask: Tensor | None
    numbers: Tensor
    columns: tuple[str, ...]
    score: float = 0.0
    true_heatmap: Tensor | None = None
    of: str = ""
    form: str = "choice"


def keep(explained: Explained, rows: Sequence[int], scores: Sequence[float] | None = None) -> list[Kept]:
    """Some rows of a batch, copied on their device, so that the batch itself can go."""
    index = torch.tensor(list(rows), device=explained.cells.device)
    batch, where = explained.batch, explained.of_image(index)
    images, numbers = batch.images.detach()[where], explained.numbers[index]
    masks = None if explained.units.masks is None else explained.units.masks[index]
    given = images if explained.inputs is batch.images else explained.inputs
    if given is not None and given is not images:
        given = given.detach()[where]
    heatmaps = {name: maps.detach()[index].float() for name, maps in explained.heatmaps.items()}
    return [
        Kept(
            sample=explained.samples[row],
            image=images[at],
            given=None if given is None else given[at],
            heatmaps={name: maps[at] for name, maps in heatmaps.items()},
            mask=None if masks is None else masks[at],
            numbers=numbers[at],
            columns=explained.columns,
            score=0.0 if scores is None else scores[at],
            of=explained.images_of[row],
            form=explained.form,
        )
        for at, row in enumerate(rows)
    ]


class Probes:
    """A fixed set of images, spread evenly over the first pass and found again by their identity in later ones.

    Of an image all units are kept.

    Args:
        samples: those of earlier passes; the first pass appends to it.
        count: how many to choose; with 0 none is followed.
        expected: how many images the pass will bring, about; None where that is not known.
    """

    def __init__(self, samples: list[str], count: int, expected: int | None) -> None:
        self.samples = samples if count else []
        self._kept: dict[str, Kept] = {}
        last = max(expected or count, count) - 1
        self._positions = set() if samples else set(torch.linspace(0, last, count).round().long().tolist())

    def choose(self, names: Sequence[str], first_position: int) -> None:
        """Follow those of a batch's images whose turn it is; nothing after the first pass."""
        turns = [name for row, name in enumerate(names) if first_position + row in self._positions]
        self.samples += [name for name in dict.fromkeys(turns) if name not in self.samples]

    def update(self, explained: Explained) -> None:
        """Keep the units of probes in a round of a batch."""
        units = enumerate(zip(explained.samples, explained.images_of, strict=True))
        rows = [row for row, (unit, image) in units if image in self.samples and unit not in self._kept]
        for kept in keep(explained, rows) if rows else ():
            self._kept.setdefault(kept.sample, kept)

    def kept(self) -> list[Kept]:
        """The probes of this pass, always in the same order."""
        ranks = {sample: rank for rank, sample in enumerate(self.samples)}
        return sorted(self._kept.values(), key=lambda kept: (ranks[kept.of], kept.sample))


@dataclass
class Candidates:
    """The images with the highest score of a pass, several times as many as are shown.

    A score of NaN or below zero keeps an image out.
    """

    reason: str
    count: int
    score: Score
    _heap: list[tuple[float, str, int, Kept]] = field(default_factory=list)

    def ranked(self) -> list[Kept]:
        """Highest score first."""
        return [kept for *_, kept in sorted(self._heap, key=lambda item: (-item[0], item[1]))]

    def offer(self, explained: Explained, values: Sequence[float], rows: Sequence[int]) -> None:
        """Take those of some rows, highest value first, that rank among the highest so far."""
        most = self.count * CANDIDATES
        least = self._heap[0][0] if len(self._heap) == most else -1.0
        good = [at for at, value in enumerate(values) if value >= 0 and value > least]
        for kept in keep(explained, [rows[at] for at in good], [values[at] for at in good]) if good else ():
            push = heapq.heapreplace if len(self._heap) == most else heapq.heappush
            if len(self._heap) < most or kept.score > self._heap[0][0]:
                push(self._heap, (kept.score, kept.sample, id(kept), kept))


def offer_to_all(candidates: Sequence[Candidates], explained: Explained) -> None:
    """Offer a batch to every kind of failure, with one transfer to the host."""
    wanting = [kind for kind in candidates if kind.count]
    if not wanting or not explained.samples:
        return
    scores = torch.stack([kind.score(explained).nan_to_num(-1.0) for kind in wanting])
    values, rows = scores.topk(min(CANDIDATES * max(kind.count for kind in wanting), scores.shape[1]), dim=1)
    best = torch.stack([values, rows.to(values)]).tolist()
    for kind, highest, where in zip(wanting, *best, strict=True):
        kind.offer(explained, highest, [int(row) for row in where])


# What counts as a failure: one score `(B,)` for each kind, -1 for no failure.


def confidently_wrong(explained: Explained) -> Tensor:
    """The probability of a wrong prediction; -1 for a right one and where the label is not known. `(B,)`."""
    units = explained.units
    return torch.where(units.are_known & ~units.right, units.confidence, -1.0)


def right_for_the_wrong_reason(explained: Explained) -> Tensor:
    """Probability times evidence outside the object, for right predictions off the object; -1 elsewhere. `(B,)`."""
    outside = 1 - next(iter(explained.energies.values()))
    score = explained.units.confidence.nan_to_num(1.0) * outside
    return torch.where(explained.cells == CELLS.index(RIGHT_UNGROUNDED), score, -1.0)


def missed(explained: Explained) -> Tensor:
    """How sure the network is that what is there is not; -1 elsewhere. `(N,)`."""
    units = explained.units
    return torch.where((units.labels == 1) & (units.predictions == 0), 1 - units.true_probability, -1.0)


def invented(explained: Explained) -> Tensor:
    """How sure the network is of what is not there; -1 elsewhere. `(N,)`."""
    units = explained.units
    return torch.where((units.labels == 0) & (units.predictions == 1), units.confidence, -1.0)


def badly_outlined(explained: Explained) -> Tensor:
    """How sure the network is of what is there, but not where it says; -1 elsewhere. `(N,)`."""
    units = explained.units
    both = (units.labels == 1) & (units.predictions == 1)
    return torch.where(both & ~units.right, units.confidence, -1.0)


def far_off(explained: Explained) -> Tensor:
    """The error of a wrong value in spreads of the labels; -1 for a right one. `(N,)`."""
    units = explained.units
    return torch.where(units.are_known & ~units.right, units.loss.sqrt(), -1.0)


@dataclass
class Surprise:
    """How much worse than in the last pass: the rise of the loss, and 1 more where evidence left the object. `(B,)`.

    -1 where nothing got worse, or the last pass did not see the image.
    """

    earlier: Mapping[str, tuple[float, bool]] = field(default_factory=dict)

    def __call__(self, explained: Explained) -> Tensor:
        """The score of each image."""
        device = explained.cells.device
        if not self.earlier:
            return torch.full_like(explained.units.confidence, -1.0)
        losses, grounded = lookup(self.earlier, explained.samples, device)
        rise = explained.numbers[:, explained.columns.index("loss")] - losses
        now = torch.isin(explained.cells, torch.tensor(GROUNDED, device=device))
        left = (grounded & ~now & (explained.cells >= 0)).float()
        score = rise.clamp_min(0).nan_to_num(0) + left
        return torch.where(score > USUAL, score, -1.0)


# Which of the candidates to show.


@dataclass(frozen=True, eq=False)
class Case:
    """A candidate: its score, its classes, and its heatmap as a vector of length one (zeros where empty)."""

    sample: str
    score: float
    classes: Hashable
    direction: NDArray[np.float32]


def diverse(cases: Sequence[Case], count: int, shown: Set[str] = frozenset()) -> list[int]:
    """The indices of at most `count` cases, chosen one after the other.

    Each time the case wins whose score, times 1/2 for every chosen case of the same classes, and less by up to half the
    closer its heatmap lies to that of a chosen one, is the highest (maximal marginal relevance, Carbonell 1998, as a
    product). Cases that were `shown` last time count a little more, so that they can be followed.

    >>> flat = np.ones(4, np.float32) / 2
    >>> cases = [Case("a", 0.9, (0, 1), flat), Case("b", 0.8, (0, 1), flat), Case("c", 0.5, (2, 1), flat)]
    >>> diverse(cases, 2)
    [0, 2]
    """
    chosen: list[int] = []
    pairs: Counter[Hashable] = Counter()
    closest = np.zeros(len(cases), np.float32)
    worth = np.array([case.score * (FAMILIAR if case.sample in shown else 1.0) for case in cases], np.float32)
    while len(chosen) < min(count, len(cases)):
        spread = np.array([SAME_PAIR ** pairs[case.classes] for case in cases], np.float32)
        values = worth * spread * (1 - SAME_MAP * closest)
        values[chosen] = -np.inf
        best = int(values.argmax())
        chosen.append(best)
        pairs[cases[best].classes] += 1
        near = [_cosine(case.direction, cases[best].direction) for case in cases]
        closest = np.maximum(closest, np.array(near, np.float32))
    return chosen


def direction(heat: NDArray[np.float32]) -> NDArray[np.float32]:
    """A heatmap as a vector of length one; zeros for an empty one."""
    flat = np.nan_to_num(heat).ravel()
    length = float(np.linalg.norm(flat))
    return flat / length if length > 0 else flat


def _cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(a @ b) if a.shape == b.shape else 0.0
