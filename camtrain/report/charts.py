"""Numbers as a page shows them, and curves as SVG that takes its colors from the page around it."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from math import isfinite
from typing import TYPE_CHECKING, Any, Literal

from camtrain.records.formats import Epoch

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Unit = Literal["share", "ratio", "count", "value"]  # percent; 0 to 1; whole numbers; anything

# Matplotlib knows colors, not CSS: these stand in for the page's and are replaced in the finished SVG.
_INK, _GRID, _ACCENT = "#010101", "#010102", "#010103"
_COLORS = {_INK: "currentColor", _GRID: "var(--line)", _ACCENT: "var(--accent)"}
_SERIES = [f"#0102{index:02x}" for index in range(6)]
_DASHES = ["-", "--", ":", "-.", (0, (6, 1)), (0, (1, 1))]
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.spines.top": False,
}
_STYLE |= {"axes.spines.right": False, "axes.spines.left": False, "path.simplify": True}
_SIZE = (5.4, 2.3)  # inches of 72 points, which become CSS pixels
MOST_TICKS = 10


@dataclass(frozen=True)
class Series:
    """One curve: its name, its CSS color (a variable of the page), its value by epoch, and perhaps an interval."""

    name: str
    color: str
    values: Mapping[Epoch, float]
    intervals: Mapping[Epoch, tuple[float, float]] = field(default_factory=dict)

    @property
    def latest(self) -> float:
        """The last finite value; NaN where there is none."""
        finite = [value for value in self.values.values() if isfinite(value)]
        return finite[-1] if finite else float("nan")


@dataclass(frozen=True)
class Band:
    """A mean curve with its band over fractions in [0, 1]: its name, its CSS color, its values."""

    name: str
    color: str
    at: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def line_chart(
    series: Sequence[Series], *, unit: Unit = "value", start: Epoch | None = None, epochs: Sequence[Epoch] = ()
) -> str:
    """The curves over epochs as inline SVG; `start` marks the epoch at which alignment began.

    Gaps and NaN break no curve; a single epoch is a point. Intervals are bands, or bars where there is one epoch.
    With `epochs` the axis spans all of these, so that charts can be read one below the other.

    >>> line_chart([Series("a", "red", {0: 0.1, 1: 0.9})]).startswith("<svg")
    True
    """

    def draw(axes: "Axes") -> None:
        for index, one in enumerate(series):
            known = [(epoch, value) for epoch, value in one.values.items() if isfinite(value)]
            axes.plot(*zip(*known, strict=True) if known else ([], []), **_line_style(index, len(known)))
            _draw_intervals(axes, one, index)
        _mark(axes, start)
        _format(axes, unit, epochs or sorted({epoch for one in series for epoch in one.values}))

    return _svg(draw, {_SERIES[index]: one.color for index, one in enumerate(series)})


def area_chart(series: Sequence[Series], *, start: Epoch | None = None) -> str:
    """Shares that add up to one, stacked over epochs (first at the bottom), as inline SVG.

    >>> area_chart([Series("a", "red", {0: 0.5, 1: 0.5}), Series("b", "blue", {0: 0.5, 1: 0.5})])[:4]
    '<svg'
    """
    epochs = sorted({epoch for one in series for epoch in one.values})

    def draw(axes: "Axes") -> None:
        wide = epochs if len(epochs) > 1 else [epoch + shift for epoch in epochs for shift in (-0.4, 0.4)]
        at = epochs if len(epochs) > 1 else [epoch for epoch in epochs for _ in range(2)]
        stacks = [[one.values.get(epoch, 0.0) for epoch in at] for one in series]
        stacks = [[value if isfinite(value) else 0.0 for value in stack] for stack in stacks]
        axes.stackplot(wide, stacks, colors=_SERIES[: len(series)], linewidth=0)
        axes.set_ylim(0, 1)
        _mark(axes, start)
        _format(axes, "share", epochs)

    return _svg(draw, {_SERIES[index]: one.color for index, one in enumerate(series)})


def band_chart(bands: Sequence[Band]) -> str:
    """Confidences in [0, 1] over the share of pixels, each curve in its band, as inline SVG.

    >>> band_chart([Band("a", "red", [0.0, 1.0], [0.2, 0.8], [0.1, 0.7], [0.3, 0.9])])[:4]
    '<svg'
    """

    def draw(axes: "Axes") -> None:
        from matplotlib.ticker import MultipleLocator, PercentFormatter

        for index, one in enumerate(bands):
            axes.fill_between(one.at, one.low, one.high, color=_SERIES[index], alpha=0.16, linewidth=0)
            axes.plot(one.at, one.mean, **_line_style(index, len(one.at)) | {"marker": ""})
        _format_values(axes, "ratio")
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_locator(MultipleLocator(0.25))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        axes.set_xlabel("pixels changed", color=_INK, fontsize=9)
        _dress(axes)

    return _svg(draw, {_SERIES[index]: one.color for index, one in enumerate(bands)})


def reliability_chart(bins: Sequence[Mapping[str, Any]]) -> str:
    """Accuracy over confidence as bars, as wide as their bin, against the diagonal, as inline SVG.

    >>> reliability_chart([{"low": 0.0, "high": 1.0, "images": 4, "confidence": 0.9, "accuracy": 0.5}])[:4]
    '<svg'
    """
    held = [one for one in bins if one["images"]]

    def draw(axes: "Axes") -> None:
        from matplotlib.ticker import MultipleLocator, PercentFormatter

        edges, widths = [one["low"] for one in held], [one["high"] - one["low"] for one in held]
        heights, most = [one["accuracy"] for one in held], max(one["images"] for one in held)
        for edge, width, height, one in zip(edges, widths, heights, held, strict=True):
            shade = 0.25 + 0.6 * one["images"] / most  # the fuller a bin, the darker
            axes.bar(edge, height, width * 0.94, align="edge", color=_SERIES[0], alpha=shade, linewidth=0)
        axes.plot([0, 1], [0, 1], color=_INK, linewidth=1, linestyle=(0, (3, 3)))
        axes.plot(
            [one["confidence"] for one in held], heights, "o", color=_SERIES[1], markersize=4.5, markeredgewidth=0
        )
        _format_values(axes, "share")
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_locator(MultipleLocator(0.25))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        axes.set_xlabel("confidence", color=_INK, fontsize=9)
        axes.set_ylabel("right", color=_INK, fontsize=9)
        _dress(axes)

    return _svg(draw, {_SERIES[0]: "var(--series-0)", _SERIES[1]: "var(--series-1)"}) if held else ""


def _line_style(index: int, points: int) -> dict[str, Any]:
    style = {"color": _SERIES[index], "linestyle": _DASHES[index], "linewidth": 2, "solid_capstyle": "round"}
    return style | {"marker": "o", "markersize": 4.5 if points < 3 else 2.6, "markeredgewidth": 0}


def _draw_intervals(axes: "Axes", one: Series, index: int) -> None:
    known = {epoch: ends for epoch, ends in one.intervals.items() if all(map(isfinite, ends))}
    if not known:
        return
    lows, highs = zip(*known.values(), strict=True)
    if len(known) > 1:
        axes.fill_between(list(known), lows, highs, color=_SERIES[index], alpha=0.13, linewidth=0)
    else:
        axes.vlines(list(known), lows, highs, color=_SERIES[index], alpha=0.5, linewidth=2)


def _mark(axes: "Axes", start: Epoch | None) -> None:
    if start is not None:
        axes.axvline(start - 0.5, color=_ACCENT, linewidth=1.2, linestyle=(0, (3, 3)))
        axes.text(start - 0.45, 1.01, "alignment", color=_ACCENT, transform=axes.get_xaxis_transform(), fontsize=8.5)


def _format(axes: "Axes", unit: Unit, epochs: Sequence[Epoch]) -> None:
    _format_values(axes, unit)
    _format_epochs(axes, epochs)
    _dress(axes)


def _dress(axes: "Axes") -> None:
    axes.grid(axis="y", color=_GRID, linewidth=1)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, length=0, pad=5)
    axes.spines["bottom"].set_color(_GRID)


def _format_epochs(axes: "Axes", epochs: Sequence[Epoch]) -> None:
    from matplotlib.ticker import FixedLocator, MaxNLocator

    few = len(epochs) <= MOST_TICKS
    whole = [epoch for epoch in epochs if epoch == int(epoch)]  # passes within an epoch lie before it
    axes.xaxis.set_major_locator(FixedLocator(whole) if few else MaxNLocator(integer=True, nbins=8))
    if epochs:
        margin = max(0.4, 0.03 * (epochs[-1] - epochs[0]))
        axes.set_xlim(epochs[0] - margin, epochs[-1] + margin)
    axes.set_xlabel("epoch", color=_INK, fontsize=9)


def _format_values(axes: "Axes", unit: Unit) -> None:
    from matplotlib.ticker import MaxNLocator, MultipleLocator, PercentFormatter

    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=unit == "count"))
    if unit in ("share", "ratio"):
        axes.set_ylim(-0.01, 1.01)
        axes.yaxis.set_major_locator(MultipleLocator(0.25))
    elif axes.get_ylim()[0] > 0:
        axes.set_ylim(bottom=0)
    if unit == "share":
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))


def _svg(draw: Any, colors: Mapping[str, str]) -> str:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        draw(figure.add_subplot())
        buffer = StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _for_the_page(buffer.getvalue(), {**_COLORS, **colors})


def _for_the_page(svg: str, colors: Mapping[str, str]) -> str:
    """The bare element: no prolog, no metadata, no fixed size, and the page's colors."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg))
    svg = re.sub(r'\sxmlns(:xlink)?="[^"]*"| version="1.1"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'\sid="(figure|axes|patch|line2d|matplotlib\.axis|xtick|ytick|text|FillBetween\w*)_\d+"', "", svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    for stand_in, color in colors.items():
        svg = svg.replace(stand_in, color)
    return svg


def finite(values: Mapping[str, float | None]) -> list[float]:
    """The numbers among the values."""
    return [value for value in values.values() if value is not None and isfinite(value)]


def known(values: Sequence[float]) -> bool:
    """Is any of the values a number."""
    return any(map(isfinite, values))


def percent(value: float | None, digits: int = 0) -> str:
    """A share in percent, a dash for none."""
    if value is None or not isfinite(value):
        return "–"
    return f"{100 * value:.{digits}f} %".replace("-", "−")


def number(value: float | None, digits: int = 2) -> str:
    """A number with a true minus sign, a dash for none."""
    if value is None or not isfinite(value):
        return "–"
    text = f"{value:.{digits}f}"
    return (text if float(text) else text.removeprefix("-")).replace("-", "−")


def signed(value: float | None, digits: int = 2) -> str:
    """A number with its sign, which zero has none of.

    >>> signed(0.251), signed(-0.251), signed(-0.001)
    ('+0.25', '−0.25', '0.00')
    """
    if value is None or not isfinite(value):
        return "–"
    text = f"{value:+.{digits}f}"
    return (text if float(text) else text[1:]).replace("-", "−")


def thousands(count: int) -> str:
    """A count with its thousands set apart.

    >>> thousands(12345)
    '12,345'
    """
    return f"{count:,}"


def likeness(correlation: float) -> str:
    """A rank correlation with an earlier heatmap in words.

    >>> likeness(0.97), likeness(0.5), likeness(-0.3)
    ('as before', 'shifted', 'elsewhere')
    """
    words = {0.9: "as before", 0.6: "much as before", 0.3: "shifted"}
    return next((text for least, text in words.items() if correlation >= least), "elsewhere")


def measured(value: float, unit: str) -> str:
    """A value in its unit."""
    return percent(value, 1) if unit == "share" else number(value, 0 if unit == "count" else 2)


def changed(value: float, unit: str) -> str:
    """A change of a value in its unit."""
    if unit == "share":
        return f"{signed(100 * value, 1)} pts" if isfinite(value) else "–"
    return signed(value, 0 if unit == "count" else 2)


FILTERS: dict[str, Callable[..., Any]] = {
    one.__name__: one for one in (finite, known, percent, number, signed, measured, changed, thousands, likeness)
}
