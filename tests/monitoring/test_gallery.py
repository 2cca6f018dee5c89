import math

import numpy as np
import pytest
import torch

from camtrain.monitoring.gallery import MOST_TILES, Tiles, drawn, gallery, sheet
from camtrain.monitoring.panels import Naming
from camtrain.monitoring.selection import Kept
from camtrain.monitoring.table import Table, calibration
from camtrain.records import CELLS


def kept(image, heat, mask=None):
    return Kept("a", image, None, {"grad_cam": heat}, mask, torch.zeros(1), ("label",))


def test_tile__is_the_whole_image_and_its_overlay_in_a_square():
    image = torch.zeros(3, 4, 8)
    image[0] = 1.0  # red
    (tile,) = drawn([kept(image, torch.tensor([[1.0, 0.0]]))], 16, None)
    assert tile.shape == (6, 16, 16)
    assert tile[:, :4].unique().tolist() == [0]  # the margin above a wide image
    assert tile[:3, 8, 8].tolist() == [255, 0, 0]
    assert not torch.equal(tile[3:, 8, 1], tile[3:, 8, 14])  # hot on the left, cold on the right


def test_tile__outlines_the_object():
    mask = torch.zeros(16, 16)
    mask[6:10, 6:10] = 1
    (plain,) = drawn([kept(torch.zeros(3, 16, 16), torch.eye(2))], 16, None)
    (lined,) = drawn([kept(torch.zeros(3, 16, 16), torch.eye(2), mask)], 16, None)
    assert torch.equal(plain[:3], lined[:3])
    assert (lined[3:, 5, 7] == 255).all()
    assert torch.equal(plain[3:, 8, 8], lined[3:, 8, 8])  # inside nothing is drawn


def test_sheet__holds_pairs_line_by_line():
    tiles = [torch.full((6, 2, 2), index, dtype=torch.uint8) for index in range(12)]
    tiles[11][3:] = 99
    picture = sheet(tiles)
    assert picture.shape == (3, 4, 40)
    assert picture[0, 0, ::2].tolist() == [place for index in range(10) for place in (index, index)]
    assert picture[0, 2, :8:2].tolist() == [10, 10, 11, 99]
    assert picture[0, 2, 8:].unique().tolist() == [0]


@pytest.mark.parametrize(("expected", "every"), [(None, 1), (MOST_TILES, 1), (2 * MOST_TILES + 1, 3)])
def test_tiles__of_very_many_images_are_taken_evenly(expected, every):
    assert Tiles(expected).every == every


COLUMNS = ("label", "predicted", "probability", "true_probability", "cell", "chance", "right", "about")
COLUMNS += ("inside_energy/grad_cam",)


def rows():
    nan = math.nan
    numbers = [
        [0, 1, 0.9, 0.1, 3, 0.25, 0, 0, 0.1],
        [1, 1, 0.8, 0.8, 0, nan, 1, 1, nan],
        [-1, 0, 0.6, nan, -1, nan, nan, 0, nan],
    ]
    return Table(["x/a", "x/b", "x/c"], COLUMNS, np.array(numbers, np.float32))


def test_gallery__holds_what_is_known_of_each_image_that_has_a_tile():
    tiles = {name: torch.zeros(6, 2, 2, dtype=torch.uint8) for name in ("x/c", "x/a")}
    record = gallery(rows(), tiles, Naming(["cat", "dog"]), 0, 0)
    assert (record.shown, record.images, record.side, len(record.sheets)) == (2, 3, 2, 1)
    assert record.columns == {
        "sample": ["x/a", "x/c"],
        "true": ["cat", None],
        "predicted": ["dog", "cat"],
        "probability": [0.9, 0.6],
        "true_probability": [0.1, None],
        "right": [0.0, None],
        "inside_energy": [0.1, None],
        "chance": [0.25, None],
        "cell": [CELLS[3], None],
    }


def test_calibration__is_over_images_with_a_label():
    record = calibration(rows(), 0, 0)
    assert (record.images, record.accuracy) == (2, 0.5)
    assert record.confidence == pytest.approx(0.85)
    assert record.error == pytest.approx(0.5 * (0.9 - 0) + 0.5 * (1 - 0.8), abs=1e-6)
    assert [one.images for one in record.bins] == [0] * 8 + [1, 1]
    assert calibration(Table(["x/c"], COLUMNS, rows().numbers[2:]), 0, 0) is None
