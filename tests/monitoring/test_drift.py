from math import isnan, sqrt

import numpy as np
import pytest
from scipy.stats import spearmanr

from camtrain.monitoring.drift import center_of_mass, drift, rank_correlation


def spot(row, column, size=4):
    heat = np.zeros((size, size), np.float32)
    heat[row, column] = 2.0
    return heat


def test_rank_correlation__agrees_with_scipy_with_ties():
    generator = np.random.default_rng(0)
    for _ in range(5):
        a, b = generator.integers(0, 4, (2, 5, 5)).astype(np.float32)
        assert rank_correlation(a, b) == pytest.approx(spearmanr(a.ravel(), b.ravel()).statistic)


def test_drift__from_corner_to_corner():
    moved = drift(spot(0, 0), spot(3, 3))
    assert moved.shift == pytest.approx(0.75 * sqrt(2) / sqrt(2))
    assert moved.rank_correlation == pytest.approx(-1 / 15)


def test_drift__of_an_empty_or_resized_map_is_nan():
    empty = np.zeros((4, 4), np.float32)
    for other in (empty, spot(0, 0, 3)):
        moved = drift(spot(1, 1), other)
        assert isnan(moved.rank_correlation)
        assert isnan(moved.shift)


def test_center_of_mass__weighs_cells():
    heat = np.array([[1, 0, 0, 3]], np.float32)
    assert center_of_mass(heat) == (0.5, 0.25 * 0.125 + 0.75 * 0.875)
