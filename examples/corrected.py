"""A whole run of a task: train on a shortcut, see it, have it flagged, train again corrected, and compare.

python examples/corrected.py --task regression [--quick] [--out FOLDER]

The worlds of `camtrain.data.worlds`: what is asked lies in a small shape, and in training the tint of the background
says it as well. Validation has the shortcut, the test has not. The report of each training is in its folder.
"""

import argparse
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from camtrain.callbacks import AttentionAlignment, ExplanationMonitor, RelianceDetector
from camtrain.data.worlds import TaskWorld

OUTPUTS = {"binary": 1, "multi_label": 3, "regression": 1, "clips": 2}
NAMED = {"multi_label": "multi_label", "regression": "regression"}  # "auto" sees what the others are


class Module(pl.LightningModule):
    """Three convolutions, a linear head, the task's usual loss; nothing of camtrain."""

    def __init__(self, task: str) -> None:
        super().__init__()
        conv, norm = (nn.Conv3d, nn.BatchNorm3d) if task == "clips" else (nn.Conv2d, nn.BatchNorm2d)
        layers: list[nn.Module] = []
        for before, after, stride in ((3, 16, 2), (16, 32, 2), (32, 32, 1)):
            steps = (1, stride, stride) if task == "clips" else stride
            layers += [conv(before, after, 3, stride=steps, padding=1), norm(after), nn.ReLU()]
        self.task, self.features, self.head = task, nn.Sequential(*layers), nn.Linear(32, OUTPUTS[task])

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).flatten(2).mean(dim=2))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        answers, labels = self(batch["image"]), batch["label"]
        if self.task in ("binary", "multi_label"):
            return F.binary_cross_entropy_with_logits(answers, labels.view_as(answers))
        return F.mse_loss(answers.squeeze(1), labels) if self.task == "regression" else F.cross_entropy(answers, labels)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("val/loss", self.training_step(batch, batch_idx), batch_size=len(batch["image"]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 3e-3)


def trained(task: str, args: argparse.Namespace, folder: str, callbacks: list[pl.Callback]) -> Module:
    """The network after a training on the shortcut."""
    size, epochs = (192, 2) if args.quick else (768, 14)
    train, val = (TaskWorld(task, split, size, 32, 1.0, args.seed) for split in ("train", "val"))
    pl.seed_everything(args.seed, verbose=False)
    module = Module(task)
    trainer = pl.Trainer(
        max_epochs=epochs, callbacks=callbacks, accelerator="cpu", logger=False, default_root_dir=args.out / folder,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(train, 32, shuffle=True), DataLoader(val, 64))
    return module.eval()


@torch.no_grad()
def score(module: Module, seed: int) -> float:
    """On pictures whose tint tells nothing: the share of right answers, of a value the share of variance explained."""
    test = TaskWorld(module.task, "test", 512, 32, 0.0, seed)
    batches = [(module(batch["image"]), batch["label"]) for batch in DataLoader(test, 128)]
    answers, labels = (torch.cat(part) for part in zip(*batches, strict=True))
    if module.task == "regression":
        return float(1 - (answers.squeeze(1) - labels).square().mean() / labels.var(correction=0))
    right = answers.argmax(dim=1) == labels if module.task == "clips" else (answers > 0) == labels.view_as(answers)
    return float(right.float().mean())


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Train twice; returns how many classes were flagged, and the score before and after."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=sorted(OUTPUTS), default="regression")
    parser.add_argument("--quick", action="store_true", help="a few seconds: runs, and learns nothing")
    parser.add_argument("--out", type=Path, default=Path("runs/corrected"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    task = NAMED.get(args.task, "auto")
    detector = RelianceDetector(start_epoch=1 if args.quick else 13, task=task)
    before = trained(args.task, args, "before", [ExplanationMonitor(every_n_epochs=7, task=task), detector])
    for verdict in detector.verdicts:
        print(f"{verdict.class_name}: {verdict.verdict}, effect {verdict.effect:.2f}. {verdict.note}")
    after = trained(args.task, args, "corrected", [AttentionAlignment(task=task)])
    numbers = {
        "flagged": float(sum(verdict.verdict == "reliant" for verdict in detector.verdicts)),
        "before": score(before, args.seed),
        "after": score(after, args.seed),
    }
    print(", ".join(f"{name} {value:.2f}" for name, value in numbers.items()))
    return numbers


if __name__ == "__main__":
    main()
