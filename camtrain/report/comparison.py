"""Several runs in one HTML file: numbers, verdicts, curves, and the same probes side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import isfinite
from pathlib import Path

import jinja2
from markupsafe import Markup

from camtrain.records import HEATMAPS, History, Verdict, read_history
from camtrain.records.folder import read_run_info
from camtrain.records.formats import Epoch
from camtrain.report import summary as story
from camtrain.report.charts import FILTERS, Series, changed, line_chart
from camtrain.report.pictures import Film, Frame, SavedPictures, films

SIDE = 160
MOST_PROBES = 16
_Reel = tuple[str, str | None, tuple[Frame, ...]]  # picture, label, frames


@dataclass(frozen=True)
class ComparedRun:
    """A run to compare: its folder, its title, what was recorded."""

    folder: Path
    title: str
    history: History


@dataclass(frozen=True)
class Seen:
    """One probe in all runs: the picture, and by run its first and last frame, or its only one.

    None where a run has not seen it.
    """

    sample: str
    picture: str
    label: str | None
    frames: list[tuple[Frame, ...] | None]


def read_run(folder: Path) -> ComparedRun:
    """The run in a folder; its title is that of `run.json`, else what its folder is called."""
    return ComparedRun(
        folder, str(read_run_info(folder).get("title") or name_of(folder.resolve())), read_history(folder)
    )


def name_of(folder: Path) -> str:
    """The run that a folder belongs to, and what it is of it, where that is no training.

    >>> name_of(Path("runs/demo/abc123/camtrain")), name_of(Path("runs/demo/abc123/camtrain/validate"))
    ('abc123', 'abc123 (validate)')
    """
    if folder.name == "camtrain":
        return folder.parent.name
    return f"{folder.parent.parent.name} ({folder.name})" if folder.parent.name == "camtrain" else folder.name


def comparison_of(runs: Sequence[ComparedRun]) -> dict[str, list[float | None]]:
    """Each measure at the end of each run, by label; None where it was not measured.

    >>> one = ComparedRun(Path(), "a", History(scalars={"val/accuracy": {0: 0.5}}))
    >>> comparison_of([one, ComparedRun(Path(), "b", History())])
    {'Accuracy': [0.5, None]}
    """
    measured = [{one.label: one.after for one in story.measures(run.history)} for run in runs]
    labels = list(dict.fromkeys(label for found in measured for label in found))
    return {label: [_known(found.get(label)) for found in measured] for label in labels}


def shown_comparison_of(runs: Sequence[ComparedRun]) -> dict[str, list[str]]:
    """The same as people read it, with the difference from the first run, and what each alignment cost.

    >>> runs = [ComparedRun(Path(), "a", History(scalars={"val/accuracy": {0: value}})) for value in (0.5, 0.75)]
    >>> shown_comparison_of(runs)
    {'Accuracy': ['50.0 %', '75.0 % (+25.0 pts)']}
    """
    units = {one.label: one.unit for run in runs for one in story.measures(run.history)}
    rows = {label: _with_changes(row, units[label]) for label, row in comparison_of(runs).items()}
    prices = [story.price(run.history).partition(": ")[2].rstrip(".") for run in runs]
    return rows | ({"Validation accuracy since alignment": [price or "–" for price in prices]} if any(prices) else {})


def _with_changes(values: Sequence[float | None], unit: story.Unit) -> list[str]:
    first, *others = values
    texts = [story.shown(first, unit)]
    for value in others:
        change = "" if value is None or first is None else f" ({changed(value - first, unit)})"
        texts.append(story.shown(value, unit) + change)
    return texts


def write_comparison(runs: Sequence[ComparedRun], path: Path) -> Path:
    """Write the page and return its path; it holds its pictures and sends no request."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        _template().render(
            runs=unique_titles(runs),
            numbers=shown_comparison_of(runs),
            verdicts=verdicts_of(runs),
            charts=charts_of(runs),
            probes=probes_of(runs),
        )
    )
    return path


def unique_titles(runs: Sequence[ComparedRun]) -> list[str]:
    """The titles, numbered where two are the same."""
    titles = [run.title for run in runs]
    return [f"{t} ({titles[: i + 1].count(t)})" if titles.count(t) > 1 else t for i, t in enumerate(titles)]


def verdicts_of(runs: Sequence[ComparedRun]) -> dict[str, list[Verdict | None]]:
    """By class, the last verdict in each run."""
    found = [
        {row.class_name: row for row in story.latest_verdicts(run.history, max(run.history.epochs, default=None))}
        for run in runs
    ]
    names = list(dict.fromkeys(name for rows in found for name in rows))
    return {name: [rows.get(name) for rows in found] for name in names}


def charts_of(runs: Sequence[ComparedRun]) -> dict[str, Markup]:
    """Accuracy, worst group and inside energy by title, a curve for each run."""
    charts = {}
    for title, find in (("Accuracy", _accuracy), ("Worst-group accuracy", _worst), ("Inside energy", _energy)):
        series = [
            Series(name, f"var(--series-{index % 6})", find(run.history))
            for index, (name, run) in enumerate(zip(unique_titles(runs), runs, strict=True))
        ]
        if any(isfinite(one.latest) for one in series):
            epochs = sorted({epoch for run in runs for epoch in run.history.epochs})
            charts[title] = Markup(line_chart(series[:6], unit="ratio", epochs=epochs))
    return charts


def probes_of(runs: Sequence[ComparedRun]) -> list[Seen]:
    """The probes, those that most runs have seen first."""
    found: list[dict[str, _Reel]] = []
    for run in runs:
        epochs = list(run.history.panels.get(HEATMAPS, {}))
        ends = list(dict.fromkeys([*epochs[:1], *epochs[-1:]]))  # one epoch is its first and its last
        reels = films(run.history, SavedPictures(run.folder, SIDE), ends, most=MOST_PROBES)
        whole = [one for one in reels if None not in one.frames]
        found.append({one.sample: (one.picture, one.label, _known_frames(one)) for one in whole})
    samples = list(dict.fromkeys(sample for reel in found for sample in reel))
    samples.sort(key=lambda sample: -sum(sample in reel for reel in found))
    return [_seen(sample, found) for sample in samples[:MOST_PROBES]]


def _known_frames(film: Film) -> tuple[Frame, ...]:
    return tuple(frame for frame in film.frames if frame)


def _seen(sample: str, found: Sequence[Mapping[str, _Reel]]) -> Seen:
    picture, label, _ = next(reel[sample] for reel in found if sample in reel)
    return Seen(sample, picture, label, [reel[sample][2] if sample in reel else None for reel in found])


def _accuracy(history: History) -> dict[Epoch, float]:
    return history.scalars.get(story.accuracy_names(history)[0] or "", {})


def _worst(history: History) -> dict[Epoch, float]:
    return history.scalars.get(story.accuracy_names(history)[1] or "", {})


def _energy(history: History) -> dict[Epoch, float]:
    return history.scalars.get(next(iter(story.inside_energy_names(history).values()), ""), {})


def _known(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None


@cache
def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= FILTERS
    return environment.get_template("compare.html.j2")
