"""Runs that survive: each finished one is in the file at once and is not run again; what to make of several."""

import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from _report import write_json

CANDIDATES = (0.01, 0.1, 1.0, 10.0, 100.0)  # for a weight that is tuned

Run = dict[str, Any]
Setting = Mapping[str, Any]


class Ledger:
    """Finished runs, each with its setting, kept in a JSON file beside what `describe` makes of them.

    A run is not repeated while its setting is the same in every entry; `describe(runs)` gives the file's other keys.
    """

    def __init__(self, file: Path | None, describe: Callable[[list[Run]], Mapping[str, Any]]) -> None:
        self.file, self.describe = file, describe
        self.runs: list[Run] = []
        if file is not None and file.exists():
            self.runs = json.loads(file.read_text()).get("runs", [])

    def find(self, setting: Setting) -> Run | None:
        """The finished run of this setting."""
        return next((run for run in self.runs if run["setting"] == dict(setting)), None)

    def once(self, setting: Setting, run: Callable[[], Mapping[str, Any]]) -> Run:
        """What the run gives: what it gave before, or now."""
        found = self.find(setting)
        if found is None:
            start = time.perf_counter()
            found = {"setting": dict(setting), **run(), "seconds": time.perf_counter() - start}
            self.runs.append(found)
            self.save()
        return found

    def save(self) -> None:
        """Write the file, whole or not at all."""
        if self.file is not None:
            write_json(self.file, {**self.describe(self.runs), "runs": self.runs})


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean and the sample standard deviation, which a single value does not have.

    >>> mean_and_deviation([1.0, 3.0])
    (2.0, 1.4142135623730951)
    """
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def largest_as_good(accuracies: Mapping[float, float], images: int) -> float:
    """The largest weight whose accuracy in %, on so many images, is within one standard error of the best.

    >>> largest_as_good({0.1: 80.0, 1.0: 90.0, 10.0: 88.0, 100.0: 70.0}, images=100)
    10.0
    """
    best = max(accuracies.values())
    error = 100 * math.sqrt(best / 100 * (1 - best / 100) / images)
    return max(weight for weight, accuracy in accuracies.items() if accuracy >= best - error)
