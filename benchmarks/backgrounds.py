"""Real objects on real backgrounds that tell the class: who still knows the object where the background lies?

    python benchmarks/backgrounds.py --quick
    python benchmarks/backgrounds.py --seeds 3 --json backgrounds.json

Waterbirds-style composites (`_composites.py`): airplane, motorbike, car and bicycle (the four classes of sysu_shapes
with most images; `--objects` takes other photographs) on cloudy, rain, shine and sunrise photographs. In training each
class stands on its own background with the stated correlation; the test set is balanced over the 16 groups. Photographs
of objects and of backgrounds are divided into training, validation and test before anything is pasted. The validation
set carries the training correlation: nobody has unbiased data to tune on.

Every row trains the same network from the same weights on the same images in the same order, mirrored at random, with
AdamW. GroupDRO and last-layer retraining (DFR) are told the group of every training image; the others are not. At 100 %
correlation the training images hold only four groups: GroupDRO can balance no others, and DFR has nothing to fit. Mean,
conflicting (the 12 groups in which class and background do not belong together) and worst group are accuracies in %;
home advantage is how many points more are right in the other 4 groups than in those; inside energy is that of Grad-CAM
for the true class at the last map; gap closed is how much of the way in % the worst group is from ERM's to that
without the correlation, by seed, and behind the points that it is short of the latter; time is that of a training step
over ERM's of the same seed (on a CPU in CPU seconds, which other work on the machine disturbs little). Mean and sample
standard deviation over seeds.

The rows `tuned` give the default's penalty a weight, chosen as in `decoy.py` from 0.01 to 100 on one seed that is not
reported, for each correlation: the largest that is, on twins of the validation images, within one standard error of
the best. A candidate is a row of its own (`weight_0.01` and so on), which runs when it is named or needed.

Every finished run is written to the JSON file at once, and is not repeated when the script is called with it again.
"""

import argparse
import logging
import warnings
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from _backgrounds_rows import FULL, MOBILENET, QUICK, ROWS, SCRATCH, Network, Row
from _backgrounds_table import shown, summarize, tabulate
from _backgrounds_training import accuracies, answers, fit, on_twins, percent
from _composites import BALANCED, GROUPS, OBJECTS, Composites, sheet
from _report import environment, parser, report
from _runs import CANDIDATES, Ledger, Run, largest_as_good
from rich.progress import Progress
from torchvision.transforms.v2.functional import to_pil_image

TUNING_SEED = 1000


@dataclass(frozen=True)
class Setting:
    """All that a run depends on."""

    row: str
    correlation: float
    seed: int
    network: str
    epochs: int
    images: int
    size: int
    batch_size: int
    objects: str = "sysu_shapes"

    @property
    def key(self) -> dict[str, Any]:
        """How a run is found again; the first set of photographs goes without its name, as in older files."""
        return {name: value for name, value in asdict(self).items() if (name, value) != ("objects", "sysu_shapes")}

    @property
    def tested(self) -> int:
        """Half as many images as are trained on, a multiple of 16."""
        return max(GROUPS, self.images // 2 // GROUPS * GROUPS)

    @property
    def validated(self) -> int:
        """A quarter of those."""
        return max(GROUPS, self.tested // 4)

    def tunings(self) -> dict[float, "Setting"]:
        """By candidate, the training that tries it, on a seed that is not reported and with all masks."""
        return {weight: replace(self, row=f"weight_{weight:g}", seed=TUNING_SEED) for weight in CANDIDATES}


@lru_cache(maxsize=8)  # five sets serve all rows of one seed and correlation
def composites(
    root: Path, split: str, count: int, correlation: float, size: int, seed: int, objects: str
) -> Composites:
    return Composites(root, split, count, correlation, size, seed, objects)


def datasets(root: Path, setting: Setting, correlated: bool) -> dict[str, Composites]:
    """For training, validation and test."""
    correlation = setting.correlation / 100 if correlated else BALANCED
    made = partial(composites, root, size=setting.size, seed=setting.seed, objects=setting.objects)
    return {
        "train": made("train", setting.images, correlation),
        "val": made("val", setting.validated, correlation),
        "test": made("test", setting.tested, BALANCED),
    }


def found_elsewhere(runs: list[Run], setting: Setting) -> Run | None:
    """The same training at another correlation, where the row's training set has none."""
    wanted = setting.key | {"correlation": None}
    same = (one for one in runs if one["setting"] | {"correlation": None} == wanted)
    return None if ROWS[setting.row].correlated else next(same, None)


class Bench:
    """Runs settings, those aside that are finished."""

    def __init__(self, ledger: Ledger, network: Network, root: Path, device: str) -> None:
        self.ledger, self.network, self.root, self.device = ledger, network, root, device

    def once(self, setting: Setting) -> Run:
        """Before a tuned row its candidates."""
        known = found_elsewhere(self.ledger.runs, setting)
        if known is not None:
            found = {name: value for name, value in known.items() if name != "setting"}
            return self.ledger.once(setting.key, lambda: found)
        recipe, chosen = ROWS[setting.row], {}
        if recipe.tuned and self.ledger.find(setting.key) is None:
            weight = self.tuned_weight(setting)
            recipe, chosen = replace(ROWS[f"weight_{weight:g}"], masks=recipe.masks), {"weight": weight}
        train = partial(run, setting, recipe, self.network, self.root, self.device)
        return self.ledger.once(setting.key, lambda: {**train(), **chosen})

    def tuned_weight(self, setting: Setting) -> float:
        """The largest candidate that is as good on twins of the validation images as the best."""
        found = {weight: self.once(one)["validation_twins"] for weight, one in setting.tunings().items()}
        return largest_as_good(found, setting.validated)


def run(setting: Setting, recipe: Row, network: Network, root: Path, device: str) -> dict[str, Any]:
    """Accuracies in %, by group too, and the CPU or GPU seconds of a training step; or why there are none."""
    data = datasets(root, setting, recipe.correlated)
    train = data["train"].with_masks(recipe.masks)
    missing = int((train.groups.bincount(minlength=GROUPS) == 0).sum())
    if recipe.finish is not None and missing:
        return {"note": f"no balanced subset: {missing} of {GROUPS} groups are empty"}
    shape = {"epochs": setting.epochs, "batch_size": setting.batch_size, "seed": setting.seed}
    module, clock = fit(recipe, network, train, root, **shape, device=device)
    module.to(device).eval()
    if recipe.finish is not None:
        recipe.finish(module.network, network.head, train, setting.seed)
    predicted, energy = answers(module.network, data["test"], device)
    validated, _ = answers(module.network, data["val"], device)
    return {
        **accuracies(predicted == data["test"].labels, data["test"].groups),
        "inside_energy": energy,
        "step_seconds": clock.seconds,
        "validation": percent(validated == data["val"].labels),
        "validation_twins": on_twins(module.network, data["val"], device),
    }


def main() -> None:
    options = arguments()
    network = SCRATCH if options.from_scratch else MOBILENET
    shape = options.epochs or network.epochs, options.images, options.size, options.batch_size, options.objects
    planned = [
        Setting(row, correlation, seed, network.name, *shape)
        for seed in range(options.seeds)
        for correlation in options.correlation
        for row in options.rows
    ]
    if options.sheet:
        made = datasets(options.data, planned[0], correlated=True)
        to_pil_image(sheet([made["train"], made["test"]])).save(options.sheet)
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    settings = [setting.key for setting in planned]

    def contents(runs: list[Run]) -> dict[str, Any]:
        rows = tabulate([one for one in runs if one["setting"] in settings])
        return {"rows": rows, "summary": summarize(rows), "environment": environment(options.device)}

    ledger = Ledger(options.json, contents)
    bench = Bench(ledger, network, options.data, options.device)
    with Progress() as bar:
        task = bar.add_task("", total=len(planned))
        for setting in planned:
            bar.update(task, description=f"{setting.correlation:g} %, seed {setting.seed}, {setting.row}")
            bench.once(setting)
            bar.advance(task)
    ledger.save()  # rows and summary of these settings, also where nothing was left to run
    found = contents(ledger.runs)
    printed = argparse.Namespace(**{**vars(options), "json": None})  # the file is written, with its runs
    for correlation in sorted(options.correlation):
        rows = [shown(row) for row in found["rows"] if row["correlation"] == correlation]
        report(
            rows,
            {},
            printed,
            f"{options.objects}, {network.name}, {correlation:g} % correlation, {options.seeds} seeds",
        )
    report([], found["summary"], printed)


def arguments() -> argparse.Namespace:
    made = parser(__doc__, data=True, seeds=3)
    made.add_argument("--correlation", nargs="+", type=float, default=None, metavar="PERCENT", help="default 95 100")
    made.add_argument("--from-scratch", action="store_true", help="a SmallResNet without weights, not a MobileNetV2")
    made.add_argument("--rows", nargs="+", choices=ROWS, default=None, metavar="ROW", help=", ".join(ROWS))
    made.add_argument(
        "--epochs", type=int, default=None, help=f"default {MOBILENET.epochs}, {SCRATCH.epochs} from scratch"
    )
    made.add_argument("--images", type=int, default=None, help="to train on; default 3000, quick 1000")
    made.add_argument("--objects", choices=OBJECTS, default="sysu_shapes", help="default %(default)s")
    made.add_argument("--size", type=int, default=96, help="side of the images in pixels")
    made.add_argument("--batch-size", type=int, default=32)
    made.add_argument("--sheet", type=Path, metavar="FILE", help="also draw some images to this PNG file")
    made.set_defaults(seeds=None)
    options = made.parse_args()
    options.seeds = options.seeds or (1 if options.quick else 3)
    options.correlation = options.correlation or ([100.0] if options.quick else [95.0, 100.0])
    options.rows = options.rows or list(QUICK if options.quick else FULL)
    options.images = options.images or (1000 if options.quick else 3000)
    return options


if __name__ == "__main__":
    main()
