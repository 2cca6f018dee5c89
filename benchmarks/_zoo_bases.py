"""What cues are planted into: garments on painted canvases, and real objects in front of real skies.

Neither base has a cue of its own: backgrounds are drawn whatever the class.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from _composites import BALANCED, CLASSES, Composites
from torch import Tensor
from torchvision import datasets

from camtrain.data.canary.cues import hsv_to_rgb
from camtrain.data.decoy import read_digits
from camtrain.data.subsets import SPLITS, permutation

CANVAS = 40
GARMENTS = 8  # the first classes of Fashion-MNIST
BASES = ("fashion", "photographs")


@dataclass(frozen=True)
class Scenes:
    """Images `(N, 3, H, W)` in [0, 1], labels, masks of the objects, and a number of each image of its own."""

    images: Tensor
    labels: Tensor
    masks: Tensor
    keys: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> int:
        """How many there are."""
        return int(self.labels.max()) + 1

    def of(self, rows: Tensor) -> "Scenes":
        """Some of them."""
        return Scenes(self.images[rows], self.labels[rows], self.masks[rows], self.keys[rows])


@lru_cache(maxsize=6)
def scenes(base: str, root: Path, split: str, count: int, size: int, seed: int) -> Scenes:
    """A split of a base; no garment or photograph is in two of them."""
    if base == "fashion":
        return _fashion(root, split, count, seed)
    pictures = Composites(root, split, count, BALANCED, size, seed)
    images, masks = pictures.pictures
    keys = torch.arange(count) + 1_000_000 * SPLITS.index(split)
    return Scenes(images.float() / 255, pictures.labels, masks.float(), keys)


def enlarged(data: Scenes, share: float = 0.85) -> Scenes:
    """Each picture cropped around its object, whose longer side then is this share of the frame's."""
    side = data.images.shape[-1]
    thetas = torch.zeros(len(data), 2, 3)
    for theta, mask in zip(thetas, data.masks, strict=True):
        rows, columns = (mask.amax(dim=axis).nonzero().flatten() for axis in (1, 0))
        ends = [(int(found[0]), int(found[-1]) + 1) if len(found) else (0, side) for found in (columns, rows)]
        scale = min(1.0, max(high - low for low, high in ends) / share / side)
        for axis, (low, high) in enumerate(ends):
            theta[axis, axis] = scale
            theta[axis, 2] = min(max((low + high) / side - 1, scale - 1), 1 - scale)
    grid = F.affine_grid(thetas, [len(data), 1, side, side], align_corners=False)
    images = F.grid_sample(data.images, grid, padding_mode="border", align_corners=False)
    masks = F.grid_sample(data.masks[:, None], grid, align_corners=False)[:, 0]
    return Scenes(images, data.labels, (masks >= 0.5).float(), data.keys)


def marked(data: Scenes, seed: int) -> Scenes:
    """A disc in the color of the class on each object, and nowhere else: what it wears is a part of it."""
    g = torch.Generator().manual_seed(seed)
    hues = torch.stack([data.labels / data.classes, *[torch.full((len(data),), 0.9)] * 2], dim=1)
    colors = hsv_to_rgb(hues.view(-1, 3, 1, 1))
    side, images = data.images.shape[-1], data.images.clone()
    lines = torch.arange(side)
    for image, mask, color in zip(images, data.masks, colors, strict=True):
        inside = mask.nonzero()
        if len(inside):
            top, left = inside[torch.randint(len(inside), (1,), generator=g).item()].tolist()
            disc = (lines[:, None] - top) ** 2 + (lines - left) ** 2 <= (side / 12) ** 2
            image[:] = torch.where(disc & (mask > 0.5), color, image)
    return Scenes(images, data.labels, data.masks, data.keys)


def class_names(base: str) -> list[str]:
    """For tables."""
    return list(CLASSES) if base == "photographs" else datasets.FashionMNIST.classes[:GARMENTS]


def _fashion(root: Path, split: str, count: int, seed: int) -> Scenes:
    originals, labels = read_digits(datasets.FashionMNIST, root, train=split != "test", download=False)
    order = permutation(len(labels), seed)
    order = order[labels[order] < GARMENTS]
    chosen = order[-count:] if split == "val" else order[:count]
    g = torch.Generator().manual_seed(3 * seed + SPLITS.index(split))
    garments, labels = originals[chosen].float() / 255, labels[chosen]
    coarse = torch.rand(count, 3, 5, 5, generator=g)
    canvas = 0.1 + 0.6 * F.interpolate(coarse, size=(CANVAS, CANVAS), mode="bilinear", align_corners=True)
    canvas += 0.05 * torch.randn(count, 3, CANVAS, CANVAS, generator=g)
    colors = 0.4 + 0.6 * torch.rand(count, 3, 1, 1, generator=g)
    masks = torch.zeros(count, CANVAS, CANVAS)
    side = originals.shape[-1]
    corners = torch.randint(CANVAS - side + 1, (count, 2), generator=g).tolist()
    for image, mask, garment, color, (top, left) in zip(canvas, masks, garments, colors, corners, strict=True):
        window = (slice(top, top + side), slice(left, left + side))
        shape = garment > 0.05
        mask[window] = shape.float()
        image[:, window[0], window[1]] = torch.where(shape, garment * color, image[:, window[0], window[1]])
    keys = torch.arange(count) + 1_000_000 * SPLITS.index(split)
    return Scenes(canvas.clamp(0, 1), labels, masks, keys)
