"""How often does the detector find a shortcut, and how often does it cry wolf?

    python benchmarks/reliance.py --quick
    python benchmarks/reliance.py --seeds 3 --json reliance.json

A zoo of networks is trained on data with a planted cue (`camtrain.data.Canary`): eight kinds, for all classes or for a
quarter of them, at strengths from 0.7 to 1; and on controls: without a cue, with one that has nothing to do with the
label, with objects that fill the frame, or with the mark of a class on its objects, which is theirs. The data are eight
garments on painted canvases and four kinds of real objects cut out in front of real skies, neither with a cue of its
own. Two networks for each: for garments two small ones, for photographs a small one from scratch and a MobileNetV2 from
pretrained weights.

The generator knows the truth: on test images a class's cue, in place of a random one, earns the class some accuracy
on its own images (cost) and wins it some of the others (win). A class is reliant if either is at least 5 points, not
reliant if both are at most 1 point; classes in between count for neither. A unit is one class of one network.

The detector sees validation images with the training correlation, and of the objects exact masks, none (it guesses
them), or sloppy ones: boxes, eroded or dilated by two pixels, a fifth of them missing. `found` is power, `false alarms`
the share of not reliant classes called reliant, both with Wilson's 95 % interval; `cue named` how often the right
kind was named. AUROC compares the detector's score, the largest distance of an effect from tau in standard errors,
with the share of the heatmap (Grad-CAM of the label) outside the object, and with the plain loss of probability on
other classes' backgrounds. Without masks `suspect` counts for nothing but its own column, and a class of which no
image could be guessed is undecided. Stickers lie at random places, and without masks have a power of their own in the
summary.

For a class that is flagged, the detector also says where its cue lies. A watermark is hit where it is said to stay in a
window whose middle lies in the planted region, grown by half a window; a patch in a random corner and a sticker where
they are said to move, and four fifths of the windows lie so in their own images. Beside it `mean heatmap`: whether the
hottest pixel of the class's mean Grad-CAM lies so (of patches, in any corner). Of the images `searched`, `images hit`
counts those whose hottest window, `heatmaps` those whose hottest pixel lies so. Runs of an older file, which did not
ask for the place, are not in that table.

`--seeds` makes new zoos. Every finished specimen is in the `--json` file at once, and a rerun skips it.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _report import environment, parser, report
from _runs import Ledger, Run
from _zoo_bases import BASES, Scenes, class_names
from _zoo_masks import MASKS, pool_with
from _zoo_places import located, summarize_places, tabulate_places
from _zoo_specimens import Specimen, Trained, is_reliant, plan, raise_specimen
from _zoo_table import summarize, tabulate, units_of
from rich.progress import Progress

from camtrain import explain
from camtrain.cam import true_class
from camtrain.metrics import inside_energy
from camtrain.reliance import (
    FRAME,
    NEAR_OBJECT,
    STICKER,
    Criteria,
    ExaminationPlan,
    Findings,
    Verdict,
    examine,
    placement,
    screen,
)

Case = tuple[int, str]  # how many images a class, which masks


def examined(specimen: Specimen, cases: Sequence[Case], root: Path, device: str) -> dict[Case, dict[str, Any]]:
    """One network in several cases: the truth and what each detector says, by class."""
    start = time.perf_counter()
    trained = raise_specimen(specimen, root, device)
    seconds = time.perf_counter() - start
    return {case: judged(trained, specimen, *case, device) | {"training_seconds": seconds} for case in cases}


def judged(trained: Trained, specimen: Specimen, count: int, masks: str, device: str) -> dict[str, Any]:
    """The units of one network."""
    start = time.perf_counter()
    scenes = first_of_each(trained.validation, count)
    pool = pool_with(scenes, masks, device, specimen.number)
    names, criteria = class_names(specimen.base), Criteria()
    classes = range(trained.validation.classes)
    plan = ExaminationPlan(device=device, seed=specimen.seed, guessed=masks == "none")
    with torch.no_grad():
        findings = examine(trained.predict, pool, names, classes, criteria=criteria, plan=plan)
    seconds = time.perf_counter() - start
    scores = scores_of(findings, classes, criteria)
    heat = torch.cat([heatmaps(trained, scenes.of(rows), device) for rows in torch.arange(len(scenes)).split(100)])
    energy = outside_energy(heat, scenes) if masks == "exact" else None
    said = {one.class_index: one for one in findings.verdicts}
    flagged = {c: one for c, one in said.items() if one.verdict in ("reliant", "suspect")}
    where = {
        c: located(trained.predict, findings, one, pool, specimen, scenes, heat, device) for c, one in flagged.items()
    }
    units = [
        {
            "class": names[c],
            **trained.truth[c],
            "reliant": is_reliant(trained.truth[c]),
            "score": scores.get(c, -1e9),
            **(spoken(said[c], findings) if c in said else {"verdict": "undecided", "images": 0}),
            **({} if energy is None else {"energy": energy[c]}),
            **where.get(c, {}),
        }
        for c in classes
    ]
    return {"accuracy": trained.accuracy, "units": units, "detection_seconds": seconds}


def spoken(verdict: Verdict, findings: Findings) -> dict[str, Any]:
    """What a verdict says."""
    names = ("verdict", "cue", "effect", "note", "images")
    return {name: getattr(verdict, name) for name in names} | {"drop": raw_drop(findings, verdict.class_index)}


def first_of_each(data: Scenes, count: int) -> Scenes:
    """So many images of every class."""
    rows = [(data.labels == c).nonzero().flatten()[:count] for c in range(data.classes)]
    return data.of(torch.cat(rows))


def scores_of(findings: Findings, classes: Sequence[int], criteria: Criteria) -> dict[int, float]:
    """The largest distance from tau in standard errors, over the cues and tests that can make a class reliant."""
    found: dict[int, float] = {}
    effects = [found for cue, found in findings.effects.items() if cue not in (NEAR_OBJECT, FRAME)]
    for one in screen(effects, classes, criteria, generator=torch.Generator().manual_seed(0)):
        if one.cue == STICKER and not placement(findings.effects[STICKER], one.class_index).convinces(criteria):
            continue
        distance = (one.effect - criteria.tau) / max(one.error, 1e-6)
        found[one.class_index] = max(found.get(one.class_index, -1e9), distance)
    return found


def raw_drop(findings: Findings, class_index: int) -> float:
    """What a class loses on other classes' backgrounds, without a placebo."""
    effects = findings.effects["background"]
    rows = effects.labels == class_index
    return float((effects.before[rows, :1] - effects.after[rows, 1:, 0]).nanmean())


def outside_energy(heat: torch.Tensor, pool: Scenes) -> list[float]:
    """The mean share of the heatmaps outside the object, by class."""
    shares = 1 - inside_energy(heat, pool.masks)
    return [float(shares[pool.labels == c].nanmean().nan_to_num(0.0)) for c in range(pool.classes)]


def heatmaps(trained: Trained, part: Scenes, device: str) -> torch.Tensor:
    """Grad-CAM of the label."""
    labels = part.labels.to(device)
    found = explain(trained.network, part.images.to(device), methods="grad_cam", target=true_class, labels=labels)
    return found.heatmaps["grad_cam"].cpu()


def main() -> None:
    options = arguments()
    planned = [one for seed in range(options.first_seed, options.first_seed + options.seeds) for one in plan(seed)]
    planned = [one for one in planned if one.base in options.bases and one.kind in (options.kinds or [one.kind])]
    if options.quick:
        planned = [one for one in planned if one.base == "fashion" and one.network == "small"][:4]
    cases = [(count, masks) for masks in options.masks for count in options.images]
    settings = [setting_of(one, case) for one in planned for case in cases]

    def contents(runs: list[Run]) -> dict[str, Any]:
        mine = [one for one in runs if one["setting"] in settings]
        rows: list[dict[str, Any]] = []
        places: list[dict[str, Any]] = []
        summary: dict[str, Any] = {}
        for count, masks in cases:
            units = units_of(mine, count, masks)
            rows += [{"masks": masks, "images": count, **row} for row in tabulate(units)]
            places += [{"masks": masks, "images": count, **row} for row in tabulate_places(units)]
            summary |= summarize(units, masks) if count == options.images[0] else {}
            if masks in ("exact", "none") and count == options.images[0]:
                named = summarize_places(units).items()
                summary |= {f"{name}_{'masks' if masks == 'exact' else 'no_masks'}": value for name, value in named}
        found = {"rows": rows, "summary": summary, "environment": environment(options.device)}
        return found | ({"places": places} if places else {})

    ledger = Ledger(options.json, contents)
    with Progress() as bar:
        task = bar.add_task("", total=len(planned))
        for specimen in planned:
            bar.update(task, description=f"{specimen.base}, {specimen.network}, {specimen.kind} {specimen.strength}")
            wanted = [case for case in cases if ledger.find(setting_of(specimen, case)) is None]
            if wanted:
                found = examined(specimen, wanted, options.data, options.device)
                for case in wanted:
                    ledger.once(setting_of(specimen, case), partial(found.__getitem__, case))
            bar.advance(task)
    ledger.save()
    found = contents(ledger.runs)
    printed = argparse.Namespace(**{**vars(options), "json": None})  # the file is written, with its runs
    where = found.get("places", [])
    tables = {f"{len(planned)} networks": found["rows"], "Where the cue of a flagged class lies": where}
    report(found["rows"], found["summary"], printed, tables=tables)


def setting_of(specimen: Specimen, case: Case) -> dict[str, Any]:
    """By which a finished run is known."""
    return asdict(specimen) | {"images": case[0], "masks": case[1]}


def arguments() -> argparse.Namespace:
    made = parser(__doc__, data=True, seeds=3)
    made.set_defaults(seeds=None)
    made.add_argument("--first-seed", type=int, default=0, help="where the seeds begin: tune on some, report on others")
    made.add_argument("--bases", nargs="+", choices=BASES, default=list(BASES))
    made.add_argument("--kinds", nargs="+", metavar="KIND", help="of cues; default: all and the controls")
    made.add_argument("--images", nargs="+", type=int, default=[60], help="a class, to judge from; default 60")
    made.add_argument("--masks", nargs="+", choices=MASKS, default=list(MASKS), help="default: all")
    options = made.parse_args()
    options.seeds = options.seeds or (1 if options.quick else 3)
    return options


if __name__ == "__main__":
    main()
