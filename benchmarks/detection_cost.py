"""What a round of detection costs, in plain training epochs of the demo.

    python benchmarks/detection_cost.py

A validation pass of ten classes with 60 images each, 64 px, annotated or not, with `RelianceDetector` at its defaults,
less the same pass without it; divided by an epoch of the demo's training (its scenes, its network, no callback) without
validation. In CPU seconds of the process (on a GPU on the wall), in turns; the ratio is the median over the repeats,
its spread the distance between their quartiles.

The network is the demo's. A square tells the class by its color, and so does the background, or not: `every class
reliant` is the dearest round there is, since all that is found is looked at again; `nothing to find` the usual one.
"""

import logging
import tempfile
import warnings
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from _bare import BareClassifier, bare_trainer
from _faithfulness_speed import clock
from _report import median_and_spread, parser, report
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from camtrain.callbacks import RelianceDetector
from camtrain.data.canary.cues import hsv_to_rgb
from camtrain.data.modules import ScenesDataModule
from camtrain.module import ImageClassifier
from camtrain.networks import SmallResNet

CLASSES, PER_CLASS, SIDE, BATCH = 10, 60, 64, 32
CASES = {
    "every class reliant": (True, True),
    "nothing to find": (False, True),
    "every class reliant, no masks": (True, False),
    "nothing to find, no masks": (False, False),
}  # is there a cue, are there masks


def squares(per_class: int, cued: bool, seed: int, masked: bool = True) -> TensorDataset:
    """Grainy backgrounds with a square in the middle, whose hue tells the class.

    With a cue the background's hue tells it too, and the square's is blurred by noise; without, it is any hue.
    """
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(CLASSES * per_class) % CLASSES
    shown = labels if cued else torch.randint(CLASSES, labels.shape, generator=g)
    images = hues(shown) + 0.05 * torch.randn(len(labels), 3, SIDE, SIDE, generator=g)
    masks = torch.zeros(len(labels), SIDE, SIDE)
    middle = slice(SIDE // 3, 2 * SIDE // 3)
    masks[:, middle, middle] = 1
    noise = 0.5 if cued else 0.0
    squares = hues(labels) * (1 - noise) + noise * torch.rand(len(labels), 3, 1, 1, generator=g)
    images[:, :, middle, middle] = squares
    return TensorDataset(images.clamp(0, 1), labels, *[masks] * masked)


def hues(labels: Tensor) -> Tensor:
    hue = (labels.float() + 0.5) / CLASSES
    return hsv_to_rgb(torch.stack([hue, 0.7 + 0 * hue, 0.8 + 0 * hue], dim=1).view(-1, 3, 1, 1))


def learnt(cued: bool, device: str) -> BareClassifier:
    """The demo's network after a few epochs on squares."""
    torch.manual_seed(0)
    module = BareClassifier(SmallResNet(CLASSES), torch.optim.AdamW, lr=2e-3)
    bare_trainer(device, [], max_epochs=3).fit(module, DataLoader(squares(100, cued, 0), BATCH, shuffle=True))
    return module


def validation(module: pl.LightningModule, images: TensorDataset, device: str, detect: bool) -> tuple[float, list[str]]:
    """Seconds of a pass, and the verdicts."""
    detector = RelianceDetector(images_per_class=PER_CLASS)
    with tempfile.TemporaryDirectory() as folder:
        trainer = bare_trainer(device, [detector] if detect else [], default_root_dir=folder)
        start = clock(next(module.parameters()))
        trainer.validate(module, DataLoader(images, BATCH), verbose=False)
        seconds = clock(next(module.parameters())) - start
    return seconds, [verdict.verdict for verdict in detector.verdicts] if detect else []


def epoch(data: pl.LightningDataModule, device: str) -> float:
    """Seconds of an epoch of the demo's training."""
    module = ImageClassifier(SmallResNet(4), num_classes=4, optimizer=partial(torch.optim.AdamW, lr=2e-3))
    trainer = bare_trainer(device, [], max_epochs=1, limit_val_batches=0)
    start = clock(next(module.parameters()))
    trainer.fit(module, datamodule=data)
    return clock(next(module.parameters())) - start


def compare(cued: bool, masked: bool, device: str, repeats: int) -> dict[str, Any]:
    """One case; the first turn warms up."""
    module, images = learnt(cued, device), squares(PER_CLASS, cued, 1, masked)
    data = ScenesDataModule(correlation=0.95, batch_size=32)
    data.setup("fit")
    rounds, epochs, verdicts = [], [], []
    for repeat in track(range(repeats + 1), "cued" if cued else "clean"):
        plain, _ = validation(module, images, device, detect=False)
        examined, verdicts = validation(module, images, device, detect=True)
        trained = epoch(data, device)
        if repeat:
            rounds.append(examined - plain)
            epochs.append(trained)
    ratio, spread = median_and_spread([a / b for a, b in zip(rounds, epochs, strict=True)])
    return {
        "epochs": ratio,
        "spread": spread,
        "round, seconds": median_and_spread(rounds)[0],
        "epoch, seconds": median_and_spread(epochs)[0],
        "reliant": verdicts.count("reliant"),
        "not reliant": verdicts.count("not reliant") + verdicts.count("no evidence"),
        "repeats": repeats,
    }


def main() -> None:
    made = parser(__doc__ or "")
    made.add_argument("--repeats", type=int, default=None, help="default: 5, quick 3")
    options = made.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    repeats = options.repeats or (3 if options.quick else 5)
    rows = [{"case": name, **compare(*case, options.device, repeats)} for name, case in CASES.items()]
    summary = {f"epochs_{row['case'].replace(',', '').replace(' ', '_')}": row["epochs"] for row in rows}
    report(rows, summary, options, "A round of detection, in plain training epochs of the demo")


if __name__ == "__main__":
    main()
