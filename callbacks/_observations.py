"""What the monitor sees in one pass, and the records that come of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from camtrain.callbacks._diverse import Case, direction, diverse
from camtrain.callbacks._drifting import Drifting, drift_scalars
from camtrain.callbacks._explained import ExplainedBatch
from camtrain.callbacks._kept import (
    Candidates,
    Kept,
    Probes,
    Score,
    Surprise,
    confidently_wrong,
    offer_to_all,
    right_for_the_wrong_reason,
)
from camtrain.callbacks._ledger import Ledger, Table, class_rows, confusion, histograms, joined, remembered
from camtrain.callbacks._pictures import Naming, panels
from camtrain.records import FAILURES, HEATMAPS, Classes, Histograms, Panel, Panels, Record

WRONG, LUCKY, SURPRISE = "confidently wrong", "right for the wrong reason", "surprise"

Gather = Callable[[list[Any]], list[Any]]
TrueHeatmaps = Callable[[Tensor, Tensor], Tensor]  # images and labels to the true classes' heatmaps


@dataclass(frozen=True, eq=False)
class Found:
    """A failure case that one process offers to all."""

    case: Case
    panel: Panel


@dataclass
class Observations:
    """One data set over the passes: its probes, its failures, its numbers."""

    num_probes: int
    num_failures: int
    probes: Probes = field(init=False)
    drifting: Drifting = field(default_factory=Drifting)
    table: Table | None = None
    shown: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.probes = Probes(self.num_probes)
        self._ledger, self._surprise = Ledger(), Surprise()
        scores: dict[str, Score] = {
            WRONG: confidently_wrong,
            LUCKY: right_for_the_wrong_reason,
            SURPRISE: self._surprise,
        }
        self._candidates = [Candidates(reason, self.num_failures, score) for reason, score in scores.items()]

    def reset(self, expected: int | None) -> None:
        """Start a pass over about `expected` images."""
        self._ledger.reset()
        for candidates in self._candidates:
            candidates.reset()
        self.probes.reset(expected)

    def update(self, explained: ExplainedBatch, position: int, *, with_probes: bool) -> None:
        """Add a batch; one process alone keeps the probes."""
        self._ledger.update(explained)
        offer_to_all(self._candidates, explained)
        if with_probes:
            self.probes.update(explained, position)

    def probe_panels(self, naming: Naming) -> list[Panel]:
        """The probes with their drift."""
        kept = self.probes.kept()
        return self.drifting.moved(kept, panels(kept, naming))

    def drift(self, shown: Sequence[Panel]) -> dict[str, float]:
        """The drift of these probes as scalars."""
        return drift_scalars(shown)

    def failure_panels(self, naming: Naming, true_heatmaps: TrueHeatmaps, gather: Gather) -> list[Panel]:
        """The failure cases of all processes, by reason; each sample once, for the first reason that it has."""
        offered: list[list[Found]] = []
        for one in self._candidates:
            taken = {found.panel.sample for earlier in offered for found in earlier}
            offered.append(self._offered(one, taken, naming, true_heatmaps))
        chosen: dict[str, Panel] = {}
        for found in offered:
            unique = list({item.panel.sample: item for item in gather(found)}.values())
            fresh = [item for item in unique if item.panel.sample not in chosen]
            best = diverse([item.case for item in fresh], self.num_failures, self.shown)
            chosen |= {fresh[index].panel.sample: fresh[index].panel for index in best}
        self.shown = set(chosen)
        return list(chosen.values())

    def numbers(self, gather: Gather) -> Table:
        """The rows of all processes; the next pass is compared with them."""
        self.table = joined(gather([self._ledger.table()]))
        self._surprise.earlier = remembered(self.table)
        return self.table

    def state_dict(self) -> dict[str, Any]:
        """Plain values: who the probes are and how they looked, and which failures were shown."""
        return {
            "probes": list(self.probes.samples),
            "drift": self.drifting.state_dict(),
            "shown": sorted(self.shown),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Follow the same images as the run that is resumed."""
        self.probes.samples = list(state["probes"])
        self.drifting.load_state_dict(state["drift"])
        self.shown = set(state["shown"])

    def _offered(
        self, candidates: Candidates, taken: set[str], naming: Naming, true_heatmaps: TrueHeatmaps
    ) -> list[Found]:
        kept = [one for one in candidates.ranked() if one.sample not in taken]
        cases = [_case(one) for one in _on_the_host(kept)]
        chosen = diverse(cases, candidates.count, self.shown)
        best = with_true_heatmaps([kept[index] for index in chosen], true_heatmaps)
        drawn = panels(best, naming, candidates.reason)
        return [Found(cases[index], panel) for index, panel in zip(chosen, drawn, strict=True)]


def records_of(
    table: Table, probes: Sequence[Panel], failed: Sequence[Panel], names: Sequence[str], epoch: int, step: int
) -> list[Record]:
    """The records of one pass: pictures, histograms, classes."""
    records: list[Record] = [
        Panels(HEATMAPS, tuple(probes), epoch, step),
        Panels(FAILURES, tuple(failed), epoch, step),
    ]
    if len(table.samples):
        counts, rows = histograms(table), class_rows(table, names)
        records += [Histograms(counts, epoch, step)] if counts else []
        records += [Classes(rows, confusion(table, names), epoch, step)] if rows else []
    return records


def with_true_heatmaps(kept: Sequence[Kept], true_heatmaps: TrueHeatmaps) -> list[Kept]:
    """The wrong answers with the heatmap for their true class, from one forward pass for each image size."""
    done = list(kept)
    groups: dict[torch.Size, list[int]] = {}
    for row, (one, numbers) in enumerate(zip(kept, _numbers(kept), strict=True)):
        if 0 <= numbers[0] != numbers[1]:
            groups.setdefault(one.image.shape, []).append(row)
    for rows in groups.values():
        images = torch.stack([kept[row].image for row in rows])
        labels = torch.stack([kept[row].numbers[0] for row in rows]).long()
        for row, heat in zip(rows, true_heatmaps(images, labels), strict=True):
            done[row] = replace(kept[row], true_heatmap=heat.float())
    return done


def _numbers(kept: Sequence[Kept]) -> list[list[float]]:
    return torch.stack([one.numbers for one in kept]).cpu().tolist() if kept else []


def _on_the_host(kept: Sequence[Kept]) -> list[Kept]:
    """The first method's heatmaps and the numbers on the CPU, moved together where they are of one size."""
    maps = [next(iter(one.heatmaps.values())) for one in kept]
    together = torch.stack(maps).cpu() if len({heat.shape for heat in maps}) == 1 else [heat.cpu() for heat in maps]
    numbers = torch.stack([one.numbers for one in kept]).cpu() if kept else ()
    return [
        replace(one, heatmaps={"": heat}, numbers=row) for one, heat, row in zip(kept, together, numbers, strict=True)
    ]


def _case(kept: Kept) -> Case:
    label, predicted = kept.numbers[:2].tolist()
    return Case(kept.sample, kept.score, (label, predicted), direction(kept.heatmaps[""].numpy()))
