"""`camtrain canary FOLDER --check RUN`: what was planted, what the run found of it, and what the cue alone does."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from scipy.special import stdtrit
from torch import Tensor, nn

from camtrain.cam import evaluating
from camtrain.cli.answers import choice_of, output_of
from camtrain.cli.compare import find_run
from camtrain.cli.images import data_settings
from camtrain.cli.options import CanaryOptions
from camtrain.data.canary import Canary
from camtrain.data.files import read_image
from camtrain.data.folders import MaskedImageFolder
from camtrain.data.transforms import IMAGENET_MEAN, IMAGENET_STD, eval_transform, transform_pair
from camtrain.errors import ConfigurationError, DataError
from camtrain.loading import load_model, model_names
from camtrain.metrics import Interval, mean_interval
from camtrain.records import Verdict, read_history
from camtrain.reliance import Criteria
from camtrain.report.charts import signed
from camtrain.report.summary import latest_verdicts
from camtrain.tasks import SingleLabel
from camtrain.tasks.answers import probabilities

TRUTH_FILE = "canary.json"
NO_CUE = -1
MOST = 32  # images of a class that are repainted
# What the detector calls a cue of each kind, by the words in it.
CALLED = {
    "corner": ("region", "sticker"),
    "watermark": ("region", "sticker"),
    "sticker": ("sticker", "region"),
    "frame": ("frame", "region"),
    "background": ("background",),
    "tint": ("tint",),
    "brightness": ("brightness",),
    "sharpness": ("sharpness",),
}


@dataclass(frozen=True)
class Check:
    """One class: was a cue of its own planted, what the run says of it, and what its cue alone does to the network.

    `alone` is how much more probable the class is with its own cue than with another's (with none, where no other class
    has one) on the same image; None where that was not measured.
    """

    name: str
    planted: bool
    verdict: Verdict | None
    outcome: str
    alone: Interval | None


def run(options: CanaryOptions, place: Path) -> int:
    """Check, and say it."""
    truth = read_truth(options.folder)
    folder = find_run(place)
    history = read_history(folder)
    verdicts = {row.class_name: row for row in latest_verdicts(history, max(history.epochs, default=None))}
    alone, reason = _alone(options, truth, folder)
    names = list(truth["own_cue"])
    checks = [
        Check(
            name,
            name in truth["classes"],
            verdicts.get(name),
            outcome(truth["kind"], verdicts.get(name), planted=name in truth["classes"]),
            alone.get(name),
        )
        for name in names
    ]
    _tell(options, truth, checks, reason)
    return 0


def read_truth(folder: Path) -> dict[str, Any]:
    """What `camtrain canary` planted into a folder; DataError where it did not."""
    file = folder / TRUTH_FILE
    if not file.is_file():
        raise DataError(f"{folder} holds no {TRUTH_FILE}: name the folder that camtrain canary wrote.")
    try:
        truth = json.loads(file.read_text(encoding="utf-8"))
        return {**truth, "kind": str(truth["kind"]), "classes": list(truth["classes"])}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is not what camtrain canary writes: {error!r}. Plant the folder anew.") from error


def outcome(kind: str, verdict: Verdict | None, *, planted: bool) -> str:
    """What a verdict is worth, where the truth is known.

    >>> outcome("tint", Verdict(0, "boat", "reliant", 0.4, 0.3, 0.5, 0.0, 0.01, 40, "background tint"), planted=True)
    'found'
    """
    if verdict is None:
        return "not examined"
    flagged = verdict.verdict in ("reliant", "suspect")
    if not planted:
        return "false alarm" if verdict.verdict == "reliant" else "rightly not flagged"
    if flagged:
        return "found" if any(word in verdict.cue for word in CALLED[kind]) else "found, under another name"
    return "missed" if verdict.verdict in ("not reliant", "no evidence") else "undecided"


def images_to_find(strength: float, classes: int, *, criteria: Criteria = Criteria()) -> int | None:  # noqa: B008  frozen
    """How many images of a class show that a network reads the cue alone; None where it is too weak to be told.

    Such a network is right as often as the cue is the class's own, and follows it to another class when it is
    repainted: its answers move by `strength` less what another class's cue would give by chance. That has to exceed
    tau after the correction over classes, both tests and the detector's five cues, in a first round.

    >>> images_to_find(0.9, 3), images_to_find(0.34, 3)
    (10, None)
    """
    effect = strength - (1 - strength) / max(1, classes - 1)
    if effect <= criteria.tau:
        return None
    spread = math.sqrt(max(effect * (1 - effect), 0.05))
    tail = 0.5 * criteria.alpha / (2 * 5 * classes)
    for count in range(criteria.min_images, 100_000):
        if float(stdtrit(count - 1, 1 - tail)) * spread / math.sqrt(count) < effect - criteria.tau:
            return count
    return None


# What the cue alone does: the images before planting, painted anew.


def _alone(options: CanaryOptions, truth: Mapping[str, Any], folder: Path) -> tuple[dict[str, Interval], str]:
    """By class, what its own cue does against another's; or why that was not measured."""
    source = truth.get("source")
    if source is None or not Path(source["folder"]).is_dir():
        return {}, "the images before planting are not where they were"
    weights = options.weights or _checkpoint_of(folder)
    if options.model is None and weights is None:
        return {}, "there is no checkpoint beside the run: name the network with --model and --weights"
    layout = {name: value for name, value in source.items() if name != "folder"}
    dataset = MaskedImageFolder(source["folder"], verify="none", **layout)
    count = len(dataset.class_names)
    network = load_model(options.model or str(weights), None if options.model is None else weights, count)
    names = model_names(network, None) or dataset.class_names
    if set(names) != set(dataset.class_names):
        raise ConfigurationError(f"The network's classes are {names[:5]}, the folder's {dataset.class_names[:5]}.")
    canary = Canary(
        truth["kind"],
        count,
        truth["strength"],
        tuple(dataset.class_names.index(name) for name in truth["classes"]),
        seed=truth["seed"],
    )
    settings = data_settings(folder)
    side = options.size or settings.get("image_size") or 224
    choice = choice_of(options.task, output_of(network, side))
    transform = eval_transform(side, settings.get("mean") or IMAGENET_MEAN, settings.get("std") or IMAGENET_STD)
    held_out = {sample.split for sample in dataset.samples} - {"train", None}
    effects = {}
    for label in canary.cued:
        rows = [
            index
            for index, sample in enumerate(dataset.samples)
            if sample.label == label and (not held_out or sample.split in held_out)
        ]
        rows = [rows[place * len(rows) // min(len(rows), MOST)] for place in range(min(len(rows), MOST))]
        name = dataset.class_names[label]
        values = repainted(network, choice, dataset, canary, rows, names.index(name), transform)
        if len(values):
            effects[name] = mean_interval(float(values.sum()), float(values @ values), len(values))
    return effects, ""


def repainted(
    network: nn.Module,
    choice: SingleLabel,
    dataset: MaskedImageFolder,
    canary: Canary,
    rows: Sequence[int],
    answer: int,
    transform: Any,
) -> Tensor:
    """The probability of the network's class `answer` with the image's own cue, less with another's or none."""
    differences = []
    with torch.no_grad(), evaluating(network):
        for index in rows:
            sample = dataset.samples[index]
            image = read_image(sample.image).float() / 255
            mask = dataset.read_mask(sample)
            mask = torch.full(image.shape[1:], -1.0) if mask is None else mask
            other = canary.cued[canary.cued.index(sample.label) - 1] if len(canary.cued) > 1 else NO_CUE
            shown, keys = torch.tensor([sample.label, other]), torch.tensor([index, index])
            painted = canary.paint(image.expand(2, -1, -1, -1), shown, keys, mask.expand(2, -1, -1))
            pixels = (painted * 255).round().clamp(0, 255).to(torch.uint8)
            inputs = torch.stack([transform_pair(transform, each, mask)[0] for each in pixels])
            own, another = probabilities(choice.read(network(inputs)))[:, answer].tolist()
            differences.append(own - another)
    return torch.tensor(differences, dtype=torch.float64)


def _checkpoint_of(folder: Path) -> str | None:
    """The newest checkpoint of the run that a folder of records belongs to."""
    for place in (folder, folder.parent, folder.parent.parent):
        files = [file for file in place.glob("checkpoints/*.ckpt") if file.is_file()]
        if files:
            return str(max(files, key=lambda file: (file.stat().st_mtime_ns, file.stem.startswith("last"))))
    return None


def _tell(options: CanaryOptions, truth: Mapping[str, Any], checks: Sequence[Check], reason: str) -> None:
    if options.json:
        rows = [
            {
                "class": check.name,
                "planted": check.planted,
                "verdict": check.verdict and check.verdict.verdict,
                "effect": check.verdict and check.verdict.effect,
                "cue": check.verdict and check.verdict.cue,
                "where": check.verdict and check.verdict.where,
                "outcome": check.outcome,
                "alone": check.alone and [check.alone.mean, check.alone.low, check.alone.high, check.alone.count],
            }
            for check in checks
        ]
        print(json.dumps({"kind": truth["kind"], "strength": truth["strength"], "classes": rows}, indent=2))  # noqa: T201
        return
    console = Console()
    table = Table("class", "planted", "the run says", "effect", "of", "where", "outcome", "the cue alone")
    for check in checks:
        row = check.verdict
        table.add_row(
            check.name,
            f"{truth['kind']}, {truth['strength']:g}" if check.planted else "none",
            "–" if row is None else row.verdict,
            "–" if row is None else f"{signed(row.effect)} ({signed(row.low)} to {signed(row.high)})",
            "–" if row is None else row.cue,
            "–" if row is None else row.where or "–",
            check.outcome,
            "–" if check.alone is None else f"{signed(check.alone.mean)} ({check.alone.count} images)",
        )
    console.print(table)
    planted = [check for check in checks if check.planted]
    hits = sum(check.outcome.startswith("found") for check in planted)
    alarms = sum(check.outcome == "false alarm" for check in checks)
    lines = [("found", f"{hits} of {len(planted)} classes with a cue; {alarms} false alarms")]
    means = "the class's probability with its own cue, less that with another's, on the same images"
    lines.append(("alone", f"not measured: {reason}" if reason else means))
    for label, text in lines:
        console.print(f"{label:<8} {text}", highlight=False, markup=False, soft_wrap=True)
