"""A run as one HTML file that needs no network: `write_report`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from math import ceil, floor, isfinite
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from camtrain.records import CELLS, HEATMAPS, MASKS_FILE, History, Verdict, read_history
from camtrain.records.folder import flatten, read_run_info
from camtrain.records.formats import Epoch
from camtrain.reliance.remedies import advice_for
from camtrain.report import summary as story
from camtrain.report.charts import FILTERS, Series, Unit, area_chart, line_chart, reliability_chart
from camtrain.report.pictures import (
    FailureCase,
    GalleryPage,
    Intervention,
    Place,
    SavedPictures,
    failures,
    film_epochs,
    films,
    gallery_page,
    interventions,
    places,
)
from camtrain.report.tables import (
    MOST_CLASSES,
    MOST_ROWS,
    class_lines,
    curve_charts,
    energies_by_class,
    matrix,
    metric_columns,
    mistakes,
)

REPORT_FILE = "report.html"
LIMIT = 14_000_000  # bytes
SIDES = (224, 160, 112, 80)  # of pictures in pixels, smaller ones where the page would exceed the limit
CELL_COLORS = dict(zip(CELLS, ("--grounded", "--lucky", "--honest", "--lost"), strict=True))
CLASSES_IN_FULL, UNMEASURED_IN_FULL = 24, 6
CLASSES_OF_AN_AUDIT = 2000
CELLS_ENOUGH = 7  # a side of a heatmap that can follow an object


@dataclass(frozen=True)
class Chart:
    """A figure of the report: its title, its curves for the legend, the drawing."""

    title: str
    series: Sequence[Series]
    svg: Markup
    unit: Unit


@dataclass(frozen=True)
class ClassVerdict:
    """One class in the report: its verdict now and before alignment, with the examples of each."""

    row: Verdict
    earlier: Verdict | None
    examples: list[Intervention] = field(default_factory=list)
    earlier_examples: list[Intervention] = field(default_factory=list)
    place: Place | None = None

    @property
    def judgeable(self) -> bool:
        """Does it flag a cue, which a person can call fair or spurious."""
        return self.row.verdict in (story.RELIANT, story.SUSPECT, story.FAIR)

    @property
    def pictured(self) -> bool:
        """Is there an example to show."""
        return bool(self.examples or self.earlier_examples)


@dataclass(frozen=True)
class EffectAxis:
    """The common scale on which effects are drawn, in percent of its width.

    >>> EffectAxis(-0.1, 0.4).at(0.15)
    50.0
    """

    low: float
    high: float

    def at(self, value: float) -> float:
        """Where a value lies, in percent from the left, within 0 and 100."""
        return round(min(100.0, max(0.0, 100 * (value - self.low) / (self.high - self.low))), 2)

    @property
    def ticks(self) -> list[float]:
        """Some three to six round values on the axis, zero among them.

        >>> EffectAxis(-0.1, 0.4).ticks
        [-0.1, 0.0, 0.1, 0.2, 0.3, 0.4]
        """
        step = next((step for step in (0.05, 0.1, 0.25, 0.5) if (self.high - self.low) / step <= 6), 0.5)
        first, last = ceil(self.low / step), floor(self.high / step)
        return [round(index * step, 2) for index in range(first, last + 1)]


def write_report(
    folder: str | Path, path: Path | None = None, *, files: Mapping[str, str] | None = None, side: int = SIDES[0]
) -> Path:
    """Write `report.html` from what `FilesSink` left in the folder, and return its path, by default in that folder.

    `files` are links to what lies beside the report, by what they are called; pictures are no larger than `side`.

    The file holds its pictures and style, opens from the disk and sends no request. Sections without records are
    left out; pictures get smaller where the file would exceed 14 MB. An empty folder gives a page that says so.

    >>> import tempfile
    >>> write_report(tempfile.mkdtemp()).name
    'report.html'
    """
    folder = Path(folder)
    history = read_history(folder)
    gallery = gallery_page(history, folder)
    info = read_run_info(folder) | {"files": files or {}}
    for most in SIDES:
        page = render(history, SavedPictures(folder, min(side, most)), info, _title(folder), gallery).encode()
        if len(page) <= LIMIT:
            break
    return _replace(path or folder / REPORT_FILE, page)


@dataclass(frozen=True)
class ReportPage:
    """The report of a run's folder, which shows itself in a notebook: `ReportPage(write_report(folder))`."""

    path: Path
    height: int = 720

    def _repr_html_(self) -> str:
        page = Markup.escape(self.path.read_text())
        return f'<iframe srcdoc="{page}" width="100%" height="{self.height}" style="border:1px solid #ccc"></iframe>'


def render(
    history: History,
    pictures: SavedPictures,
    info: Mapping[str, Any],
    title: str,
    gallery: GalleryPage | None = None,
) -> str:
    """The page of a history as HTML."""
    audit = history.setup.get("stage") in ("validate", "test")
    run, start = story.span(history), story.alignment_start(history)
    epochs = film_epochs(history, start=start)
    verdicts = class_verdicts(history, pictures)
    full = verdicts_in_full(verdicts)
    reels = films(history, pictures, epochs)
    cases = failures(history, pictures, run.after, "now")
    cases += failures(history, pictures, run.before, "before alignment") if run.aligned else []
    return _template().render(
        title=info.get("title") or title,
        headline=story.headline(history),
        audit=audit,
        answers=_answers(history),
        gallery=gallery,
        mistakes=mistakes(history, run.after),
        many=len(matrix(history, run.after)) >= MOST_CLASSES,
        files=info.get("files", {}),
        remarks=info.get("remarks", []),
        run=run,
        start=start,
        epochs=history.epochs,
        verdicts=verdicts[:full],
        other_verdicts=verdicts[full:],
        advice=advice_for((one.row for one in verdicts), story.images_held(history, run.after)),
        axis=effect_axis([row for one in verdicts for row in (one.row, one.earlier) if row is not None]),
        measures=story.measures(history),
        price=story.price(history),
        charts=curves(history, start),
        cells=[(label, story.shares(counts), counts) for label, counts in _cells(history, run)],
        cells_note=story.cells_note(history),
        cell_colors=CELL_COLORS,
        cells_chart=_cells_chart(history, start),
        film_epochs=epochs,
        films=reels,
        methods=list(dict.fromkeys(m for film in reels for frame in film.frames if frame for m in frame.overlays)),
        probe_epochs=len(history.panels.get(HEATMAPS, {})),
        cases=cases,
        masks=pictures.strip(MASKS_FILE),
        filters=case_filters(cases),
        class_lines=class_lines(history, run, CLASSES_OF_AN_AUDIT if audit else MOST_ROWS),
        matrix=matrix(history, run.after),
        metrics=metric_columns(history),
        metric_curves=curve_charts(history),
        pictured=lambda square: any((one.label, one.predicted) == (square.true, square.said) for one in cases),
        setup=history.setup,
        mask_lines=mask_lines(history.setup.get("masks", {})),
        masks_picture=pictures.strip(history.setup["masks_picture"]) if "masks_picture" in history.setup else None,
        coarse=coarse_layers(history.setup),
        alerts=history.alerts,
        configuration=list(flatten(info.get("configuration", {}))),
        versions=info.get("versions", {}),
    )


def class_verdicts(history: History, pictures: SavedPictures) -> list[ClassVerdict]:
    """The latest verdict of each class, beside the last one before alignment; the most worrying first."""
    run = story.span(history)
    rows = story.latest_verdicts(history, run.after)
    before = story.latest_verdicts(history, run.before) if run.aligned else []
    earlier = {row.class_name: row for row in before if before is not rows}
    examples = interventions(history, pictures, run.after, most=2 if earlier else 4)
    shown = interventions(history, pictures, run.before) if earlier else {}
    where = places(history, pictures, run.after)
    found = [
        ClassVerdict(
            row,
            earlier.get(row.class_name),
            examples.get(row.class_name, []),
            shown.get(row.class_name, []),
            where.get(row.class_name),
        )
        for row in rows
    ]
    return sorted(found, key=_worry)


def verdicts_in_full(verdicts: Sequence[ClassVerdict]) -> int:
    """How many of the verdicts, the first ones, are shown in full: none of many that measured nothing."""
    measured = sum(isfinite(one.row.effect) or one.earlier is not None for one in verdicts)
    few = len(verdicts) - measured <= UNMEASURED_IN_FULL
    return min(CLASSES_IN_FULL, len(verdicts) if few else measured)


def _answers(history: History) -> dict[str, Any] | None:
    """What the last pass's answers and their confidence are worth, and its picture; None where it is not known."""
    if not history.calibrations:
        return None
    line = history.calibrations[max(history.calibrations)]
    return {**line, "chart": Markup(reliability_chart(line["bins"]))}


def case_filters(cases: Sequence[FailureCase]) -> dict[str, list[str]]:
    """What the failure cases can be filtered by, and the values that occur; nothing that has one value only."""
    values = {
        "when": [one.when for one in cases],
        "kind": [one.reason for one in cases],
        "cell": [one.cell for one in cases if one.cell],
        "class": sorted(one.label for one in cases if one.label),
    }
    found = {name: list(dict.fromkeys(some)) for name, some in values.items()}
    return {name: some for name, some in found.items() if len(some) > 1}


def coarse_layers(setup: Mapping[str, Any]) -> dict[str, int]:
    """The explained layers with fewer than `CELLS_ENOUGH` cells a side, and how many they have.

    >>> coarse_layers({"layers": {"layer4": "the last one (4x4 cells, channels first)"}})
    {'layer4': 4}
    """
    sizes = {layer: re.search(r"\((\d+)x(\d+) cells", str(reason)) for layer, reason in setup.get("layers", {}).items()}
    sides = {layer: min(map(int, size.groups())) for layer, size in sizes.items() if size}
    return {layer: side for layer, side in sides.items() if side < CELLS_ENOUGH}


def mask_lines(masks: Mapping[str, Any]) -> list[str]:
    """What the masks of the run are, in sentences; none without a mask.

    >>> facts = {"images": 9, "annotated": 8, "covered": [0.0, 0.25, 1.0], "empty": 1, "full": 2, "degrees": 0}
    >>> mask_lines(facts)[:2]
    ['8 of 9 images have a mask.', 'The object covers 25 % of the frame (median), from 0 % to 100 %.']
    >>> mask_lines(facts)[2:]
    ['1 empty, 2 full.']
    """
    if not masks.get("annotated"):
        return []
    low, middle, high = (f"{100 * share:.0f} %" for share in masks["covered"])
    kinds = ("empty", "full", "at the border")
    odd = [f"{masks[kind]} {kind}" for kind in kinds if masks.get(kind)]
    values = [f"{masks[kind]} with {kind}" for kind in ("unknown pixels", "degrees") if masks.get(kind)]
    first = " of the first process" if masks.get("processes", 1) > 1 else ""
    lines = [f"{masks['annotated']} of {masks['images']} images{first} have a mask."]
    lines.append(f"The object covers {middle} of the frame (median), from {low} to {high}.")
    return lines + ([", ".join(odd + values) + "."] if odd or values else [])


def effect_axis(rows: Sequence[Verdict]) -> EffectAxis:
    """A scale that holds zero and every interval."""
    values = [value for row in rows for value in (row.low, row.high, row.effect, row.placebo) if isfinite(value)]
    low, high = min([0.0, *values]), max([0.1, *values])
    margin = 0.04 * (high - low)
    return EffectAxis(low - margin, high + margin)


def curves(history: History, start: Epoch | None) -> list[Chart]:
    """The charts that have anything to draw over time; none where there is one epoch."""
    if len(history.epochs) < 2:
        return []
    accuracy, worst = story.accuracy_names(history)
    named = {"Accuracy": accuracy, "Worst group": worst, "Training": story.training_accuracy_name(history)}
    energy = story.inside_energy_names(history)
    if energy and history.scalars.get(story.CHANCE):
        energy = dict(list(energy.items())[:5]) | {"by chance": story.CHANCE}
    drawn = [
        _chart(history, "Accuracy", {label: name for label, name in named.items() if name}, start, "share"),
        _chart(history, "Inside energy: evidence on the object", energy, start, "ratio"),
        _chart(story.examined(history), "Classes that lean on a cue", {"flagged": story.FLAGGED}, start, "count"),
        _chart(history, "Alignment penalty", {"penalty": "alignment/penalty"}, start, "value"),
    ]
    drawn += [_effects_chart(history, start), _class_chart(history, start)]
    return [chart for chart in drawn if chart is not None]


def _effects_chart(history: History, start: Epoch | None) -> Chart | None:
    """The effects of the classes that had the strongest, over the rounds of detection, with their intervals."""
    found = story.effects_by_class(history)
    if not found or len(history.verdicts) < 2:
        return None
    series = [
        Series(
            name,
            f"var(--series-{index})",
            {epoch: row.effect for epoch, row in rows.items()},
            {epoch: (row.low, row.high) for epoch, row in rows.items()},
        )
        for index, (name, rows) in enumerate(found.items())
    ]
    svg = Markup(line_chart(series, start=start, epochs=history.epochs))
    return Chart("What hangs on the cue: effects with intervals", series, svg, "ratio")


def _class_chart(history: History, start: Epoch | None) -> Chart | None:
    series = [
        Series(name, f"var(--series-{index})", values)
        for index, (name, values) in enumerate(energies_by_class(history).items())
    ]
    if not series:
        return None
    svg = Markup(line_chart(series, unit="ratio", start=start, epochs=history.epochs))
    return Chart("Inside energy by class", series, svg, "ratio")


def _chart(history: History, title: str, names: Mapping[str, str], start: Epoch | None, unit: Unit) -> Chart | None:
    found = [(label, history.scalars.get(name, {})) for label, name in names.items()][:6]
    series = [Series(label, f"var(--series-{index})", values) for index, (label, values) in enumerate(found)]
    if not any(isfinite(one.latest) for one in series):
        return None
    return Chart(title, series, Markup(line_chart(series, unit=unit, start=start, epochs=history.epochs)), unit)


def _cells(history: History, run: story.EpochSpan) -> list[tuple[str, dict[str, int]]]:
    """The counts of the last pass, and before them those of the last one without alignment."""
    now = max(history.cells, default=None)
    before = max((epoch for epoch in history.cells if run.before is not None and epoch <= run.before), default=None)
    if now is None:
        return []
    latest = [(f"epoch {now}", history.cells[now])]
    if before is None or before == now:
        return latest
    return [(f"epoch {before}" + (", before alignment" if run.aligned else ""), history.cells[before]), *latest]


def _cells_chart(history: History, start: Epoch | None) -> Markup | None:
    if len(history.cells) < 2:
        return None
    by_epoch = {epoch: story.shares(counts) for epoch, counts in history.cells.items()}
    series = [
        Series(cell, f"var({color})", {epoch: one[cell] for epoch, one in by_epoch.items()})
        for cell, color in CELL_COLORS.items()
    ]
    return Markup(area_chart(series, start=start))


def _worry(verdict: ClassVerdict) -> tuple[int, float]:
    """Reliant classes first, then suspect and undecided ones, each by the strongest effect that they have or had."""
    order = [story.RELIANT, story.SUSPECT, story.UNDECIDED]
    rank = order.index(verdict.row.verdict) if verdict.row.verdict in order else len(order)
    effects = [abs(row.effect) for row in (verdict.row, verdict.earlier) if row is not None and isfinite(row.effect)]
    return rank, -max(effects, default=0.0)


def _title(folder: Path) -> str:
    place = folder.resolve()
    return place.parent.name if place.name == "camtrain" else place.name


def _replace(path: Path, page: bytes) -> Path:
    """Written beside and moved, so that a reader never meets half a page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".tmp")
    try:
        beside.write_bytes(page)
        return beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)  # half a page takes room from the numbers


@cache
def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= FILTERS
    return environment.get_template("report.html.j2")
