"""Does watching every epoch raise false alarms, and how soon does it find a shortcut? Each epoch is examined.

    python benchmarks/watching.py --quick

Garments of four classes on painted canvases that have nothing to do with them (`_zoo_bases.py`), some hundred images,
so that the networks learn them by heart and their answers swing from epoch to epoch. `RelianceDetector` at its defaults
judges 30 validation images of every class in each of 50 epochs. A run counts once, however many of its classes were
flagged in however many epochs: `flagged` is the share of such runs with its 95 % interval (Wilson), and has to stay
below `alpha`, 5 %. Its verdicts at the end are counted as well: a detector that always says `undecided` has no merit.

The same with a full-strength cue in every class, a corner patch or a background (`camtrain.data.Canary`), for five
epochs of 6,000 images: the epoch, counted from 1, in which the first class and in which the median class was flagged.

Every finished run is written to the JSON file at once, and is not repeated when the script is called with it again.
"""

import logging
import tempfile
import warnings
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from _bare import BareClassifier, bare_trainer
from _report import environment, parser, report
from _runs import Ledger, Run
from _zoo_bases import CANVAS, Scenes, scenes
from _zoo_specimens import made, planted
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from camtrain.callbacks import RelianceDetector
from camtrain.data import Canary
from camtrain.metrics import share_interval

NETWORKS = ("plain", "small")
CLASSES, PER_CLASS, BATCH = 4, 30, 40
NOTHING, CUES = "none", ("corner", "background")
CUED_EPOCHS, CUED_IMAGES = 5, 6000
NEVER = float("inf")


def learner(name: str, root: Path) -> BareClassifier:
    """A small network and AdamW."""
    network, highest, _ = made(name, CLASSES, root)
    rate = highest / 5  # of a schedule that rises and falls, which this training has not
    return BareClassifier(network, torch.optim.AdamW, rate)


def batches(
    root: Path, split: str, per_class: int, seed: int, canary: Canary | None, shuffle: bool = False
) -> DataLoader[tuple[Tensor, ...]]:
    """So many images of each of the first classes, with their cues and masks."""
    drawn: Scenes = scenes("fashion", root, split, 4 * CLASSES * per_class, CANVAS, seed)
    rows = torch.cat([(drawn.labels == c).nonzero().flatten()[:per_class] for c in range(CLASSES)])
    part = planted(drawn.of(rows), canary)
    order = torch.Generator().manual_seed(seed)
    return DataLoader(TensorDataset(part.images, part.labels, part.masks), BATCH, shuffle=shuffle, generator=order)


def watched(cue: str, network: str, seed: int, epochs: int, images: int, root: Path, device: str) -> dict[str, Any]:
    """One training: which classes were ever flagged, and what is said of each in the end."""
    torch.manual_seed(seed)
    canary = None if cue == NOTHING else Canary(cue, CLASSES, seed=seed)
    detector = RelianceDetector(images_per_class=PER_CLASS)
    train = batches(root, "train", images // CLASSES, seed, canary, shuffle=True)
    with tempfile.TemporaryDirectory() as folder:
        trainer = bare_trainer(device, [detector], max_epochs=epochs, default_root_dir=folder)
        trainer.fit(learner(network, root), train, batches(root, "val", PER_CLASS, seed, canary))
    return {
        "flagged": detector.flagged_since,
        "verdicts": [verdict.verdict for verdict in detector.verdicts],
        "accuracy": 100 * float(trainer.callback_metrics["val/accuracy"]),
    }


def tabulate(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A row for each network, and one for all."""
    rows = []
    for network in (*NETWORKS, "all"):
        done = [run for run in runs if network in (run["setting"]["network"], "all")]
        if not done:
            continue
        flagged = sum(bool(run["flagged"]) for run in done)
        share = share_interval(float(flagged), len(done))
        said = Counter(verdict for run in done for verdict in run["verdicts"])
        rows.append(
            {
                "network": network,
                "runs": len(done),
                "flagged": flagged,
                "flagged %": 100 * share.mean,
                "low %": 100 * share.low,
                "high %": 100 * share.high,
                "not reliant": said["not reliant"],
                "undecided": said["undecided"],
                "accuracy %": sum(run["accuracy"] for run in done) / len(done),
            }
        )
    return rows


def delays(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A row for each cue and network: in which epoch, from 1, classes were flagged; "never" where that is so."""
    rows = []
    for cue in CUES:
        for network in NETWORKS:
            done = [run for run in runs if (run["setting"]["cue"], run["setting"]["network"]) == (cue, network)]
            if not done:
                continue
            flagged = [sorted(1 + epoch for epoch in run["flagged"].values()) for run in done]
            every = [epochs + [NEVER] * (CLASSES - len(epochs)) for epochs in flagged]
            first, middle = [epochs[0] for epochs in every], [median(epochs) for epochs in every]
            rows.append(
                {
                    "cue": cue,
                    "network": network,
                    "runs": len(done),
                    "first class": said(median(first)),
                    "latest": said(max(first)),
                    "median class": said(median(middle)),
                    "classes flagged %": 100 * sum(map(len, flagged)) / (CLASSES * len(done)),
                    "runs by epoch 3": sum(epoch <= 3 for epoch in first),
                    "accuracy %": sum(run["accuracy"] for run in done) / len(done),
                }
            )
    return rows


def said(epoch: float) -> str:
    return "never" if epoch == NEVER else f"{epoch:g}"


def describe(options: Namespace, runs: list[Run]) -> dict[str, Any]:
    """What the file holds beside the runs."""
    clean = {"cue": NOTHING, "epochs": options.epochs, "images": options.images}.items()
    cued = {"epochs": CUED_EPOCHS, "images": CUED_IMAGES}.items()
    rows = tabulate([run for run in runs if clean <= run["setting"].items()])
    summary = {"flagged": rows[-1]["flagged"], "runs": rows[-1]["runs"]} if rows else {}
    found = delays([run for run in runs if cued <= run["setting"].items()])
    if found:
        summary |= {"cued_runs": sum(row["runs"] for row in found)}
        summary |= {"cued_by_epoch_3": sum(row["runs by epoch 3"] for row in found)}
    return {"rows": rows, "delays": found, "summary": summary, "environment": environment(options.device)}


def settings(options: Namespace) -> list[dict[str, Any]]:
    """What is to be run, in order: those with a cue are over soon."""
    seeds = options.seeds if options.seeds is not None else 5 if options.quick else 50
    cued = {"epochs": CUED_EPOCHS, "images": CUED_IMAGES}
    clean = {"epochs": options.epochs, "images": options.images}
    kinds = [(cue, cued, options.cued_seeds) for cue in CUES] + [(NOTHING, clean, seeds)]
    return [
        {"cue": cue, "network": network, "seed": seed, **shape}
        for cue, shape, count in kinds
        for seed in range(count)
        for network in NETWORKS
    ]


def main() -> None:
    made = parser(__doc__, data=True, seeds=50)
    made.set_defaults(seeds=None)
    made.add_argument("--epochs", type=int, default=50, help="of the trainings with nothing to find")
    made.add_argument("--images", type=int, default=800, help="that these train on")
    made.add_argument("--cued-seeds", type=int, default=5, help="of the trainings with a cue")
    options = made.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    ledger = Ledger(options.json, partial(describe, options))
    for setting in track(settings(options), "trainings"):
        ledger.once(setting, partial(watched, **setting, root=options.data, device=options.device))
    ledger.save()
    found = describe(options, ledger.runs)
    options.json = None  # the ledger has written it
    shown = {
        f"Trainings of {options.epochs} epochs with nothing to find": found["rows"],
        "The epoch in which a cue was found": found["delays"],
    }
    report(found["rows"], found["summary"], options, tables=shown)


if __name__ == "__main__":
    main()
