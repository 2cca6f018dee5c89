"""Real objects on real backgrounds that tell the class: who still knows the object where the background lies?

    python benchmarks/backgrounds.py --quick
    python benchmarks/backgrounds.py --seeds 3 --json backgrounds.json

Waterbirds-style composites (`_composites.py`): airplane, motorbike, car and bicycle (the four classes of sysu_shapes
with most images) on cloudy, rain, shine and sunrise photographs. In training each class stands on its own background
with the stated correlation; the test set is balanced over the 16 groups. Photographs of objects and of backgrounds are
divided into training, validation and test before anything is pasted. The validation set carries the training
correlation: nobody has unbiased data to tune on.

Every row trains the same network from the same weights on the same images in the same order, mirrored at random, with
AdamW. GroupDRO and last-layer retraining (DFR) are told the group of every training image; the others are not. Mean,
conflicting (the 12 groups in which class and background do not belong together) and worst group are accuracies in %;
inside energy is that of Grad-CAM for the true class at the last map; time is that of a training step over ERM's of the
same seed (on a CPU in CPU seconds, which other work on the machine disturbs little). Mean and sample standard deviation
over seeds.

Every finished run is written to the JSON file at once, and is not repeated when the script is called with it again.
"""

import argparse
import logging
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from _composites import BALANCED, CLASSES, PLACES, Composites, sheet
from _report import environment, parser, report
from _runs import Ledger, Run, mean_and_deviation
from rich.progress import Progress
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, WeightedRandomSampler
from torchvision.io import write_png

from camtrain import explain
from camtrain.callbacks import AttentionAlignment
from camtrain.cam import true_class
from camtrain.data.collate import Collate, Gathered
from camtrain.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from camtrain.losses import make_twins
from camtrain.metrics.grounding import inside_energy
from camtrain.metrics.groups import group_accuracy
from camtrain.module import ImageClassifier

GROUPS = len(CLASSES) * len(PLACES)
ALIGNED = [group for group in range(GROUPS) if group // len(PLACES) == group % len(PLACES)]
CONFLICTING = [group for group in range(GROUPS) if group not in ALIGNED]
COLUMNS = {"mean": "mean", "conflicting": "conflicting", "worst": "worst group", "inside_energy": "inside energy"}


@dataclass(frozen=True)
class Network:
    """What is trained, and how."""

    name: str
    model: str
    weights: str | None
    head: str
    fine: str  # the last layer with a 12x12 map of 96-pixel images
    lr: float
    epochs: int


MOBILENET = Network(
    "mobilenet_v2", "mobilenet_v2", "weights/mobilenet_v2-b0353104.pth", "classifier.1", "network.features.6", 3e-4, 4
)
SCRATCH = Network("SmallResNet", "camtrain.networks.SmallResNet", None, "head", "network.blocks", 1e-3, 20)


class GroupDRO(ImageClassifier):
    """Weighs each group's loss by how bad it is, and sees all groups equally often. Source: Sagawa et al. 2020."""

    step_size = 0.01
    shares: Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("shares", torch.full((GROUPS,), 1 / GROUPS))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        losses = F.cross_entropy(self(batch["image"]), batch["label"], reduction="none")
        members = F.one_hot(batch["group"], GROUPS).to(losses.dtype)  # (B, G)
        means = losses @ members / members.sum(dim=0).clamp(min=1)
        grown = self.shares * (self.step_size * means.detach()).exp()
        self.shares = grown / grown.sum()
        return self.shares @ means


@dataclass(frozen=True)
class Row:
    """One way to train: `told` what beyond the labels, with which callbacks, and what is done to the finished net."""

    name: str
    told: str = ""
    masks: float = 0.0
    callbacks: Callable[[Network], list[pl.Callback]] = lambda _: []
    correlated: bool = True
    module: type[ImageClassifier] = ImageClassifier
    balanced_batches: bool = False
    finish: Callable[[nn.Module, Network, Composites, int], None] | None = None


def aligned(masks: float = 1.0, fine: bool = False, **arguments: Any) -> dict[str, Any]:
    """The fields of a row with AttentionAlignment, which is told a share of the masks."""

    def callbacks(network: Network) -> list[pl.Callback]:
        given = {**arguments, "layers": network.fine} if fine else arguments
        return [AttentionAlignment(**given)]

    return {"masks": masks, "told": f"{100 * masks:g} % of masks", "callbacks": callbacks}


def retrain_last_layer(network: nn.Module, described: Network, train: Composites, seed: int) -> None:
    """Fit the head anew on group-balanced subsets of the training images; the mean of ten fits, as DFR does it.

    Source: Kirichenko et al. 2023, with L2 in place of L1; its strength is chosen for the worst group of one more
    subset's other half.
    """
    head = network.get_submodule(described.head)
    assert isinstance(head, nn.Linear)
    features = head_inputs(network, head, train)
    mean, std = features.mean(dim=0), features.std(dim=0).clamp(min=1e-6)
    features = (features - mean) / std
    generator = torch.Generator().manual_seed(seed)
    half, other = balanced_subset(train.groups, generator).chunk(2, dim=1)
    strengths = (1.0, 0.1, 0.01, 0.001, 0.0001)
    fits = [logistic(features[half.flatten()], train.labels[half.flatten()], strength) for strength in strengths]
    chosen = max(range(len(fits)), key=lambda i: worst(fits[i], features, train.labels, other))
    found = []
    for _ in range(10):
        subset = balanced_subset(train.groups, generator).flatten()
        found.append(logistic(features[subset], train.labels[subset], strengths[chosen]))
    weight = torch.stack([w for w, _ in found]).mean(dim=0) / std
    bias = torch.stack([b for _, b in found]).mean(dim=0) - weight @ mean
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)


def head_inputs(network: nn.Module, head: nn.Module, dataset: Composites) -> Tensor:
    found: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, args: found.append(args[0].cpu()))
    device = next(network.parameters()).device
    with torch.no_grad():
        for batch in batches(dataset):
            network(batch["image"].to(device))
    handle.remove()
    return torch.cat(found)


def balanced_subset(groups: Tensor, generator: torch.Generator) -> Tensor:
    """As many random indices of every group as the smallest has: `(groups, images)`."""
    least = int(groups.bincount(minlength=GROUPS).min())
    members = [(groups == group).nonzero().flatten() for group in range(GROUPS)]
    return torch.stack([some[torch.randperm(len(some), generator=generator)[:least]] for some in members])


def logistic(features: Tensor, labels: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Weight and bias of a multinomial logistic regression with an L2 penalty."""
    weight = torch.zeros(len(CLASSES), features.shape[1], requires_grad=True)
    bias = torch.zeros(len(CLASSES), requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(features @ weight.T + bias, labels) + strength * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()


def worst(fit: tuple[Tensor, Tensor], features: Tensor, labels: Tensor, subset: Tensor) -> float:
    weight, bias = fit
    index = subset.flatten()
    correct = (features[index] @ weight.T + bias).argmax(dim=1) == labels[index]
    return float(correct.view(subset.shape).float().mean(dim=1).min())


ROWS = {
    "erm": Row("ERM"),
    "unbiased": Row("no correlation", correlated=False),
    "groupdro": Row("GroupDRO", "group labels", module=GroupDRO, balanced_batches=True),
    "dfr": Row("last layer retrained (DFR)", "group labels", finish=retrain_last_layer),
    "penalty": Row("contribution penalty", **aligned(fine=True, weight=3.0, twins=0.0)),
    "grad_cam": Row("Grad-CAM energy", **aligned(method="grad_cam", target=true_class, weight=3.0, twins=0.0)),
    "twins": Row("twins", **aligned(weight=0.0, twins=1.0)),
    "twins_5": Row("twins", **aligned(0.05, weight=0.0, twins=1.0)),
    "both": Row("penalty and twins", **aligned(fine=True, weight=3.0, twins=1.0)),
    "both_5": Row("penalty and twins", **aligned(0.05, fine=True, weight=3.0, twins=1.0)),
    "ours": Row("ours (default)", **aligned()),
    "ours_10": Row("ours (default)", **aligned(0.1)),
    "ours_5": Row("ours (default)", **aligned(0.05)),
    "ours_1": Row("ours (default)", **aligned(0.01)),
    "tuned": Row("ours, tuned", **aligned(fine=True, weight=3.0, twins=1.0)),
    "tuned_5": Row("ours, tuned", **aligned(0.05, fine=True, weight=3.0, twins=1.0)),
}
KEYS = {"erm": "erm", "unbiased": "unbiased", "ours": "ours", "ours_5": "ours_5pct", "tuned": "tuned"}  # in the summary
QUICK = ("erm", "unbiased", "ours", "ours_5")


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


class StepClock(pl.Callback):
    """Seconds of a training step with all that belongs to it, after the first few."""

    warm_up = 3

    def __init__(self) -> None:
        self.marks: list[float] = []

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._mark(trainer)

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._mark(trainer)

    def _mark(self, trainer: pl.Trainer) -> None:
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
            self.marks.append(time.perf_counter())
        else:
            self.marks.append(time.process_time())

    @property
    def seconds(self) -> float:
        marks = self.marks[min(self.warm_up, len(self.marks) - 2) :]
        return (marks[-1] - marks[0]) / (len(marks) - 1)


def batches(dataset: Composites, batch_size: int = 100, flip: bool = False, **options: Any) -> DataLoader[Any]:
    collate = Collate("mapping", IMAGENET_MEAN, IMAGENET_STD, flip)
    return DataLoader(Gathered(dataset), batch_size, collate_fn=collate, **options)


@lru_cache(maxsize=8)  # five sets serve all rows of one seed and correlation
def composites(root: Path, split: str, count: int, correlation: float, size: int, seed: int) -> Composites:
    return Composites(root, split, count, correlation, size, seed)


def datasets(root: Path, setting: Setting, correlated: bool) -> dict[str, Composites]:
    """Half as many images to test as to train on (a multiple of 16), and a quarter of those to validate."""
    correlation = setting.correlation / 100 if correlated else BALANCED
    tested = max(GROUPS, setting.images // 2 // GROUPS * GROUPS)
    made = partial(composites, root, size=setting.size, seed=setting.seed)
    return {
        "train": made("train", setting.images, correlation),
        "val": made("val", max(GROUPS, tested // 4), correlation),
        "test": made("test", tested, BALANCED),
    }


def run(setting: Setting, network: Network, root: Path, device: str) -> dict[str, Any]:
    """Accuracies in %, by group too, and the CPU or GPU seconds of a training step; or why there are none."""
    recipe = ROWS[setting.row]
    data = datasets(root, setting, recipe.correlated)
    train = data["train"].with_masks(recipe.masks)
    missing = int((train.groups.bincount(minlength=GROUPS) == 0).sum())
    if recipe.finish is not None and missing:
        return {"note": f"no balanced subset: {missing} of {GROUPS} groups are empty"}
    module, clock = fit(recipe, setting, network, train, root, device)
    module.to(device).eval()
    if recipe.finish is not None:
        recipe.finish(module.network, network, train, setting.seed)
    predicted, energy = answers(module.network, data["test"], device)
    validated, _ = answers(module.network, data["val"], device)
    return {
        **accuracies(predicted == data["test"].labels, data["test"].groups),
        "inside_energy": energy,
        "step_seconds": clock.seconds,
        "validation": percent(validated == data["val"].labels),
        "validation_twins": on_twins(module.network, data["val"], device),
    }


def fit(
    recipe: Row, setting: Setting, network: Network, train: Composites, root: Path, device: str
) -> tuple[ImageClassifier, StepClock]:
    torch.manual_seed(setting.seed)
    module = recipe.module(
        network.model,
        num_classes=len(CLASSES),
        weights=None if network.weights is None else str(root / network.weights),
        optimizer=partial(torch.optim.AdamW, lr=network.lr),
    ).to(memory_format=torch.channels_last)  # almost twice as fast on a CPU
    generator = torch.Generator().manual_seed(setting.seed)
    order: dict[str, Any] = {"shuffle": True}
    if recipe.balanced_batches:
        order = {"sampler": equally_often(train.groups, generator)}
    loader = batches(train, setting.batch_size, flip=True, drop_last=True, generator=generator, **order)
    clock = StepClock()
    trainer = pl.Trainer(
        accelerator="gpu" if device.startswith("cuda") else "cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=setting.epochs,
        callbacks=[*recipe.callbacks(network), clock],
    )
    trainer.fit(module, loader)
    return module, clock


def equally_often(groups: Tensor, generator: torch.Generator) -> Sampler[int]:
    weights = 1 / groups.bincount(minlength=GROUPS)[groups].double()
    return WeightedRandomSampler(weights.tolist(), len(groups), generator=generator)


def answers(network: nn.Module, dataset: Composites, device: str) -> tuple[Tensor, float]:
    """The predicted classes, and the mean inside energy in %."""
    predicted: list[Tensor] = []
    energies: list[Tensor] = []
    layers: Any = "auto"
    for batch in batches(dataset):
        images, labels, masks = (batch[key].to(device) for key in ("image", "label", "mask"))
        found = explain(network, images, layers=layers, methods="grad_cam", target=true_class, labels=labels)
        layers = found.layers
        predicted.append(found.logits.argmax(dim=1).cpu())
        energies.append(inside_energy(found.heatmaps["grad_cam"], masks).cpu())
    return torch.cat(predicted), 100 * float(torch.cat(energies).nanmean())


def on_twins(network: nn.Module, dataset: Composites, device: str) -> float:
    """Accuracy in % on twins of the images: what masks tell of a network where every image is biased."""
    correct, generator = [], torch.Generator().manual_seed(0)
    order = DataLoader(
        Gathered(dataset), 100, shuffle=True, generator=generator, collate_fn=batches(dataset).collate_fn
    )
    with torch.no_grad():
        for batch in order:
            twins, index = make_twins(batch["image"], batch["mask"], batch["label"], generator=generator)
            correct.append(network(twins.to(device)).argmax(dim=1).cpu() == batch["label"][index])
    return percent(torch.cat(correct))


def accuracies(correct: Tensor, groups: Tensor) -> dict[str, Any]:
    """Of a test set in which all groups are equally large."""
    by_group = 100 * group_accuracy(correct, groups, GROUPS)
    return {
        "mean": float(by_group.mean()),
        "conflicting": float(by_group[CONFLICTING].mean()),
        "worst": float(by_group.min()),
        "groups": by_group.tolist(),
    }


def percent(correct: Tensor) -> float:
    return 100 * float(correct.float().mean())


def tabulate(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A row for each correlation and way to train: means and sample standard deviations over seeds."""
    chosen = dict.fromkeys((run["setting"]["correlation"], run["setting"]["row"]) for run in runs)
    return [
        describe([run for run in runs if (run["setting"]["correlation"], run["setting"]["row"]) == one], runs)
        for one in sorted(chosen, key=lambda one: (one[0], list(ROWS).index(one[1])))
    ]


def describe(mine: Sequence[Run], runs: Sequence[Run]) -> dict[str, Any]:
    correlation, name = mine[0]["setting"]["correlation"], mine[0]["setting"]["row"]
    found = {"correlation": correlation, "row": name, "training": ROWS[name].name, "told": ROWS[name].told}
    if "note" in mine[0]:
        return {**found, "seeds": len(mine), "note": mine[0]["note"]}
    values = {key: [run[key] for run in mine] for key in COLUMNS}
    ratios = [ratio for ratio in (time_ratio(run, runs) for run in mine) if ratio is not None]
    for key, some in {**values, "time": ratios}.items():
        if some:
            found[key], found[f"{key}_sd"] = mean_and_deviation(some)
    return {**found, "seeds": len(mine)}


def time_ratio(one: Run, runs: Sequence[Run]) -> float | None:
    """Over ERM of the same setting; None before that has run."""
    plain = next((run for run in runs if run["setting"] == {**one["setting"], "row": "erm"}), None)
    return None if plain is None else one["step_seconds"] / plain["step_seconds"]


def shown(row: Mapping[str, Any]) -> dict[str, str]:
    """A row as it is printed."""

    def cell(key: str, digits: int = 1) -> str:
        if key not in row:
            return ""
        deviation = row[f"{key}_sd"]
        return f"{row[key]:.{digits}f}" + ("" if deviation is None else f" ± {deviation:.{digits}f}")

    numbers = {title: cell(key) for key, title in COLUMNS.items()}
    numbers["mean"] = row.get("note", numbers["mean"])
    return {"training": row["training"], "told": row["told"], **numbers, "time": cell("time", 2)}


def summarize(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The keys of 100 % correlation are bare, those of another start with it, as in `95.erm_worst`."""
    summary: dict[str, float] = {}
    for correlation in dict.fromkeys(row["correlation"] for row in rows):
        prefix = "" if correlation == 100 else f"{correlation:g}."
        mine = {row["row"]: row for row in rows if row["correlation"] == correlation}
        for name, key in KEYS.items():
            if name in mine:
                summary |= {f"{prefix}{key}_{what}": mine[name][what] for what in ("mean", "worst")}
        for name in ("ours", "ours_5"):
            if {"erm", "unbiased", name} <= mine.keys():
                low, high, ours = (mine[one]["worst"] for one in ("erm", "unbiased", name))
                if high != low:
                    summary[f"{prefix}gap_closed{KEYS[name].removeprefix('ours')}"] = (ours - low) / (high - low)
    return summary


def main() -> None:
    options = arguments()
    network = SCRATCH if options.from_scratch else MOBILENET
    shape = options.epochs or network.epochs, options.images, options.size, options.batch_size
    planned = [
        Setting(row, correlation, seed, network.name, *shape)
        for seed in range(options.seeds)
        for correlation in options.correlation
        for row in options.rows
    ]
    if options.sheet:
        made = datasets(options.data, planned[0], correlated=True)
        write_png(sheet([made["train"], made["test"]]), str(options.sheet))
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    settings = list(map(asdict, planned))

    def contents(runs: list[Run]) -> dict[str, Any]:
        rows = tabulate([one for one in runs if one["setting"] in settings])
        return {"rows": rows, "summary": summarize(rows), "environment": environment(options.device)}

    ledger = Ledger(options.json, contents)
    with Progress() as bar:
        task = bar.add_task("", total=len(planned))
        for setting in planned:
            bar.update(task, description=f"{setting.correlation:g} %, seed {setting.seed}, {setting.row}")
            ledger.once(asdict(setting), partial(run, setting, network, options.data, options.device))
            bar.advance(task)
    ledger.save()  # rows and summary of these settings, also where nothing was left to run
    found = contents(ledger.runs)
    printed = argparse.Namespace(**{**vars(options), "json": None})  # the file is written, with its runs
    for correlation in sorted(options.correlation):
        rows = [shown(row) for row in found["rows"] if row["correlation"] == correlation]
        report(rows, {}, printed, f"{network.name}, {correlation:g} % correlation, {options.seeds} seeds")
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
    made.add_argument("--size", type=int, default=96, help="side of the images in pixels")
    made.add_argument("--batch-size", type=int, default=32)
    made.add_argument("--sheet", type=Path, metavar="FILE", help="also draw some images to this PNG file")
    made.set_defaults(seeds=None)
    options = made.parse_args()
    options.seeds = options.seeds or (1 if options.quick else 3)
    options.correlation = options.correlation or ([100.0] if options.quick else [95.0, 100.0])
    options.rows = options.rows or list(QUICK if options.quick else ROWS)
    options.images = options.images or (1000 if options.quick else 3000)
    return options


if __name__ == "__main__":
    main()
