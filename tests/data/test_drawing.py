import cv2
import numpy as np
import pytest

from camtrain.data.scenes.drawing import Sketch, noise_sheets, placement, receding, spline

SQUARE = [(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)]


def test_sketch__covers_a_square_where_it_is():
    sketch = Sketch(20, placement((0.5, 0.25), 0.2))
    sketch.polygon(SQUARE, (200, 100, 50), edge=1.0)
    rgb, coverage = sketch.finish()
    assert coverage[3:7, 8:12].min() == 1
    assert coverage.sum() == pytest.approx(16, rel=0.2)
    assert np.allclose(rgb[5, 10], (200, 100, 50))


def test_sketch__color_is_weighted_by_its_coverage():
    sketch = Sketch(16, placement((0.5, 0.5), 0.31, angle=30.0))
    sketch.polygon(SQUARE, (120, 120, 120), edge=1.0)
    rgb, coverage = sketch.finish()
    assert np.abs(rgb - 120 * coverage).max() <= 1


def test_placement__mirrors_and_turns():
    mirrored = placement((0.0, 0.0), 1.0, flip=True)
    assert np.allclose(mirrored[:, :2] @ (1, 0), (-1, 0))
    quarter = placement((0.0, 0.0), 1.0, angle=90.0)
    assert np.allclose(quarter[:, :2] @ (1, 0), (0, 1))


def test_spline__passes_through_its_points():
    points = np.array([(0.0, 0.0), (2.0, 0.5), (1.0, 3.0), (-1.0, 1.0)])
    assert np.allclose(spline(points, steps=5)[::5], points)


def test_noise_sheets__are_standardized_and_reproducible():
    sheets = noise_sheets()
    assert np.allclose(sheets.mean((1, 2)), 0, atol=1e-5)
    assert np.allclose(sheets.std((1, 2)), 1, atol=1e-5)


def test_receding__is_finer_at_the_horizon():
    def roughness(rows):
        return np.mean([np.abs(np.diff(rows[i], axis=1)).mean() for i in range(len(rows))])

    pictures = [receding((60, 200), np.random.default_rng(seed), stretch=3.0) for seed in range(8)]
    assert roughness([p[:10] for p in pictures]) > 2 * roughness([p[-10:] for p in pictures])
    assert cv2.__version__
