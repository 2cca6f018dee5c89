"""Which failure cases to show: the worst ones, but not twelve of the same."""

from collections import Counter
from collections.abc import Hashable, Sequence, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SAME_PAIR = 0.5  # what each further case of the same classes is worth
SAME_MAP = 0.5  # how much a heatmap that lies just where a chosen one lies takes from a case
FAMILIAR = 1.15  # a case that was shown last time stays, unless another one is clearly worse


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
