import pytest
import torch

from camtrain.cam import settled
from camtrain.errors import ConfigurationError
from camtrain.metrics import (
    AverageDrop,
    AverageHighestConfidence,
    ConfidenceIncrease,
    DeletionAUC,
    InsertionAUC,
    OcclusionCorrelation,
    Win,
    average_drop,
    class_probability,
    confidence_increase,
    curve_area,
    highest_confidence,
    rank_correlation,
    win,
)

NAN = torch.tensor([torch.nan])
ONE = torch.tensor([1.0])


def test_average_drop__divides_by_the_confidence_and_ignores_increases():
    found = average_drop(torch.tensor([0.8, 0.2]), torch.tensor([0.2, 0.9]))
    assert found.tolist() == pytest.approx([0.75, 0.0])


def test_drop_increase_and_win__of_an_undefined_confidence_are_nan():
    assert average_drop(ONE, NAN).isnan().all()
    assert average_drop(0 * ONE, ONE).isnan().all()
    assert confidence_increase(ONE, NAN).isnan().all()
    assert win(ONE, ONE, NAN).isnan().all()
    assert win(ONE, NAN, ONE).isnan().all()


def test_win__goes_to_one_method_or_to_neither():
    before = torch.full((4,), 0.5)
    ours, theirs = torch.tensor([0.4, 0.1, 0.9, 0.3000001]), torch.tensor([0.1, 0.4, 0.7, 0.3])
    assert win(before, ours, theirs).tolist() == [1, 0, 0, 0]
    assert win(before, theirs, ours).tolist() == [0, 1, 0, 0]


def test_curve_area__of_equal_steps_is_petsiuks_sum():
    scores = torch.rand(4, 11)
    expected = (scores.sum(1) - scores[:, 0] / 2 - scores[:, -1] / 2) / 10
    torch.testing.assert_close(curve_area(scores, torch.linspace(0, 1, 11)), expected)


def test_curve_area__of_other_than_two_points_and_more_is_refused():
    with pytest.raises(ConfigurationError, match="not 1 and 1"):
        curve_area(torch.ones(2, 1), torch.zeros(1))
    with pytest.raises(ConfigurationError, match="not 3 and 2"):
        curve_area(torch.ones(2, 3), torch.zeros(2))


def test_class_probability__is_that_of_the_class_predicted_for_the_whole_image():
    logits = torch.tensor([[0.0, 3.0], [2.0, 0.0]])
    changed = torch.tensor([[5.0, 3.0], [1.0, 1.0]])
    fixed = settled(class_probability, logits)
    torch.testing.assert_close(fixed(changed, None), changed.softmax(1)[[0, 1], [1, 0]])
    torch.testing.assert_close(class_probability(changed, torch.tensor([0, 0])), changed.softmax(1)[:, 0])
    torch.testing.assert_close(class_probability(changed[:, :1]), changed[:, 0].sigmoid())


def test_rank_correlation__is_that_of_scipy_with_ties_and_without():
    spearman = pytest.importorskip("scipy.stats").spearmanr
    first = torch.cat([torch.rand(3, 5, 6), torch.randint(0, 3, (3, 5, 6)).float()])
    second = torch.cat([torch.rand(4, 5, 6), torch.randint(0, 3, (2, 5, 6)).float()])
    expected = [spearman(a.flatten(), b.flatten()).statistic for a, b in zip(first, second, strict=True)]
    assert rank_correlation(first, second).tolist() == pytest.approx(expected, abs=1e-6)


def test_rank_correlation__of_constant_or_broken_maps_is_nan_and_of_itself_one():
    heat = torch.rand(4, 3, 3)
    assert rank_correlation(heat, heat).tolist() == pytest.approx([1] * 4)
    assert rank_correlation(heat, -heat).tolist() == pytest.approx([-1] * 4)
    heat[0], heat[1, 0, 0] = 0.5, torch.nan
    assert rank_correlation(heat, torch.rand(4, 3, 3)).isnan().tolist() == [True, True, False, False]
    assert rank_correlation(heat[:0], heat[:0]).shape == (0,)


@pytest.mark.parametrize(
    ("metric", "function", "arguments"),
    [
        (AverageDrop, average_drop, [(9,), (9,)]),
        (ConfidenceIncrease, confidence_increase, [(9,), (9,)]),
        (Win, win, [(9,), (9,), (9,)]),
        (AverageHighestConfidence, highest_confidence, [(9, 4)]),
        (OcclusionCorrelation, rank_correlation, [(9, 3, 3), (9, 6, 6)]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_metrics__over_batches_equal_the_function_over_all(metric, function, arguments):
    given = [torch.rand(shape) for shape in arguments]
    given[0][4] = torch.nan
    overall, each, labels = metric(), metric(num_classes=2), torch.tensor([0, 1, 0, 1, 0, 1, 0, 1, 1])
    for part in (slice(0, 5), slice(5, 9)):
        overall.update(*(value[part] for value in given))
        each.update(*(value[part] for value in given), labels=labels[part])
    values = function(*given)
    torch.testing.assert_close(overall.compute(), values.nanmean())
    torch.testing.assert_close(each.compute(), torch.stack([values[labels == c].nanmean() for c in (0, 1)]))
    assert overall.undefined.item() == 1


@pytest.mark.parametrize("metric", [InsertionAUC, DeletionAUC])
def test_auc__over_batches_is_the_mean_area(metric):
    made, curves, fractions = metric(), torch.rand(9, 4), torch.tensor([0.0, 0.4, 0.8, 1.0])
    curves[2] = torch.nan
    made.update(curves[:4], fractions)
    made.update(curves[4:], fractions)
    torch.testing.assert_close(made.compute(), curve_area(curves, fractions).nanmean())
    assert made.undefined.item() == 1
