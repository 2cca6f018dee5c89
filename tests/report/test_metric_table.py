"""The metrics of a pass, from their record to the page."""

import math

import pytest

from camtrain.records import Curve, MetricRow, Metrics
from camtrain.report import write_report
from camtrain.report.tables import curve_charts, metric_columns
from camtrain.sinks import FilesSink, read_history

ROWS = (
    MetricRow("average_drop", "grad_cam", 0.3, 0.2, 0.4, 9),
    MetricRow("average_drop", "layer_cam", 0.2, 0.1, 0.3, 8),
    MetricRow("insertion", "grad_cam", 0.6, 0.5, 0.7, 9),
    MetricRow("insertion", "layer_cam", math.nan, math.nan, math.nan, 0),
)
CURVE = Curve("insertion", "grad_cam", (0.0, 0.5, 1.0), (0.1, 0.5, 0.9), (0.0, 0.4, 0.8), (0.2, 0.6, 1.0))


@pytest.fixture
def history(tmp_path):
    FilesSink(tmp_path).write(Metrics(ROWS, (CURVE, Curve("deletion", "grad_cam", (), (), (), ())), 0, 1))
    return read_history(tmp_path)


def test_metric_columns__mark_the_best_by_the_direction_of_the_metric(history):
    drop, insertion = metric_columns(history)
    assert (drop.metric.lower, drop.images) == (True, 9)
    assert [cell.best for cell in drop.cells.values()] == [False, True]
    assert [cell.best for cell in insertion.cells.values()] == [False, False]  # one alone is no best
    assert math.isnan(insertion.cells["layer_cam"].mean)


def test_metric_columns__mark_all_that_look_the_same(tmp_path):
    rows = [MetricRow("insertion", name, mean, 0.0, 1.0, 9) for name, mean in (("a", 0.381), ("b", 0.379), ("c", 0.3))]
    FilesSink(tmp_path).write(Metrics(tuple(rows), (), 0, 1))
    (column,) = metric_columns(read_history(tmp_path))
    assert [cell.best for cell in column.cells.values()] == [True, True, False]


def test_curve_charts__draw_what_was_measured(history):
    (chart,) = curve_charts(history)
    assert chart.title.startswith("Insertion")
    assert "var(--series-0)" in chart.svg
    assert "fill-opacity" in chart.svg


def test_curve_charts__draw_a_single_image_without_a_band(tmp_path):
    unbounded = (-math.inf,) * 2, (math.inf,) * 2
    FilesSink(tmp_path).write(Metrics((), (Curve("deletion", "a", (0.0, 1.0), (0.9, 0.1), *unbounded),), 0, 1))
    (chart,) = curve_charts(read_history(tmp_path))
    assert list(chart.bands[0].low) == [0.9, 0.1]


def test_report__shows_the_table_with_its_intervals(tmp_path, history):
    page = write_report(tmp_path).read_text()
    assert "average drop ↓" in page
    assert "20.0 % to 40.0 %" in page
    assert '<b class="good">20.0 %</b>' in page
    assert "<b>–</b>" in page
    assert 'id="metrics"' not in write_report(tmp_path / "empty").read_text()


def test_history__takes_the_last_word_on_an_epoch(tmp_path, history):
    FilesSink(tmp_path).write(Metrics(ROWS[:1], (), 0, 2))
    assert len(metric_columns(read_history(tmp_path))) == 1
