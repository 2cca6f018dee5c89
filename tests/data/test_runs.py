from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camtrain.data.files import Sample
from camtrain.data.formats.runs import RELATIVE, Starts, counted, in_order
from camtrain.errors import ConfigurationError, DataError, MaskError

SIZE = (90, 140)
DISC = np.add.outer((np.arange(90) - 40) ** 2, (np.arange(140) - 60) ** 2) < 30**2


def coded(mask, order, first=1):
    """Starts and lengths of the runs of a mask, by the definition."""
    line = np.concatenate([[0], (mask.T if order == "columns" else mask).ravel(), [0]]).astype(int)
    starts, ends = np.flatnonzero(np.diff(line) == 1), np.flatnonzero(np.diff(line) == -1)
    return tuple(np.stack([starts + first, ends - starts], axis=1).ravel().tolist())


def sample(folder, numbers, size=SIZE):
    Image.new("L", size[::-1]).save(folder / "0.png")
    return [Sample(folder / "0.png", 0, regions=(Starts(numbers),))]


@pytest.mark.parametrize("order", ["columns", "rows"])
def test_in_order__is_the_order_that_leaves_shapes_whole(tmp_path, order):
    ((shape,),) = (each.regions for each in in_order(sample(tmp_path, coded(DISC, order)), None))
    assert np.array_equal(shape.draw(SIZE), DISC)


def test_in_order__refuses_a_word_that_tears_shapes_apart(tmp_path):
    samples = sample(tmp_path, coded(DISC, "rows"))
    with pytest.raises(MaskError, match=r"run_order: columns tears.* Set run_order: rows"):
        in_order(samples, "columns")
    with pytest.raises(ConfigurationError, match="'diagonal'"):
        in_order(samples, "diagonal")
    with pytest.raises(ConfigurationError, match="there are none"):
        in_order([Sample(Path("0.png"), 0)], "rows")


def test_in_order__of_a_bar_across_an_image_nearly_square_is_asked_for(tmp_path):
    bar = np.eye(90, 94, dtype=bool)  # sheared by four pixels a line, it is as whole as before
    with pytest.raises(MaskError, match=r"Nothing tells.*run_order: columns .*run_order: rows"):
        in_order(sample(tmp_path, coded(bar, "rows"), (90, 94)), None)


def test_starts__count_from_one_from_zero_or_from_the_run_before():
    assert counted([coded(DISC, "rows")], Path("a.csv")) == "1"
    top = np.zeros(SIZE, bool)
    top[:5, :5] = True
    from_zero = coded(top, "rows", first=0)
    assert counted([from_zero], Path("a.csv")) == "0"
    assert np.array_equal(Starts(from_zero, "0", "rows").draw(SIZE), top)
    gaps = np.array(coded(DISC, "columns", first=0)).reshape(-1, 2)
    gaps[1:, 0] -= gaps[:-1].sum(axis=1).copy()
    relative = tuple(gaps.ravel().tolist())
    assert counted([relative], Path("a.csv")) == RELATIVE
    assert np.array_equal(Starts(relative, RELATIVE, "columns").draw(SIZE), DISC)
    with pytest.raises(DataError, match=r"a\.csv has runs that are not in the order.*Sort"):
        counted([(90, 3, 10, 3)], Path("a.csv"))
