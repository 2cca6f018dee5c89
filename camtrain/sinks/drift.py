"""How a heatmap of one image moves from pass to pass."""

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.stats import rankdata

from camtrain.records import Drift

Heat = NDArray[np.float32]


def drift(earlier: Heat, later: Heat) -> Drift:
    """The drift between two raw heatmaps `(h, w)` of one image; NaN where one is empty or their sizes differ.

    >>> heat = np.array([[0, 1], [2, 3]], np.float32)
    >>> drift(heat, heat)
    Drift(rank_correlation=1.0, shift=0.0)
    """
    if earlier.shape != later.shape:
        return Drift(float("nan"), float("nan"))
    way = np.subtract(center_of_mass(later), center_of_mass(earlier))
    return Drift(rank_correlation(earlier, later), float(np.hypot(*way) / np.sqrt(2)))


def rank_correlation(a: Heat, b: Heat) -> float:
    """Spearman's rank correlation of two arrays of one shape, ties at their mean rank; NaN where one is constant.

    >>> rank_correlation(np.array([1, 2, 3], np.float32), np.array([3, 2, 1], np.float32))
    -1.0
    """
    ranks = [rankdata(np.ravel(values)) for values in (a, b)]
    centered = [rank - rank.mean() for rank in ranks]
    scale = float(np.sqrt((centered[0] ** 2).sum() * (centered[1] ** 2).sum()))
    return round(float(centered[0] @ centered[1]) / scale, 12) if scale > 0 else float("nan")


def center_of_mass(heat: Float[np.ndarray, "h w"]) -> tuple[float, float]:
    """Where the energy lies on average, (y, x) as shares of height and width in [0, 1]; NaN for an empty heatmap.

    >>> center_of_mass(np.eye(1, 4, 3, dtype=np.float32))
    (0.5, 0.875)
    """
    total = float(heat.sum())
    if not total > 0 or not np.isfinite(total):
        return float("nan"), float("nan")
    height, width = heat.shape
    rows, columns = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    return float(heat.sum(1) @ rows / total), float(heat.sum(0) @ columns / total)
