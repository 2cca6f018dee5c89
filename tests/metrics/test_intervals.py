import math

import pytest
import torch

from camtrain.errors import ConfigurationError
from camtrain.metrics import MeanWithInterval, mean_interval, share_interval


def test_mean_interval__is_students_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    values = torch.rand(12, dtype=torch.float64)
    found = mean_interval(values.sum().item(), values.square().sum().item(), 12, level=0.9)
    low, high = stats.t.interval(0.9, 11, loc=values.mean().item(), scale=stats.sem(values.numpy()))
    assert (found.low, found.high) == pytest.approx((low, high))


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (7, 10), (10, 10), (1, 1)])
def test_share_interval__is_wilsons_of_scipy(hits, count):
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(hits, count).proportion_ci(0.95, method="wilson")
    found = share_interval(float(hits), count)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_intervals__of_nothing_are_nan_and_of_one_value_infinite():
    assert math.isnan(mean_interval(0.0, 0.0, 0).mean)
    assert math.isnan(share_interval(0.0, 0).high)
    assert (mean_interval(2.0, 4.0, 1).low, mean_interval(2.0, 4.0, 1).high) == (-math.inf, math.inf)
    with pytest.raises(ConfigurationError, match=r"got 1\.0"):
        mean_interval(0.0, 0.0, 0, level=1.0)


def test_mean_with_interval__over_batches_and_processes_is_that_of_all_values():
    values = torch.rand(15)
    values[3] = torch.nan
    parts = [MeanWithInterval(), MeanWithInterval()]
    parts[0].update(values[:5])
    parts[1].update(values[5:])
    parts[0].merge_state(parts[1])
    known = values[~values.isnan()].double()
    expected = mean_interval(known.sum().item(), known.square().sum().item(), 14)
    assert parts[0].compute().tolist() == pytest.approx([expected.mean, expected.low, expected.high], abs=1e-6)


def test_mean_with_interval__of_shares_is_wilsons():
    metric = MeanWithInterval(shares=True)
    metric.update(torch.tensor([1.0, 1.0, torch.nan, 0.0]))
    expected = share_interval(2.0, 3)
    assert metric.compute().tolist() == pytest.approx([expected.mean, expected.low, expected.high])
