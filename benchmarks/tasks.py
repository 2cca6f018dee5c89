"""In every task: is a planted shortcut found and corrected, and is a clean network left in peace?

    python benchmarks/tasks.py --quick
    python benchmarks/tasks.py --seeds 3 --json benchmarks/results/tasks.json

The worlds of `camtrain.data.worlds`: what is asked lies in small shapes, and in training the tint of the background
says it as well (for questions: the question does), in 100 % or 95 % of the pictures. Validation has the training
correlation, the test none. For each task, correlation and seed a small network is trained four times: as it is
(`before`), with `AttentionAlignment` and the masks of all pictures (`aligned`) or of 5 % (`5 %`), and on the same task
without the shortcut (`clean`). `RelianceDetector` examines `before` and `clean` after the last epoch. Alignment has its
defaults.

* `found`: the share of runs whose shortcut was flagged: of several labels the first, of regions, classes and values
  any. `false`: the share of clean runs with any flag, and of several labels those with a flag on another one too.
* The metric is balanced over what is asked, in %, on test pictures: accuracy; of several labels that of the first; of a
  value the share of its variance that is explained; of regions the mean IoU of the classes; of captions the accuracy of
  the shape's word.
* `gap closed`: how much of the way from `before` to `clean` alignment goes, in %: of the means over seeds.

A dash is what was not offered: the reason is in the JSON, under `refused`. Each finished run is in the `--json` file at
once, and a rerun skips it.
"""

import argparse
import logging
import statistics
import tempfile
import warnings
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from _bare import bare_trainer
from _report import environment, parser, report
from _runs import Ledger, Run
from torch import Tensor, nn
from torch.utils.data import DataLoader

from camtrain.callbacks import AttentionAlignment, RelianceDetector
from camtrain.data.worlds import TaskWorld
from camtrain.errors import CamtrainError

TASKS = ("binary", "multi_label", "regression", "segmentation", "clips", "captioning", "question_answering")
OUTPUTS = {"binary": 1, "multi_label": 3, "regression": 1, "segmentation": 3, "clips": 2, "captioning": 12}
WAYS = ("before", "aligned", "5 %", "clean")
EPOCHS, SIZE, SIDE, BATCH = 14, 768, 32, 32
WORDS = 6


class Net(nn.Module):
    """Three convolutions and a linear head, on the mean over space, for each pixel, or beside a question."""

    def __init__(self, task: str) -> None:
        super().__init__()
        clips = task == "clips"
        conv, norm = (nn.Conv3d, nn.BatchNorm3d) if clips else (nn.Conv2d, nn.BatchNorm2d)
        widths = [(3, 16), (16, 32), (32, 32)]
        strides = [(1, 2, 2) if clips else 2, (1, 2, 2) if clips else 2, 1]
        layers = [
            nn.Sequential(conv(i, o, 3, stride=s, padding=1), norm(o), nn.ReLU())
            for (i, o), s in zip(widths, strides, strict=True)
        ]
        self.task, self.features = task, nn.Sequential(*layers)
        self.questions = nn.Embedding(2, 32)
        self.joined = nn.Sequential(nn.Linear(32 * 8 * 8, 64), nn.ReLU(), nn.Linear(64, 3))
        self.head = nn.Conv2d(32, 3, 1) if task == "segmentation" else nn.Linear(32, OUTPUTS.get(task, 1))

    def forward(self, images: Tensor, questions: Tensor | None = None) -> Tensor:
        maps = self.features(images)
        if self.task == "segmentation":
            return F.interpolate(self.head(maps), images.shape[2:], mode="bilinear", align_corners=False)
        if questions is not None:  # a question says which places count
            gate = self.questions(questions).view(-1, 32, 1, 1).sigmoid()
            return self.joined((maps * gate).flatten(1))
        answer = self.head(maps.flatten(2).mean(dim=2))
        return answer.view(-1, 2, WORDS) if self.task == "captioning" else answer


class Module(pl.LightningModule):
    """A step for each task; nothing of camtrain."""

    def __init__(self, task: str) -> None:
        super().__init__()
        self.task, self.net = task, Net(task)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.net(*inputs)

    def loss_of(self, batch: dict[str, Any]) -> Tensor:
        answer, label = self(*asked(batch)), batch["label"]
        if self.task in ("binary", "multi_label"):
            return F.binary_cross_entropy_with_logits(answer, label.view_as(answer))
        if self.task == "regression":
            return F.mse_loss(answer.squeeze(1), label)
        return F.cross_entropy(answer.transpose(1, 2) if self.task == "captioning" else answer, label)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        return self.loss_of(batch)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.log("val/loss", self.loss_of(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 3e-3)


def asked(batch: dict[str, Any]) -> tuple[Tensor, ...]:
    return (batch["image"], batch["question"]) if "question" in batch else (batch["image"],)


def trained(setting: dict[str, Any], callbacks: Sequence[pl.Callback], device: str) -> Module:
    task, seed, clean = setting["task"], setting["seed"], setting["way"] == "clean"
    correlation = 0.0 if clean else setting["correlation"]
    share = 0.05 if setting["way"] == "5 %" else 1.0
    train = TaskWorld(task, "train", SIZE, SIDE, correlation, seed, share)
    held_out = TaskWorld(task, "val", SIZE // 2, SIDE, correlation, seed)
    pl.seed_everything(seed, verbose=False)
    module = Module(task)
    with tempfile.TemporaryDirectory() as folder:
        trainer = bare_trainer(device, callbacks, max_epochs=setting["epochs"], default_root_dir=folder)
        loader = DataLoader(train, BATCH, shuffle=True, generator=torch.Generator().manual_seed(seed))
        trainer.fit(module, loader, DataLoader(held_out, 64))
    return module.eval()


@torch.no_grad()
def metric(module: Module, seed: int) -> float:
    """The balanced metric in % on pictures whose tint, or question, tells nothing."""
    world = TaskWorld(module.task, "test", SIZE, SIDE, None, seed)
    answers, labels = [], []
    for batch in DataLoader(world, 128):
        answers.append(module(*(each.to(module.device) for each in asked(batch))).cpu())
        labels.append(batch["label"])
    answer, label = torch.cat(answers), torch.cat(labels)
    if module.task == "regression":
        return 100 * (1 - float((answer.squeeze(1) - label).square().mean() / label.var(correction=0)))
    if module.task == "segmentation":
        said = answer.argmax(dim=1)
        ious = [float(((said == c) & (label == c)).sum() / ((said == c) | (label == c)).sum()) for c in (1, 2)]
        return 100 * statistics.fmean(ious)
    if module.task in ("binary", "multi_label"):
        said, label = (answer[:, 0] > 0).long(), label.view(len(label), -1)[:, 0].long()
    elif module.task == "captioning":
        said, label = answer[:, 1].argmax(dim=1), label[:, 1]
    else:
        said = answer.argmax(dim=1)
    shares = [float((said[label == c] == c).float().mean()) for c in label.unique().tolist()]
    return 100 * statistics.fmean(shares)


def run(setting: dict[str, Any], device: str) -> dict[str, Any]:
    """One training: its metric, what the detector said, and what was refused."""
    way, task = setting["way"], setting["task"]
    detector = RelianceDetector(start_epoch=setting["epochs"] - 1, regions=0, num_examples=0, task=named(task))
    try:
        aligns = way in ("aligned", "5 %")
        callback = AttentionAlignment(task=named(task)) if aligns else detector
        module = trained(setting, [callback], device)
    except CamtrainError as error:
        return {"metric": None, "refused": str(error), "verdicts": {}}
    verdicts = {each.class_name: [each.verdict, each.effect, each.note] for each in detector.verdicts}
    return {"metric": metric(module, setting["seed"]), "refused": "", "verdicts": verdicts}


def named(task: str) -> str:
    return "auto" if task in ("clips", "binary") else task


def flags(one: Run) -> tuple[bool, bool]:
    """Whether what has the shortcut is flagged, and whether something without it is."""
    flagged = [name for name, (verdict, *_) in one["verdicts"].items() if verdict == "reliant"]
    if one["setting"]["task"] == "multi_label":
        return "class 0" in flagged, any(name != "class 0" for name in flagged)
    return bool(flagged), False


def row_of(task: str, correlation: float, runs: Sequence[Run]) -> dict[str, Any]:
    """One line of the table."""
    mine = [one for one in runs if (one["setting"]["task"], one["setting"]["correlation"]) == (task, correlation)]
    clean = [one for one in runs if one["setting"]["task"] == task and one["setting"]["way"] == "clean"]
    ways = {way: [one for one in mine if one["setting"]["way"] == way] for way in WAYS[:-1]} | {"clean": clean}
    means = {way: mean([one["metric"] for one in each]) for way, each in ways.items()}
    judged = any(effect == effect for one in ways["before"] for _, effect, _ in one["verdicts"].values())
    gap = {name: closed(ways, way) for name, way in (("gap closed", "aligned"), ("with 5 %", "5 %"))}
    return {
        "task": task,
        "correlation": correlation,
        "found": mean([float(flags(one)[0]) for one in ways["before"]]) if judged else None,
        "seeds": len(ways["before"]),
        "false": mean([float(any(flags(one))) for one in clean] + [float(flags(one)[1]) for one in ways["before"]])
        if judged
        else None,
        **means,
        **gap,
    }


def closed(ways: dict[str, list[Run]], way: str) -> float | None:
    """Over the seeds that were trained in all three ways."""
    by_seed = {name: {one["setting"]["seed"]: one["metric"] for one in ways[name]} for name in ("before", way, "clean")}
    seeds = set.intersection(*map(set, by_seed.values()))
    before, after, best = (mean([by_seed[name][seed] for seed in seeds]) for name in ("before", way, "clean"))
    if before is None or after is None or best is None or best - before < 1:
        return None
    return 100 * (after - before) / (best - before)


def mean(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return statistics.fmean(numbers) if numbers else None


def described(runs: list[Run], device: str) -> dict[str, Any]:
    pairs = dict.fromkeys((one["setting"]["task"], one["setting"]["correlation"]) for one in runs)
    rows = [row_of(task, correlation, runs) for task, correlation in pairs if correlation]
    summary: dict[str, Any] = {}
    for row in rows:
        if row["correlation"] == 1.0:
            summary |= {f"{row['task']}.found": row["found"], f"{row['task']}.false_alarms": row["false"]}
            summary[f"{row['task']}.gap_closed"] = row["gap closed"]
    return {"rows": rows, "summary": summary, "environment": environment(device)}


def settings(options: argparse.Namespace) -> list[dict[str, Any]]:
    return [
        {"task": task, "correlation": 0.0 if way == "clean" else c, "seed": seed, "way": way, "epochs": options.epochs}
        for task in options.tasks
        for seed in range(options.first_seed, options.first_seed + options.seeds)
        for c in options.correlations or ((1.0,) if options.quick else (1.0, 0.95))
        for way in options.ways
        if way != "clean" or c == 1.0
    ]


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    made.add_argument("--epochs", type=int, default=EPOCHS)
    made.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    made.add_argument("--correlations", nargs="+", type=float, metavar="C", help="default 1 0.95, quick 1")
    made.add_argument("--first-seed", type=int, default=0, metavar="N")
    options = made.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    ledger = Ledger(options.json, lambda runs: described(runs, options.device))
    for setting in settings(options):
        one = ledger.once(setting, lambda setting=setting: run(setting, options.device))
        said = ", ".join(f"{name} {each[0]} {each[1]:.2f}" for name, each in one["verdicts"].items())
        value = "-" if one["metric"] is None else f"{one['metric']:.1f}"
        print(*setting.values(), value, said, one["refused"][:100], f"({one['seconds']:.0f} s)", flush=True)
    found = described(ledger.runs, options.device)
    shown = [{name: "-" if value is None else value for name, value in row.items()} for row in found["rows"]]
    options.json = None  # the ledger has written it
    report(shown, found["summary"], options, "A shortcut in every task: found, and closed")


if __name__ == "__main__":
    main()
