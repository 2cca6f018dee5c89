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
    return f"{value:.{digits}f}".replace("-", "−") if value is not None and isfinite(value) else "–"


def signed(value: float | None, digits: int = 2) -> str:
    """A number with its sign."""
    return f"{value:+.{digits}f}".replace("-", "−") if value is not None and isfinite(value) else "–"


def measured(value: float, unit: str) -> str:
    """A value in its unit."""
    return percent(value, 1) if unit == "share" else number(value, 0 if unit == "count" else 2)


def changed(value: float, unit: str) -> str:
    """A change of a value in its unit."""
    if unit == "share":
        return f"{signed(100 * value, 1)} pts" if isfinite(value) else "–"
    return signed(value, 0 if unit == "count" else 2)


FILTERS: dict[str, Callable[..., Any]] = {
    one.__name__: one for one in (finite, known, percent, number, signed, measured, changed)
}
