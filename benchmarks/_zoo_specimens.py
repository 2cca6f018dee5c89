"""The zoo: networks trained with a planted cue, and by the generator's word what each class owes to it."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from _zoo_bases import BASES, Scenes, enlarged, marked, scenes
from torch import Tensor, nn

from camtrain.data import Canary
from camtrain.data.canary import KINDS
from camtrain.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from camtrain.loading import build_network, load_weights
from camtrain.networks import SmallResNet

RELIANT, CLEAN = 0.05, 0.01  # what a cue earns or wins, in accuracy
CONTROLS = ("none", "independent", "large", "on object")
SIZES = {"fashion": 40, "photographs": 64}
NETWORKS = {"fashion": ("small", "plain"), "photographs": ("small", "mobilenet_v2")}
QUARTER = {"fashion": 2, "photographs": 1}  # of the classes
COUNTS = {"fashion": (6000, 1600, 2400), "photographs": (2400, 960, 1200)}  # training, validation, test


@dataclass(frozen=True)
class Specimen:
    """All that a network of the zoo depends on; `cued` classes have a cue, 0 stands for all of them."""

    base: str
    network: str
    kind: str
    strength: float
    cued: int
    seed: int

    @property
    def number(self) -> int:
        """A seed of its own."""
        return zlib.crc32(repr(self).encode())


def plan(seed: int, bases: tuple[str, ...] = BASES) -> list[Specimen]:
    """The specimens of a seed: every kind at two strengths, for all classes and for a quarter, and the controls."""
    found = []
    for base in bases:
        for turn, kind in enumerate(KINDS):
            networks = NETWORKS[base]
            first, second = networks[(turn + seed) % 2], networks[(turn + seed + 1) % 2]
            found.append(Specimen(base, first, kind, 1.0, 0, seed))
            found.append(Specimen(base, second, kind, (0.9, 0.8, 0.7)[(turn + seed) % 3], QUARTER[base], seed))
        found += [Specimen(base, network, control, 1.0, 0, seed) for control in CONTROLS for network in NETWORKS[base]]
    return found


def canary_of(specimen: Specimen, classes: int) -> Canary | None:
    """What is planted; None for nothing."""
    if specimen.kind in ("none", "large", "on object"):
        return None
    g = torch.Generator().manual_seed(specimen.number)
    chosen = tuple(sorted(torch.randperm(classes, generator=g)[: specimen.cued].tolist())) or None
    if specimen.kind == "independent":
        return Canary("corner", classes, independent=True, seed=specimen.number)
    return Canary(specimen.kind, classes, specimen.strength, classes=chosen, seed=specimen.number)


def posed(data: Scenes, specimen: Specimen) -> Scenes:
    """The scenes as a control asks for them: objects that fill the frame, or bear a mark of their class."""
    if specimen.kind == "large":
        return enlarged(data)
    return marked(data, specimen.number) if specimen.kind == "on object" else data


def planted(data: Scenes, canary: Canary | None) -> Scenes:
    """The scenes with their cues."""
    if canary is None:
        return data
    return replace(data, images=canary(data.images, data.labels, data.keys, data.masks))


@dataclass(frozen=True)
class Trained:
    """A network in evaluation mode on images in [0, 1], what it was trained with, and the data to judge it by."""

    predict: Callable[[Tensor], Tensor]
    network: nn.Module
    validation: Scenes
    truth: list[dict[str, float]]
    accuracy: float


def raise_specimen(specimen: Specimen, root: Path, device: str) -> Trained:
    """Train it, and measure on the test set what its cues are worth."""
    size = SIZES[specimen.base]
    train, val, test = (
        posed(scenes(specimen.base, root, split, count, size, specimen.seed), specimen)
        for split, count in zip(("train", "val", "test"), COUNTS[specimen.base], strict=True)
    )
    canary = canary_of(specimen, train.classes)
    network = train_network(specimen, planted(train, canary), root, device)

    def predict(images: Tensor) -> Tensor:
        return network(images.to(device))

    return Trained(
        predict,
        network,
        planted(val, canary),
        truth_of(predict, test, canary),
        share_right(predict, planted(test, canary)),
    )


def train_network(specimen: Specimen, data: Scenes, root: Path, device: str) -> nn.Module:
    """AdamW with a one-cycle rate; the images mirrored at random."""
    torch.manual_seed(specimen.number)
    network, rate, epochs = made(specimen.network, data.classes, root)
    network = network.to(device).to(memory_format=torch.channels_last).train()
    steps = len(data) // 64
    optimizer = torch.optim.AdamW(network.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(data))[: 64 * steps].split(64):
            images, labels = data.images[rows].to(device), data.labels[rows].to(device)
            loss = F.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def made(name: str, classes: int, root: Path) -> tuple[nn.Module, float, int]:
    """A network that takes images in [0, 1], its learning rate and epochs."""
    if name == "mobilenet_v2":
        weights = root / "weights/mobilenet_v2-b0353104.pth"
        network = build_network(name, classes)
        load_weights(network, str(weights))
        return nn.Sequential(Normalized(), network), 1e-3, 4
    if name == "small":
        return nn.Sequential(Normalized(), SmallResNet(classes, width=8)), 6e-3, 8
    return nn.Sequential(Normalized(), plain_network(classes)), 3e-3, 8


def plain_network(classes: int) -> nn.Sequential:
    """Three convolutions with pooling, then a hidden layer: cells that see little."""
    parts: list[nn.Module] = []
    for before, after in ((3, 16), (16, 32), (32, 48)):
        parts += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48 * 16, classes))


class Normalized(nn.Module):
    """By ImageNet's mean and deviation."""

    def forward(self, images: Tensor) -> Tensor:
        mean, std = (images.new_tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        return (images - mean) / std


@torch.no_grad()
def answers(predict: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """The predicted classes."""
    return torch.cat([predict(part).argmax(dim=1).cpu() for part in images.split(200)])


def share_right(predict: Callable[[Tensor], Tensor], data: Scenes) -> float:
    """Accuracy in [0, 1]."""
    return float((answers(predict, data.images) == data.labels).float().mean())


def truth_of(predict: Callable[[Tensor], Tensor], test: Scenes, canary: Canary | None) -> list[dict[str, float]]:
    """For each class what its cue, in place of a random one, earns its own images, and wins from the others'.

    A class without a cue owes nothing to one.
    """
    nothing = {"cost": 0.0, "win": 0.0}
    if canary is None or canary.independent:
        return [nothing] * test.classes
    random = answers(predict, planted(test, canary.randomized()).images)
    sure = replace(canary, strength=1.0)
    found = []
    for c in range(test.classes):
        if c not in canary.cued:
            found.append(nothing)
            continue
        cued = answers(predict, sure(test.images, torch.full_like(test.labels, c), test.keys, test.masks))
        more, own = (cued == c).float() - (random == c).float(), test.labels == c
        found.append({"cost": float(more[own].mean()), "win": float(more[~own].mean())})
    return found


def is_reliant(truth: dict[str, float]) -> bool | None:
    """By the generator's word; None where the cue is worth something between nothing and enough."""
    worth = max(truth["cost"], truth["win"])
    return True if worth >= RELIANT else False if worth <= CLEAN else None
