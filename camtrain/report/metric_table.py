"""Metrics in a report: a table of methods by metrics, and the curves of insertion and deletion."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from markupsafe import Markup

from camtrain.records.history import NAN, History, Line
from camtrain.report.charts import Band, band_chart

MOST_METHODS = 6  # in a drawing


@dataclass(frozen=True)
class Metric:
    """How a metric is shown: its label, what it says, whether less of it is better, in percent or not."""

    label: str
    says: str
    lower: bool = False
    unit: str = "ratio"


KNOWN = {
    "average_drop": Metric("average drop", "confidence lost where only the heated pixels are left", True, "share"),
    "confidence_increase": Metric("increase", "images with more confidence in the heated pixels alone", unit="share"),
    "insertion": Metric("insertion", "area under the confidence while pixels appear, the hottest first"),
    "deletion": Metric("deletion", "area under the confidence while pixels vanish, the hottest first", True),
    "road": Metric("ROAD", "confidence without the coldest minus without the hottest pixels, halved"),
    "occlusion_correlation": Metric("occlusion", "rank correlation with an occlusion map"),
    "inside_energy": Metric("inside energy", "share of the heat on the object", unit="share"),
    "pointing_game": Metric("pointing game", "images whose hottest pixel lies on the object", unit="share"),
    "heatmap_iou": Metric("IoU", "overlap of object and heatmap above Otsu's threshold"),
    "average_precision": Metric("average precision", "of the heat as a score for each pixel of the object"),
    "localization_error": Metric("localization error", "images whose box misses the object's", True, "share"),
}
TITLES = {
    "insertion": "Insertion: pixels appear, the hottest first",
    "deletion": "Deletion: pixels vanish, the hottest first",
}


@dataclass(frozen=True)
class MetricCell:
    """A mean with its interval, NaN where no image has an answer; `best` among the methods of its column."""

    mean: float = NAN
    low: float = NAN
    high: float = NAN
    best: bool = False


@dataclass(frozen=True)
class MetricColumn:
    """A metric as shown, over so many images, with a cell for each method."""

    metric: Metric
    images: int
    cells: Mapping[str, MetricCell]


@dataclass(frozen=True)
class CurveChart:
    """The curves of one kind: title, methods with their colors for the legend, the drawing."""

    title: str
    bands: Sequence[Band]
    svg: Markup


def metric_columns(history: History) -> list[MetricColumn]:
    """A column for each metric of the last measured pass; empty without one."""
    rows = _last(history).get("rows", [])
    return [_column(name, [row for row in rows if row["metric"] == name]) for name in dict.fromkeys(_names(rows))]


def curve_charts(history: History) -> list[CurveChart]:
    """The mean insertion and deletion curves of the last measured pass, with their bands; empty without them."""
    found = _last(history).get("curves", [])
    charts = []
    for kind, title in TITLES.items():
        own = [one for one in found if one["kind"] == kind and one["mean"]][:MOST_METHODS]
        bands = [_band(one, f"var(--series-{index})") for index, one in enumerate(own)]
        if bands:
            charts.append(CurveChart(title, bands, Markup(band_chart(bands))))
    return charts


def _last(history: History) -> Line:
    return history.metrics[max(history.metrics)] if history.metrics else {}


def _names(rows: Sequence[Line]) -> list[str]:
    return [row["metric"] for row in rows]


def _column(name: str, rows: Sequence[Line]) -> MetricColumn:
    metric = KNOWN.get(name, Metric(name.replace("_", " "), ""))
    means = [row["mean"] for row in rows if row["mean"] is not None]
    best = (min if metric.lower else max)(means) if len(means) > 1 else None
    cells = {row["method"]: _cell(row, best, digits=3 if metric.unit == "share" else 2) for row in rows}
    return MetricColumn(metric, max(row["images"] for row in rows), cells)


def _cell(row: Line, best: float | None, digits: int) -> MetricCell:
    """The cell of a row; as good as the best is what looks the same on the page."""
    mean, low, high = (_number(row[end]) for end in ("mean", "low", "high"))
    return MetricCell(mean, low, high, best is not None and round(mean, digits) == round(best, digits))


def _band(one: Line, color: str) -> Band:
    ends = ([_number(value) for value in one[end]] for end in ("mean", "low", "high"))
    mean, low, high = ends
    known = all(map(isfinite, [*low, *high]))
    return Band(one["method"], color, one["fractions"], mean, low if known else mean, high if known else mean)


def _number(value: float | None) -> float:
    return NAN if value is None else float(value)
