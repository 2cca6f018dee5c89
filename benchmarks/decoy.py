"""Decoy MNIST and Decoy Fashion-MNIST: which correction lets a network answer as if there had been no decoy?

    python benchmarks/decoy.py --quick --datasets fashion_mnist --json runs/decoy.json

A 4x4 patch in a random corner tells the label in training and nothing in the test (Ross et al. 2017); the network is
that of Friedrich et al. 2023, with Adam at 1e-3 and batches of 256. The number to read is the accuracy on the test set
with *random* decoys, a mean over the seeds beside its sample standard deviation; a seed draws the patches, the weights
and the order of the batches. `ours` is `AttentionAlignment()` without an argument, in every row but `ours_tuned` and
`ours_penalty_alone`. Its annotations: exact (all but the patch), on 10, 5 and 1 % of the images (the same number of
every class), the tight box around the garment or digit, and the patch dilated to 6x6 pixels.

Tuning. Nobody has unbiased data to tune on, so the validation images carry the decoy as training does. Their accuracy
alone would choose the smallest weight: with the patch it nears 100 %, and no right correction can reach that. What
they do have is masks. So each validation image gets, at the place of its patch, the pixels of another validation
image, and of the weights whose accuracy on these is within one standard error of the best, the largest is taken: a
tuning is shorter than the training it is for, and a weight that just suffices there fails later. All methods choose
from the same candidates, on one seed that is not reported. `val` in the file is the accuracy with the decoy left alone.

The rows `alone...` leave out the twins and change one thing of the penalty each, at its automatic weight: another loss,
another map, or the map's gradient taken for a constant (`first_order`). `ours_no_penalty`, `ours_strict` (a penalty
that tolerates nothing outside) and `ours_added` (twins added, none exchanged) change one thing of the default each.
`rrr_5pct` and `counterexamples..._5pct` are told as little as `ours_5pct`. All these run when they are named.

Time per step is that of the row over that of the plain network, both timed in turns in this process (on a CPU in CPU
seconds). Inside energy is that of the predicted class off the patch, over all test images; its chance level is 98 %.
Late accuracy is the mean over the second half of the epochs, which varies less from seed to seed than the last one.
With `--json` every finished run is in the file at once, and a rerun skips it: take another file once the code changed.

`--quick` is one seed on 20 000 images of Fashion-MNIST for 5 epochs, with the weights recorded beside this script.
"""

import json
import logging
import statistics
import warnings
from argparse import Namespace
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from _decoy_data import Dataset, all_but_patch, load, swap_patches
from _decoy_rows import ALONE, FEW, PARTS, PUBLISHED, REFITTED, ROWS
from _decoy_table import summarize, tabulate, tuned_weights
from _decoy_training import BATCH_SIZE, TIMED_STEPS, WARM_UP, LateAccuracy, accuracy, energies, fit, time_step
from _report import environment, parser, report
from _runs import CANDIDATES, Ledger, Run
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

TUNING_SEED = 1000
VALIDATION = 6000  # images
RECORDED = Path(__file__).parent / "results" / "decoy_weights.json"


def test(options: Namespace, dataset: Dataset, name: str, seed: int, weight: float | None) -> dict[str, float]:
    """Train on as many images as asked for; judge on the test set."""
    row = ROWS[name]
    read = partial(load, options.data, dataset, seed=seed, decoy=row.decoy, val_fraction=0.0)
    split = read("train", annotation=row.annotation, share=row.share, train_size=options.images)
    judged = read("test", annotation=all_but_patch).to(options.device)
    late = LateAccuracy(judged)
    net = fit(row, weight or 0.0, split, seed, options.device, watch=[late], max_epochs=options.epochs)
    found = {"accuracy": accuracy(net, judged), "late": statistics.fmean(late.found)}
    return {**found, **(energies(net, judged) if row.decoy else {})}


def tune(options: Namespace, dataset: Dataset, name: str, weight: float) -> dict[str, float]:
    """Train on a part of the training files; judge on another, decoys as in training."""
    row = ROWS[name]
    read = partial(load, options.data, dataset, seed=TUNING_SEED)
    split = read("train", annotation=row.annotation, share=row.share, train_size=options.tuning_images)
    net = fit(row, weight, split, TUNING_SEED, options.device, max_epochs=options.tuning_epochs)
    held = read("val", annotation=all_but_patch, val_size=min(VALIDATION, options.tuning_images)).to(options.device)
    return {"val": accuracy(net, held), "val_swapped": accuracy(net, swap_patches(held)), "val_images": len(held)}


def clock(options: Namespace, dataset: Dataset, name: str, weight: float | None) -> dict[str, float]:
    """Time a few steps."""
    row = ROWS[name]
    size = min(options.images or 60_000, BATCH_SIZE * (WARM_UP + TIMED_STEPS))
    read = partial(load, options.data, dataset, "train", 0, decoy=row.decoy, train_size=size)
    return time_step(name, weight or 0.0, read(annotation=row.annotation, share=row.share), options.device)


class Bench:
    """The runs that the options ask for, in order, those aside that are finished."""

    def __init__(self, options: Namespace, progress: Progress) -> None:
        self.options, self.progress = options, progress
        self.given = read_weights(options)
        self.device = "cuda" if options.device.startswith("cuda") else "cpu"
        self.scale = {"images": options.images, "epochs": options.epochs}
        self.tuning = {"images": options.tuning_images, "epochs": options.tuning_epochs, "device": self.device}
        self.ledger = Ledger(options.json, self.describe)
        pairs = len(options.datasets) * options.seeds + 1
        tunings = len(self.untuned()) * len(CANDIDATES)
        self.task = progress.add_task("", total=tunings + pairs * len(options.rows))

    def describe(self, runs: list[Run]) -> dict[str, Any]:
        """What the file holds beside the runs."""
        rows = tabulate(runs, device=self.device, **self.scale)
        weights = tuned_weights(runs, self.given, **self.tuning)
        return {
            "rows": rows,
            "summary": summarize(rows),
            "environment": environment(self.options.device),
            "weights": weights,
        }

    @property
    def weights(self) -> Mapping[str, Mapping[str, float]]:
        """As far as they are known."""
        return tuned_weights(self.ledger.runs, self.given, **self.tuning)

    def untuned(self) -> list[tuple[Dataset, str]]:
        """The data sets and rows whose weight is neither given nor known from finished runs."""
        chosen = [(dataset, name) for dataset in self.options.datasets for name in self.options.rows]
        return [(d, name) for d, name in chosen if ROWS[name].tuned and name not in self.weights.get(d, {})]

    def run(self) -> None:
        """Tune what has no weight yet, then train every row on every seed, then time."""
        options = self.options
        for dataset, name in self.untuned():
            for candidate in CANDIDATES:
                what = {"dataset": dataset, "row": name, "seed": TUNING_SEED, "weight": candidate}
                self.once("tune", {**what, **self.tuning}, partial(tune, options, dataset, name, candidate))
        weights = self.weights
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            for dataset in options.datasets:
                for name in options.rows:
                    weight = weights.get(dataset, {}).get(name) if ROWS[name].tuned else None
                    what = {"dataset": dataset, "row": name, "seed": seed, "weight": weight, "device": self.device}
                    self.once("test", {**what, **self.scale}, partial(test, options, dataset, name, seed, weight))
        for name in options.rows:
            weight = weights.get(options.datasets[0], {}).get(name)
            timing = partial(clock, options, options.datasets[0], name, weight)
            self.once("time", {"row": name, "device": self.device}, timing)
        self.ledger.save()

    def once(self, kind: str, what: dict[str, Any], run: Callable[[], dict[str, float]]) -> None:
        """One run, unless it is finished; say what it gave."""
        setting = {"kind": kind, **what}
        said = " ".join(str(what[key]) for key in ("dataset", "row", "seed", "weight") if what.get(key) is not None)
        self.progress.update(self.task, description=f"{kind} {said}")
        if self.ledger.find(setting) is None:
            found = self.ledger.once(setting, run)
            numbers = ", ".join(f"{key} {value:.4g}" for key, value in found.items() if isinstance(value, float))
            self.progress.console.print(f"{kind} {said}: {numbers}", highlight=False, soft_wrap=True)
        self.progress.advance(self.task)


def read_weights(options: Namespace) -> Mapping[str, Mapping[str, float]]:
    """The weights of `--weights`, as this script writes them; in a quick run those recorded beside it."""
    file = options.weights or (RECORDED if options.quick and RECORDED.exists() else None)
    content: dict[str, Any] = json.loads(file.read_text()) if file else {}
    weights: dict[str, dict[str, float]] = content.get("weights", content)
    return weights


def read_options() -> Namespace:
    made = parser(__doc__, data=True, seeds=3)
    made.set_defaults(seeds=None)
    made.add_argument("--datasets", nargs="+", choices=list(PUBLISHED), help="default: both, quick fashion_mnist")
    made.add_argument(
        "--rows",
        nargs="+",
        choices=list(ROWS),
        default=[name for name in ROWS if name not in (*ALONE, *PARTS, *FEW, *REFITTED)],
        metavar="ROW",
        help=", ".join(ROWS),
    )
    made.add_argument("--first-seed", type=int, default=0, help="10 and more were tried out on, and are not reported")
    made.add_argument("--epochs", type=int, help="default: 10 on a CPU, 50 on a GPU, quick 5")
    made.add_argument("--images", type=int, help="for training; default: all 60 000, quick 20 000")
    made.add_argument("--tuning-epochs", type=int, help="default: as --epochs, at most 5")
    made.add_argument("--tuning-images", type=int, help="default: as --images, at most 20 000")
    made.add_argument("--weights", type=Path, metavar="FILE", help="take the weights of an earlier --json file")
    options = made.parse_args()
    default = 5 if options.quick else 50 if options.device.startswith("cuda") else 10
    options.seeds = options.seeds or (1 if options.quick else 3)
    options.datasets = options.datasets or list(PUBLISHED)[: 1 if options.quick else 2]
    options.epochs = options.epochs or default
    options.images = options.images or (20_000 if options.quick else None)
    options.tuning_epochs = options.tuning_epochs or min(options.epochs, 5)
    options.tuning_images = options.tuning_images or min(options.images or 20_000, 20_000)
    return options


def main() -> None:
    options = read_options()
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}"), *columns) as progress:
        bench = Bench(options, progress)
        bench.run()
    found = bench.describe(bench.ledger.runs)
    options.json = None  # the ledger has written it
    report(found["rows"], found["summary"], options, f"Accuracy with random decoys after {options.epochs} epochs")


if __name__ == "__main__":
    main()
