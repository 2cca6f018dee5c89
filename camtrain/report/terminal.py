"""A run on the terminal: a line for each epoch, a table at the end, and where things lie."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from camtrain.packages import is_a
from camtrain.records import History, Verdict
from camtrain.records.formats import Epoch
from camtrain.reliance.remedies import advice_for
from camtrain.report.charts import signed
from camtrain.report.summary import (
    RELIANT,
    EpochSpan,
    alignment_start,
    headline,
    images_held,
    latest_verdicts,
    measures,
    price,
    shown,
    span,
)

CLASSES_SHOWN = 10
NOTHING = "–"

Labeled = tuple[str, str]


def print_summary(history: History, lines: Iterable[Labeled], *, table: bool = True) -> None:
    """The story of a run in a sentence, its table where it is asked for, and labeled lines."""
    console = Console()
    sentence = headline(history) if table else verdict_line(history)
    console.print(sentence, style="bold", soft_wrap=True, highlight=False, markup=False)
    if table:
        console.print(summary_table(history))
        if price(history):
            console.print(price(history), soft_wrap=True, highlight=False, markup=False)
    for label, text in lines:
        console.print(f"{label:<11} {text}", soft_wrap=True, highlight=False, markup=False)


def verdict_line(history: History) -> str:
    """What was found, in a line: of the classes, or, where none was tested, in numbers.

    >>> verdict_line(History(scalars={"val/accuracy": {0: 0.5, 1: 0.75}}))
    'epoch 1: accuracy 75.0 %; no class was tested for what it leans on'
    """
    if history.verdicts or not history.epochs:
        return headline(history)
    epoch = history.epochs[-1]
    values = {name: by_epoch[epoch] for name, by_epoch in history.scalars.items() if epoch in by_epoch}
    return f"{epoch_line(values, epoch)}; no class was tested for what it leans on"


def print_line(line: str, bar: Any = None) -> None:
    """Above the Trainer's progress bar, where there is one."""
    if bar is None:
        Console().print(line, soft_wrap=True, highlight=False, markup=False)
    else:
        bar.print(line)


def epoch_line(values: Mapping[str, float], epoch: Epoch) -> str:
    """An epoch in a line: its accuracies, inside energy, flagged classes, and whether alignment is on.

    >>> epoch_line({"val/accuracy": 0.91, "cam/inside_energy/grad_cam": 0.4, "alignment/weight": 1.0}, epoch=3)
    'epoch 3: accuracy 91.0 %, inside energy 0.40, alignment on'
    """
    history = History(scalars={name: {epoch: value} for name, value in values.items()})
    said: dict[str, str] = {}
    for measure in measures(history):  # of several methods the first
        said.setdefault(measure.label.partition(",")[0].lower(), shown(measure.after, measure.unit))
    parts = [f"{label} {number}" for label, number in said.items()]
    parts += ["alignment on"] * (alignment_start(history) is not None)
    return f"epoch {epoch}: {', '.join(parts) or 'nothing was validated'}"


def summary_table(history: History) -> Table:
    """A run's numbers and verdicts before and after, with its story as the title.

    >>> summary_table(History(scalars={"val/accuracy": {0: 0.5, 1: 0.75}})).row_count
    1
    """
    run = span(history)
    table = Table()
    table.add_column("")
    for name in _columns(run):
        table.add_column(name, justify="right")
    for measure in measures(history):
        before, after = (shown(value, measure.unit) for value in (measure.before, measure.after))
        table.add_row(measure.label, *_known(run, before, after))
    earlier = {row.class_name: row for row in latest_verdicts(history, run.before)}
    now = latest_verdicts(history, run.after)
    for row in now[:CLASSES_SHOWN]:
        table.add_row(row.class_name, *_known(run, _verdict(earlier.get(row.class_name)), _verdict(row)))
    if len(now) > CLASSES_SHOWN:
        table.caption = f"and {len(now) - CLASSES_SHOWN} classes more in the report"
    return table


def advised(history: History, *, undecided: bool = True) -> list[Labeled]:
    """The first choice against each cue that a class is found to lean on, and what would decide what is `undecided`.

    >>> advised(History(verdicts={0: [Verdict(0, "boat", "reliant", 0.4, 0.3, 0.5, 0.0, 0.01, 9)]}))
    [('to correct', "camtrain.callbacks.AttentionAlignment(start_when='reliance/flagged'); the report has the YAML")]
    """
    last = span(history).after
    lines = []
    for advice in advice_for(latest_verdicts(history, last), images_held(history, last)):
        remedy = advice.remedies[0]
        if advice.verdict == RELIANT:
            lines.append(("to correct", f"{remedy.python}; the report has the YAML"))
        elif advice.verdict == "undecided" and undecided:
            lines.append(("to decide", f"{remedy.sentence} {remedy.python}"))
    return lines


def places(
    report: Path, checkpoints: Sequence[Any] = (), loggers: Sequence[Any] = (), *, note: str = ""
) -> list[Labeled]:
    """Where a run's report, checkpoints and Weights & Biases run lie, and how to send an offline run there.

    A note stands behind the report.

    >>> places(Path("/runs/a/report.html"))
    [('report', '/runs/a/report.html')]
    """
    saved = [path for callback in checkpoints if (path := _checkpoint(callback))]
    found = [("report", f"{_short(report)}{note}"), *(("checkpoint", _short(path)) for path in saved)]
    for logger in loggers:
        found += _wandb_places(logger.experiment) if is_a(logger, "WandbLogger") else []
    return found


def _columns(run: EpochSpan) -> Iterable[str]:
    before, after = ("before alignment", "after") if run.aligned else ("first", "last")
    return _known(run, f"{before} (epoch {run.before})", f"{after} (epoch {run.after})")


def _known(run: EpochSpan, before: str, after: str) -> tuple[str, ...]:
    return (after,) if run.before is None else (before, after)


def _verdict(row: Verdict | None) -> str:
    return NOTHING if row is None else f"{row.verdict} ({signed(row.effect)})"


def _checkpoint(callback: Any) -> str:
    """What a `ModelCheckpoint` of either package saved last; others have no such attributes."""
    return str(getattr(callback, "best_model_path", "") or getattr(callback, "last_model_path", ""))


def _wandb_places(run: Any) -> list[Labeled]:
    if run.disabled:
        return []
    if not run.offline:
        return [("W&B run", str(run.url))]
    return [
        ("offline run", _short(run.settings.sync_dir)),
        ("to send it", f"wandb sync {_short(run.settings.sync_dir)}"),
    ]


def _short(path: str | Path) -> str:
    """Relative to the working folder where it lies below it."""
    path = Path(path).absolute()
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
