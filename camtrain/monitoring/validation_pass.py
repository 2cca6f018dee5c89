"""What is seen in one pass over held-out images, and the records that come of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from camtrain.monitoring.drift import Traces
from camtrain.monitoring.explainer import Explainer
from camtrain.monitoring.gallery import Tile, Tiles, gallery
from camtrain.monitoring.panels import MaskLook, Naming, panels
from camtrain.monitoring.selection import (
    Candidates,
    Case,
    Kept,
    Probes,
    Score,
    Surprise,
    badly_outlined,
    confidently_wrong,
    direction,
    diverse,
    far_off,
    invented,
    missed,
    offer_to_all,
    right_for_the_wrong_reason,
)
from camtrain.monitoring.table import (
    Explained,
    Table,
    calibration,
    cell_counts,
    class_rows,
    confusion,
    histograms,
    remembered,
)
from camtrain.records import FAILURES, HEATMAPS, Classes, FourCells, Histograms, Panel, Panels, Record

LUCKY, SURPRISE = "right for the wrong reason", "surprise"
# What a wrong answer is, by the form of the task's answers.
WRONG: dict[str, dict[str, Score]] = {
    "choice": {"confidently wrong": confidently_wrong},
    "presence": {"missed": missed, "invented": invented, "badly outlined": badly_outlined},
    "value": {"far off": far_off},
}


@dataclass
class Followed:
    """What is followed from pass to pass over one data set.

    `probes` are fixed images, and `traces` how they looked; `shown` the failure cases of the last pass; `earlier` the
    loss of each image then, and whether its evidence lay on the object.
    """

    probes: list[str] = field(default_factory=list)
    traces: Traces = field(default_factory=Traces)
    shown: set[str] = field(default_factory=set)
    earlier: dict[str, tuple[float, bool]] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        """Plain values: who the probes are and how they looked, and which failures were shown."""
        return {"probes": list(self.probes), "drift": self.traces.state_dict(), "shown": sorted(self.shown)}

    @classmethod
    def restored(cls, state: dict[str, Any]) -> "Followed":
        """From a checkpoint: the same images as the run that is resumed."""
        return cls(list(state["probes"]), Traces.restored(state["drift"]), set(state["shown"]))


@dataclass(frozen=True, eq=False)
class Offer:
    """A failure case that one process offers to all."""

    case: Case
    panel: Panel


class ValidationPass:
    """One pass: its rows of numbers, its probes, its candidates for failure cases.

    Args:
        followed: what earlier passes over the same data left.
        num_probes: how many images to follow; 0 in all processes but one.
        num_failures: how many failure cases of each kind to show.
        expected: about how many images there will be; None where that is not known.
        tiles: collects a small picture of every image, if given.
        masks: looks at the masks, if given.
    """

    def __init__(
        self,
        followed: Followed,
        *,
        num_probes: int,
        num_failures: int,
        expected: int | None,
        tiles: Tiles | None = None,
        masks: MaskLook | None = None,
    ) -> None:
        self.followed, self.num_failures, self.tiles, self.masks = followed, num_failures, tiles, masks
        self.images = 0
        self._samples: list[str] = []
        self._columns: tuple[str, ...] = ()
        self._numbers: list[Tensor] = []
        self._probes = Probes(followed.probes, num_probes, expected)
        self._candidates: list[Candidates] = []  # known by the first batch: it says what the task is
        self.form = "choice"

    def update(self, rounds: Sequence[Explained], samples: Sequence[str]) -> None:
        """Add a batch of images of these names. Its numbers stay on their device until the end of the pass."""
        self._probes.choose(samples, self.images)
        self.images += len(samples)
        if self.masks is not None and rounds:
            self.masks.update(rounds[0].batch, samples)
        for explained in rounds:
            if not self._candidates:
                self.form, self._candidates = explained.form, self._kinds(explained.form)
            self._samples += explained.samples
            self._columns = explained.columns
            self._numbers.append(explained.numbers)
            offer_to_all(self._candidates, explained)
            self._probes.update(explained)
            if self.tiles is not None:
                self.tiles.update(explained, self.images - len(samples))

    def _kinds(self, form: str) -> list[Candidates]:
        scores = WRONG[form] | {LUCKY: right_for_the_wrong_reason, SURPRISE: Surprise(self.followed.earlier)}
        return [Candidates(reason, self.num_failures, score) for reason, score in scores.items()]

    def table(self) -> Table:
        """The rows of this process."""
        if not self._numbers:
            return Table([], (), np.zeros((0, 0), np.float32))
        return Table(self._samples, self._columns, torch.cat(self._numbers).cpu().numpy())

    def offers(self, explainer: Explainer, naming: Naming) -> list[list[Offer]]:
        """This process's failure cases, by reason: each sample for the first reason that it has."""
        offers: list[list[Offer]] = []
        for candidates in self._candidates:
            taken = {offer.panel.sample for earlier in offers for offer in earlier}
            kept = [item for item in candidates.ranked() if item.sample not in taken]
            cases = [_case(item) for item in _on_the_host(kept)]
            chosen = diverse(cases, self.num_failures, self.followed.shown)
            best = [kept[index] for index in chosen]
            best = with_true_heatmaps(best, explainer) if explainer.tells_truth else best
            drawn = panels(best, naming, candidates.reason)
            offers.append([Offer(cases[index], panel) for index, panel in zip(chosen, drawn, strict=True)])
        return offers

    def failures(self, offers: Sequence[list[list[Offer]]]) -> list[Panel]:
        """The failure cases to show, of what all processes offer; the next pass remembers them."""
        chosen: dict[str, Panel] = {}
        for kind in range(max(map(len, offers), default=0)):
            of_kind = {offer.panel.sample: offer for each in offers if each for offer in each[kind]}
            fresh = [offer for sample, offer in of_kind.items() if sample not in chosen]
            best = diverse([offer.case for offer in fresh], self.num_failures, self.followed.shown)
            chosen |= {fresh[index].panel.sample: fresh[index].panel for index in best}
        self.followed.shown = set(chosen)
        return list(chosen.values())

    def probe_panels(self, naming: Naming) -> list[Panel]:
        """The probes with how they moved; the next pass remembers their heatmaps."""
        kept = self._probes.kept()
        heats = [next(iter(item.heatmaps.values())).cpu().numpy() for item in kept]
        drawn = panels(kept, naming)
        return [self.followed.traces.moved(panel, heat) for panel, heat in zip(drawn, heats, strict=True)]

    def remember(self, table: Table) -> None:
        """Compare the next pass with this one, of which these are the rows of all processes."""
        self.followed.earlier = remembered(table)


def records_of(
    table: Table,
    probes: Sequence[Panel],
    failures: Sequence[Panel],
    tiles: Mapping[str, Tile],
    naming: Naming,
    epoch: int,
    step: int,
    form: str = "choice",
) -> list[Record]:
    """The records of one pass: pictures, histograms, classes, cells, calibration."""
    names = naming.classes
    records: list[Record] = [
        Panels(HEATMAPS, tuple(probes), epoch, step),
        Panels(FAILURES, tuple(failures), epoch, step),
    ]
    if len(table.samples):
        counts, rows, cells = histograms(table), class_rows(table, names, form), cell_counts(table)
        answers = calibration(table, epoch, step) if form == "choice" else None
        records += [gallery(table, tiles, naming, epoch, step, form)] if tiles else []
        records += [answers] if answers is not None else []
        records += [Histograms(counts, epoch, step)] if counts else []
        mistaken = confusion(table, names) if form == "choice" else ()
        records += [Classes(rows, mistaken, epoch, step)] if rows else []
        records += [FourCells(cells, epoch, step)] if cells else []
    return records


def with_true_heatmaps(kept: Sequence[Kept], explainer: Explainer) -> list[Kept]:
    """The wrong answers with the heatmap for their true class, from one forward pass for each image size."""
    done = list(kept)
    numbers = torch.stack([item.numbers for item in kept]).cpu().tolist() if kept else []
    groups: dict[torch.Size, list[int]] = {}
    given = {row: tensor for row, item in enumerate(kept) if (tensor := item.given) is not None}
    for row, (label, predicted, *_) in enumerate(numbers):
        if 0 <= label != predicted and row in given:
            groups.setdefault(given[row].shape, []).append(row)
    for rows in groups.values():
        inputs = torch.stack([given[row] for row in rows])
        labels = torch.stack([kept[row].numbers[0] for row in rows]).long()
        for row, heat in zip(rows, explainer.true_heatmaps(inputs, labels), strict=True):
            done[row] = replace(kept[row], true_heatmap=heat.float())
    return done


def _on_the_host(kept: Sequence[Kept]) -> list[Kept]:
    """The first method's heatmaps and the numbers on the CPU, moved together where they are of one size."""
    maps = [next(iter(item.heatmaps.values())) for item in kept]
    together = torch.stack(maps).cpu() if len({heat.shape for heat in maps}) == 1 else [heat.cpu() for heat in maps]
    numbers = torch.stack([item.numbers for item in kept]).cpu() if kept else ()
    return [
        replace(item, heatmaps={"": heat}, numbers=row) for item, heat, row in zip(kept, together, numbers, strict=True)
    ]


def _case(kept: Kept) -> Case:
    label, predicted = kept.numbers[:2].tolist()
    classes = (label, predicted, float(kept.numbers[kept.columns.index("about")]))
    return Case(
        kept.sample,
        kept.score,
        classes if kept.form == "presence" else classes[:2],
        direction(kept.heatmaps[""].numpy()),
    )
