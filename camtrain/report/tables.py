"""The tables of a report: a row for each class, which was taken for which, and metrics with their intervals."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from markupsafe import Markup

from camtrain.records import RIGHT_UNGROUNDED
from camtrain.records.formats import NAN, Epoch, History, Line
from camtrain.report import summary as story
from camtrain.report.charts import Band, band_chart

MOST_CLASSES = 16  # in the matrix
MOST_ROWS = 60
MOST_CURVES = 6


@dataclass(frozen=True)
class ClassLine:
    """One class at the end of a run, and before alignment: verdict, accuracy, inside energy, right but off the object.

    Numbers are NaN, verdicts None, where they are not known.
    """

    name: str
    verdict: str | None
    images: int
    accuracy: float
    inside_energy: float
    lucky: float
    earlier_accuracy: float = NAN
    earlier_energy: float = NAN
    earlier_lucky: float = NAN
    chance: float = NAN
    missed: int | None = None
    invented: int | None = None


@dataclass(frozen=True)
class Square:
    """A cell of the matrix: how many images of a class were taken for another, and the share of that class."""

    true: str
    said: str
    count: int
    share: float


def class_lines(history: History, run: story.EpochSpan, most: int = MOST_ROWS) -> list[ClassLine]:
    """A line for each class of the last pass, those that are right with their heat off the object most often first."""
    now = _pass_at(history, run.after)
    before = _by_name(_pass_at(history, run.before)) if run.before is not None else {}
    verdicts = {row.class_name: row.verdict for row in story.latest_verdicts(history, run.after)}
    lines = [_line(row, before.get(row["class_name"]), verdicts.get(row["class_name"])) for row in _rows(now)]
    return sorted(lines, key=_worry)[:most]


def matrix(history: History, epoch: Epoch | None) -> list[list[Square]]:
    """Rows of true classes over predicted ones, of the last pass up to an epoch; empty where nothing was recorded.

    Of many classes only those that are confused most often.
    """
    counts = {(true, said): count for true, said, count in (_pass_at(history, epoch) or {"confusion": []})["confusion"]}
    names = _most_confused(counts)
    totals: Counter[str] = Counter()
    for (true, _), count in counts.items():
        totals[true] += count
    return [
        [
            Square(true, said, counts.get((true, said), 0), _share(counts.get((true, said), 0), totals[true]))
            for said in names
        ]
        for true in names
    ]


def mistakes(history: History, epoch: Epoch | None, most: int = 12) -> list[Square]:
    """Which class is taken for which most often, of the last pass up to an epoch."""
    rows = [(true, said, count) for true, said, count in (_pass_at(history, epoch) or {"confusion": []})["confusion"]]
    totals: Counter[str] = Counter()
    for true, _, count in rows:
        totals[true] += count
    wrong = sorted((row for row in rows if row[0] != row[1]), key=lambda row: -row[2])
    return [Square(true, said, count, _share(count, totals[true])) for true, said, count in wrong[:most]]


def energies_by_class(history: History) -> dict[str, dict[Epoch, float]]:
    """Inside energy by class and epoch, of the few classes where it lies lowest in the end; empty without masks."""
    found: dict[str, dict[Epoch, float]] = {}
    for epoch, one in history.classes.items():
        for row in one["rows"]:
            if row["inside_energy"] is not None:
                found.setdefault(row["class_name"], {})[epoch] = row["inside_energy"]
    lowest = sorted(found, key=lambda name: found[name][max(found[name])])
    return {name: found[name] for name in lowest[:MOST_CURVES]}


def _pass_at(history: History, epoch: Epoch | None) -> Line | None:
    passes = [at for at in history.classes if epoch is not None and at <= epoch]
    return history.classes[passes[-1]] if passes else None


def _rows(one: Line | None) -> Sequence[Line]:
    return [] if one is None else one["rows"]


def _by_name(one: Line | None) -> dict[str, Line]:
    return {row["class_name"]: row for row in _rows(one)}


def _line(row: Line, before: Line | None, verdict: str | None) -> ClassLine:
    earlier = (_accuracy(before), _energy(before), _lucky(before)) if before is not None else (NAN, NAN, NAN)
    now = (_accuracy(row), _energy(row), _lucky(row))
    chance = _number(row.get("chance"))
    return ClassLine(
        row["class_name"], verdict, row["images"], *now, *earlier, chance, row.get("missed"), row.get("invented")
    )


def _accuracy(row: Line) -> float:
    return _share(row["right"], row["images"])


def _number(value: float | None) -> float:
    return NAN if value is None else float(value)


def _energy(row: Line) -> float:
    return _number(row["inside_energy"])


def _lucky(row: Line) -> float:
    return _share(row["cells"].get(RIGHT_UNGROUNDED, 0), sum(row["cells"].values()))


def _share(count: int, total: int) -> float:
    return count / total if total else NAN


def _worry(line: ClassLine) -> tuple[bool, float, float]:
    lucky = line.lucky if isfinite(line.lucky) else -1.0
    return line.verdict != story.RELIANT, -lucky, line.accuracy


def _most_confused(counts: Mapping[tuple[str, str], int]) -> list[str]:
    """Names in alphabetical order; of many those with the most mistakes."""
    mistakes: Counter[str] = Counter()
    for (true, said), count in counts.items():
        for name in (true, said):
            mistakes[name] += count if true != said else 0
    return sorted(name for name, _ in mistakes.most_common(MOST_CLASSES))


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
