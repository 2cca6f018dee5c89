"""Train, watch, judge and correct with two builds of camtrain, and print each number that differs: there is none.

    .venv/bin/python scripts/same_numbers.py --rev REVISION     compares this checkout with a revision of it

Each build runs in a process of its own, from a git worktree: two epochs on generated scenes and on a module that knows
nothing of camtrain, with each callback. Compared to the last digit: a digest of the weights, every logged scalar, every
verdict with its effect and interval.
"""

import argparse
import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rev", default="HEAD", help="the revision to compare with")
    parser.add_argument("--only", nargs="*", default=(), help="runs whose names contain one of these words")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(numbers(options.only)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "camtrain"
        git("worktree", "add", "--detach", str(other), options.rev)
        try:
            before, after = (in_build(build, options.only) for build in (other, ROOT))
        finally:
            git("worktree", "remove", "--force", str(other))
    lines = list(differences(before, after))
    print("\n".join(lines) or "no difference")
    print(f"{len(before)} runs, {sum(map(len, before.values()))} numbers, {len(lines)} differences")
    return 1 if lines else 0


def git(*arguments: str) -> None:
    subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, capture_output=True)


def in_build(build: Path, only: list[str]) -> dict[str, dict[str, Any]]:
    """The numbers of one build."""
    command = [sys.executable, str(Path(__file__).resolve()), "--child", "--only", *only]
    environment = {**os.environ, **THREADS, "PYTHONPATH": str(build), "WANDB_MODE": "offline"}
    done = subprocess.run(command, cwd=build, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{build} failed:\n{done.stderr[-3000:]}")
    numbers: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return numbers


def differences(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> Iterator[str]:
    for run in before:
        for name in sorted(before[run] | after[run]):
            old, new = (build[run].get(name, "missing") for build in (before, after))
            if old != new:
                yield f"{run}: {name}: {old} before, {new} after"


def numbers(only: list[str]) -> dict[str, dict[str, Any]]:
    """Every run's numbers, in this process."""
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    chosen = {name: run for name, run in runs().items() if not only or any(word in name for word in only)}
    return {name: run() for name, run in chosen.items()}


def runs() -> dict[str, Callable[[], dict[str, Any]]]:
    from camtrain.callbacks import (
        AttentionAlignment,
        CueRandomization,
        ExplanationMonitor,
        FaithfulnessMonitor,
        LastLayerRetraining,
        RelianceDetector,
    )

    made: dict[str, Callable[[], list[Any]]] = {
        "plain": list,
        "monitor": lambda: [ExplanationMonitor()],
        "monitor, four methods": lambda: [
            ExplanationMonitor(methods=["grad_cam", "layer_cam", "hires_cam", "contribution_cam"], num_probes=4)
        ],
        "detector": lambda: [RelianceDetector(every_n_epochs=1)],
        "alignment": lambda: [AttentionAlignment()],
        "alignment, added twins": lambda: [AttentionAlignment(twins_place="add")],
        "alignment, penalty alone": lambda: [AttentionAlignment(twins=0, weight=1.0)],
        "alignment, later": lambda: [AttentionAlignment(start_when=1)],
        "faithfulness": lambda: [FaithfulnessMonitor()],
        "randomization": lambda: [CueRandomization(cue="tint")],
        "retraining": lambda: [LastLayerRetraining()],
        "everything": lambda: [
            ExplanationMonitor(),
            RelianceDetector(every_n_epochs=1),
            AttentionAlignment(start_when="reliance/flagged"),
        ],
    }
    without = ("retraining",)  # needs a network whose last layer it finds, and training images with masks
    return {
        f"{kind}: {name}": lambda kind=kind, make=make: run(kind, make())
        for kind in ("scenes", "foreign")
        for name, make in made.items()
        if kind == "scenes" or name not in without
    }


def run(kind: str, callbacks: list[Any]) -> dict[str, Any]:
    """Two epochs, then what was logged and learnt."""
    import pytorch_lightning as pl
    import torch

    pl.seed_everything(0, verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_epochs=2,
            accelerator="cpu",
            logger=False,
            callbacks=callbacks,
            default_root_dir=folder,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        module, data = scenes() if kind == "scenes" else foreign()
        trainer.fit(module, **data)
        kept = {name: float(value).hex() for name, value in trainer.callback_metrics.items()}
        for callback in callbacks:
            for verdict in getattr(callback, "verdicts", None) or ():
                about = f"verdict of {verdict.class_name}, {verdict.cue}"
                kept[about] = f"{verdict.verdict} {verdict.effect} {verdict.low} {verdict.high} {verdict.p_value}"
        weights = b"".join(value.cpu().numpy().tobytes() for value in module.state_dict().values())
        kept["weights"] = hashlib.sha256(weights).hexdigest()[:16]
        kept["next random number"] = float(torch.rand(())).hex()
    return kept


def scenes() -> tuple[Any, dict[str, Any]]:
    from camtrain.data.modules import ScenesDataModule
    from camtrain.module import ImageClassifier

    data = ScenesDataModule(
        correlation=0.95, batch_size=32, mask_fraction=0.5, train_size=256, val_size=128, image_size=32
    )
    module = ImageClassifier("camtrain.networks.SmallResNet", num_classes=4)
    return module, {"datamodule": data}


def foreign() -> tuple[Any, dict[str, Any]]:
    import pytorch_lightning as pl
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    class Foreign(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(
                nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2),
                nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(inplace=True), nn.Dropout(0.3),
                nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3),
            )  # fmt: skip

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val/loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(192) % 3
    masks = torch.zeros(192, 16, 16)
    masks[:, 4:12, 4:12] = 1
    images = torch.rand(192, 3, 16, 16, generator=generator) * 0.5
    images[:, 0] += 0.4 * (labels == 1).view(-1, 1, 1) * (1 - masks)
    images[:, 1] += 0.2 * (labels == 2).view(-1, 1, 1) * masks
    loader = DataLoader(TensorDataset(images, labels, masks), 24)
    return Foreign(), {"train_dataloaders": loader, "val_dataloaders": loader}


if __name__ == "__main__":
    sys.exit(main())
