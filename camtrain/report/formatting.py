"""Numbers as a page shows them: filters for its template."""

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any


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
