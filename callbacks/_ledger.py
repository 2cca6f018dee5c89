"""Every image of a pass as a row of numbers: histograms, classes, confusions, and what changed since the last pass."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from camtrain.callbacks._explained import ExplainedBatch
from camtrain.records import CELLS, ClassRow

BINS = 20
MOST_PAIRS = 4000
MOST_REMEMBERED = 200_000
GROUNDED = tuple(index for index, cell in enumerate(CELLS) if cell.endswith("/grounded"))

Numbers = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Table:
    """Images by sample and number: `numbers` `(N, len(columns))`; each sample is in it once."""

    samples: list[str]
    columns: tuple[str, ...]
    numbers: Numbers

    def __getitem__(self, column: str) -> Numbers:
        return self.numbers[:, self.columns.index(column)]

    def starting(self, prefix: str) -> dict[str, Numbers]:
        """The columns whose names start so, by the rest of the name."""
        return {name.removeprefix(prefix): self[name] for name in self.columns if name.startswith(prefix)}


@dataclass
class Ledger:
    """Collects the rows on the device, and brings them to the host once, at the end of the pass."""

    _samples: list[str] = field(default_factory=list)
    _numbers: list[Tensor] = field(default_factory=list)
    _columns: tuple[str, ...] = ()

    def reset(self) -> None:
        """Start a new pass."""
        self._samples, self._numbers = [], []

    def update(self, explained: ExplainedBatch) -> None:
        """Add a batch."""
        self._samples += explained.samples
        self._numbers.append(explained.numbers)
        self._columns = explained.columns

    def table(self) -> Table:
        """The rows so far."""
        numbers = torch.cat(self._numbers) if self._numbers else torch.zeros(0, len(self._columns))
        return Table(self._samples, self._columns, numbers.cpu().numpy())


def joined(tables: Sequence[Table]) -> Table:
    """The rows of several processes; a sample that two of them saw (a sampler's padding) counts once."""
    samples = [sample for table in tables for sample in table.samples]
    columns = next((table.columns for table in tables if table.columns), ())
    first = sorted({sample: row for row, sample in reversed(list(enumerate(samples)))}.values())
    numbers = np.concatenate([table.numbers for table in tables if table.columns] or [np.zeros((0, 0), np.float32)])
    return Table([samples[row] for row in first], columns, numbers[first])


def histograms(table: Table) -> dict[str, list[int]]:
    """Counts of inside energy in `BINS` bins of [0, 1], by logged name; none where no image has an answer.

    >>> table = Table(["a", "b"], ("inside_energy/grad_cam",), np.array([[0.0], [np.nan]], np.float32))
    >>> sum(histograms(table)["cam/inside_energy_histogram/grad_cam"])
    1
    """
    known = {name: values[np.isfinite(values)] for name, values in table.starting("inside_energy/").items()}
    return {
        f"cam/inside_energy_histogram/{name}": np.histogram(values, BINS, (0.0, 1.0))[0].tolist()
        for name, values in known.items()
        if len(values)
    }


def class_rows(table: Table, names: Sequence[str]) -> tuple[ClassRow, ...]:
    """The table by true class, inside energy by the first method; empty without labels."""
    labels = table["label"].astype(int)
    return tuple(
        _class_row(table, labels == label, _name(names, label)) for label in np.unique(labels[labels >= 0]).tolist()
    )


def _class_row(table: Table, chosen: NDArray[np.bool_], name: str) -> ClassRow:
    energies = next(iter(table.starting("inside_energy/").values()))[chosen]
    known, cells = energies[np.isfinite(energies)], table["cell"][chosen].astype(int)
    right = table["label"][chosen] == table["predicted"][chosen]
    return ClassRow(
        class_name=name,
        images=int(chosen.sum()),
        right=int(right.sum()),
        inside_energy=float(known.mean()) if len(known) else float("nan"),
        cells={cell: int((cells == index).sum()) for index, cell in enumerate(CELLS)} if (cells >= 0).any() else {},
    )


def confusion(table: Table, names: Sequence[str]) -> tuple[tuple[str, str, int], ...]:
    """How often each class was taken for each, the most frequent `MOST_PAIRS` pairs; empty without labels."""
    labels, predicted = table["label"].astype(int).tolist(), table["predicted"].astype(int).tolist()
    counts = Counter((true, said) for true, said in zip(labels, predicted, strict=True) if true >= 0)
    return tuple((_name(names, t), _name(names, p), count) for (t, p), count in counts.most_common(MOST_PAIRS))


def remembered(table: Table) -> dict[str, tuple[float, bool]]:
    """Loss of each sample and whether its answer was grounded, for the next pass; of so many images at most."""
    grounded = np.isin(table["cell"].astype(int), GROUNDED)
    rows = zip(table.samples, table["loss"].tolist(), grounded.tolist(), strict=True)
    return {sample: (loss, known) for sample, loss, known in list(rows)[:MOST_REMEMBERED]}


def lookup(
    earlier: Mapping[str, tuple[float, bool]], samples: Sequence[str], device: torch.device
) -> tuple[Tensor, Tensor]:
    """The last pass's losses (NaN where unknown) and whether it was grounded, `(B,)` each, on a device."""
    rows = [earlier.get(sample, (float("nan"), False)) for sample in samples]
    found = torch.tensor(rows, dtype=torch.float32).to(device, non_blocking=True).reshape(-1, 2)
    return found[:, 0], found[:, 1] > 0


def _name(names: Sequence[str], index: int) -> str:
    return names[index] if 0 <= index < len(names) else f"class {index}"
