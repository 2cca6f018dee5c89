"""Every image of a pass as a row of numbers: histograms, classes, confusions, and what changed since the last pass."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from camtrain.metrics import reliability, share_interval
from camtrain.records import CELLS, Calibration, ClassRow, ConfidenceBin

BINS = 20
MOST_PAIRS = 4000
MOST_REMEMBERED = 200_000
GROUNDED = tuple(index for index, cell in enumerate(CELLS) if cell.endswith("/grounded"))

Numbers = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Table:
    """Images by sample and number: `numbers` `(N, len(columns))`, a row for each image."""

    samples: list[str]
    columns: tuple[str, ...]
    numbers: Numbers

    def __getitem__(self, column: str) -> Numbers:
        """A column `(N,)`; any column of no rows is empty."""
        return self.numbers[:, self.columns.index(column)] if len(self.samples) else np.zeros(0, np.float32)

    def starting(self, prefix: str) -> dict[str, Numbers]:
        """The columns whose names start so, by the rest of the name."""
        return {name.removeprefix(prefix): self[name] for name in self.columns if name.startswith(prefix)}


def joined(tables: Sequence[Table]) -> Table:
    """The rows of several processes; a sample that an earlier one saw (a sampler's padding) does not count again."""
    tables = [table for table in tables if table.columns]
    if not tables:
        return Table([], (), np.zeros((0, 0), np.float32))
    samples, numbers, seen = list[str](), [], set[str]()
    for table in tables:
        fresh = [row for row, sample in enumerate(table.samples) if sample not in seen]
        samples += [table.samples[row] for row in fresh]
        numbers.append(table.numbers[fresh])
        seen.update(table.samples)
    return Table(samples, tables[0].columns, np.concatenate(numbers))


def scalars(table: Table, names: Sequence[str]) -> dict[str, float]:
    """Means over the images that have an answer, and the shares of the four cells, by logged name.

    Of heatmaps of these names; NaN where no image has an answer. Without masks only what needs none.

    >>> scalars(Table(["a"], ("empty/grad_cam", "cell"), np.array([[1.0, -1.0]], np.float32)), ["grad_cam"])
    {'cam/empty_maps/grad_cam': 1.0}
    """
    counts = cell_counts(table)
    answered = bool(counts) or any(np.isfinite(values).any() for values in table.starting("inside_energy/").values())
    measures = {"inside_energy": "inside_energy", "pointing_game": "pointing_game"} if answered else {}
    values = {
        f"cam/{logged}/{name}": _mean(table, f"{column}/{name}")
        for name in names
        for logged, column in {**measures, "empty_maps": "empty"}.items()
    }
    if counts:
        values["cam/inside_energy_chance"] = _mean(table, "chance")
        values |= {f"cam/inside_energy_ceiling/{name}": _mean(table, f"ceiling/{name}") for name in names}
    total = np.float32(sum(counts.values()))
    return values | {f"cam/{cell.replace('/', '_')}": float(np.float32(n) / total) for cell, n in counts.items()}


def cell_counts(table: Table) -> dict[str, int]:
    """How many images are in each cell; empty where none is in any."""
    cells = table["cell"].astype(int)
    return {cell: int((cells == index).sum()) for index, cell in enumerate(CELLS)} if (cells >= 0).any() else {}


def _mean(table: Table, column: str) -> float:
    values = table[column][~np.isnan(table[column])]
    return float(np.float32(values.sum(dtype=np.float64) / len(values))) if len(values) else float("nan")


def histograms(table: Table) -> dict[str, list[int]]:
    """Counts of inside energy in `BINS` bins of [0, 1], by logged name; none where no image has an answer.

    >>> table = Table(["a", "b"], ("inside_energy/grad_cam",), np.array([[0.0], [np.nan]], np.float32))
    >>> sum(histograms(table)["cam/inside_energy_histogram/grad_cam"])
    1
    """
    finite = {name: values[np.isfinite(values)] for name, values in table.starting("inside_energy/").items()}
    return {
        f"cam/inside_energy_histogram/{name}": np.histogram(values, BINS, (0.0, 1.0))[0].tolist()
        for name, values in finite.items()
        if len(values)
    }


def class_rows(table: Table, names: Sequence[str], form: str = "choice") -> tuple[ClassRow, ...]:
    """The table by what units are about (the true class), inside energy by the first method; empty without labels.

    Where units are something that is there or not, a row counts also those that were missed and those invented.
    """
    if not len(table.samples):
        return ()
    about = np.where(np.isnan(table["right"]), -1, table["about"]).astype(int)
    return tuple(
        _class_row(table, about == index, _name(names, index), presence=form == "presence")
        for index in np.unique(about[about >= 0]).tolist()
    )


def _class_row(table: Table, chosen: NDArray[np.bool_], name: str, *, presence: bool) -> ClassRow:
    energies = next(iter(table.starting("inside_energy/").values()))[chosen]
    finite, cells = energies[np.isfinite(energies)], table["cell"][chosen].astype(int)
    there, answered = table["label"][chosen] > 0, table["predicted"][chosen] > 0
    shares = table["chance"][chosen][np.isfinite(table["chance"][chosen])]
    return ClassRow(
        class_name=name,
        images=int(chosen.sum()),
        right=int(table["right"][chosen].sum()),
        inside_energy=float(finite.mean()) if len(finite) else float("nan"),
        cells={cell: int((cells == index).sum()) for index, cell in enumerate(CELLS)} if (cells >= 0).any() else {},
        chance=float(shares.mean()) if len(shares) else float("nan"),
        missed=int((there & ~answered).sum()) if presence else None,
        invented=int((answered & ~there).sum()) if presence else None,
    )


def confusion(table: Table, names: Sequence[str]) -> tuple[tuple[str, str, int], ...]:
    """How often each class was taken for each, the most frequent `MOST_PAIRS` pairs; empty without labels."""
    labels, predicted = table["label"].astype(int).tolist(), table["predicted"].astype(int).tolist()
    counts = Counter((true, answer) for true, answer in zip(labels, predicted, strict=True) if true >= 0)
    return tuple((_name(names, t), _name(names, p), count) for (t, p), count in counts.most_common(MOST_PAIRS))


def calibration(table: Table, epoch: int, step: int) -> Calibration | None:
    """What the answers' confidence is worth; None where no image has both a label and a confidence."""
    answered = np.isfinite(table["right"]) & np.isfinite(table["probability"])
    if not answered.any():
        return None
    confidence = torch.from_numpy(table["probability"][answered])
    right = torch.from_numpy(table["right"][answered] > 0)
    bins = reliability(confidence, right)
    share = share_interval(float(right.sum()), len(right))
    edges = np.linspace(0, 1, len(bins.counts) + 1).round(4).tolist()
    columns = (bins.counts.int().tolist(), bins.confidence.tolist(), bins.accuracy.tolist())
    rows = tuple(ConfidenceBin(*row) for row in zip(edges[:-1], edges[1:], *columns, strict=True))
    mean = float(confidence.mean())
    return Calibration(len(right), share.mean, share.low, share.high, mean, bins.error, rows, epoch, step)


def remembered(table: Table) -> dict[str, tuple[float, bool]]:
    """Loss of each sample and whether its answer was grounded, for the next pass; of so many images at most."""
    grounded = np.isin(table["cell"].astype(int), GROUNDED)
    rows = zip(table.samples, table["loss"].tolist(), grounded.tolist(), strict=True)
    return {sample: (loss, on_object) for sample, loss, on_object in list(rows)[:MOST_REMEMBERED]}


def lookup(
    earlier: Mapping[str, tuple[float, bool]], samples: Sequence[str], device: torch.device
) -> tuple[Tensor, Tensor]:
    """The last pass's losses (NaN where unknown) and whether it was grounded, `(B,)` each, on a device."""
    rows = [earlier.get(sample, (float("nan"), False)) for sample in samples]
    values = torch.tensor(rows, dtype=torch.float32).to(device, non_blocking=True).reshape(-1, 2)
    return values[:, 0], values[:, 1] > 0


def _name(names: Sequence[str], index: int) -> str:
    return names[index] if 0 <= index < len(names) else f"class {index}"
