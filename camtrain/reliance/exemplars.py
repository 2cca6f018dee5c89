"""What lies in the windows that a class's images point to: those that look alike."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from scipy.cluster.hierarchy import fcluster, linkage
from torch import Tensor

from camtrain.reliance.regions import Evidence, Region, hottest, mean_window, pointing

__all__ = ["Exemplars", "clusters", "exemplars", "likeness"]

ALIKE = 0.6  # the mean over the pairs of a cluster
CELLS, DIRECTIONS, LEVELS = 4, 8, 5


@dataclass(frozen=True, eq=False)
class Exemplars:
    """Pictures that show a class's cue and the window (top, left, height, width) of each, the most typical first.

    They are the largest cluster of windows that look alike among the ``images`` that point to a window.
    """

    class_index: int
    pictures: Float[Tensor, "k C H W"]
    boxes: Int[Tensor, "k 4"]
    images: int


def exemplars(evidence: Evidence, region: Region) -> Exemplars | None:
    """The windows that look alike, of a cue that stays or moves; None for one without a place.

    A cue that stays is shown in the same window of every image.
    """
    if region.answer not in ("stays", "moves"):
        return None
    points = pointing(evidence.lost, evidence.boxes)
    pictures, found = evidence.images[points], evidence.boxes[hottest(evidence.lost[points])]
    if region.answer == "stays":
        found = mean_window(evidence).expand_as(found)
    alike = likeness(pictures, found)
    groups = clusters(alike)
    rows = (groups == groups.bincount().argmax()).nonzero().flatten()
    rows = rows[alike[rows][:, rows].sum(dim=1).argsort(descending=True, stable=True)]
    return Exemplars(evidence.class_index, pictures[rows], found[rows], len(pictures))


def likeness(pictures: Float[Tensor, "n C H W"], boxes: Int[Tensor, "n 4"]) -> Float[Tensor, "n n"]:
    """How alike the windows of two pictures look, 1 for equal ones: in outlines or in colors, whichever is more.

    Outlines are directions of gradients in a grid of cells; colors are what a window has more of than its own picture.
    Both are compared by cosine, and outlines are blind to a picture's contrast and tint.
    """
    if not len(pictures):
        return torch.zeros(0, 0)
    pictures = _stretched(pictures)
    cut = [_cut(picture, box) for picture, box in zip(pictures, boxes, strict=True)]
    outlines = torch.stack([_outlines(window) for window in cut])
    colors = torch.stack([_colors(window, picture) for window, picture in zip(cut, pictures, strict=True)])
    return torch.maximum(outlines @ outlines.T, colors @ colors.T)


def clusters(alike: Float[Tensor, "n n"]) -> Int[Tensor, " n"]:
    """Which windows belong together, by average linkage of their likeness.

    >>> clusters(torch.tensor([[1.0, 0.1, 0.9], [0.1, 1.0, 0.2], [0.9, 0.2, 1.0]])).tolist()
    [0, 1, 0]
    """
    if len(alike) < 2:
        return torch.zeros(len(alike), dtype=torch.int64)
    first, second = torch.triu_indices(len(alike), len(alike), 1)
    far = (1 - alike[first, second]).clamp(min=0).double().numpy()
    found = fcluster(linkage(far, "average"), 1 - ALIKE, "distance")
    return torch.from_numpy(np.asarray(found, np.int64) - 1)


def _stretched(pictures: Tensor) -> Tensor:
    """All in [0, 1], by one range for all of them."""
    low, high = pictures.min(), pictures.max()
    return (pictures.float() - low) / (high - low).clamp(min=1e-6)


def _cut(picture: Tensor, box: Tensor) -> Tensor:
    top, left, tall, wide = box.tolist()
    return picture[:, top : top + tall, left : left + wide]


def _outlines(window: Tensor) -> Tensor:
    """Strength of gradients by cell and direction, a unit vector."""
    gray = F.interpolate(window.mean(dim=0)[None, None], size=(18, 18), mode="bilinear", align_corners=False)[0, 0]
    down, right = (gray[2:, 1:-1] - gray[:-2, 1:-1]), (gray[1:-1, 2:] - gray[1:-1, :-2])
    turn = (torch.atan2(down, right) / (2 * torch.pi) * DIRECTIONS).round().long() % DIRECTIONS
    strength = F.one_hot(turn, DIRECTIONS).permute(2, 0, 1) * torch.hypot(down, right)
    return F.normalize(F.adaptive_avg_pool2d(strength, CELLS).flatten(), dim=0)


def _colors(window: Tensor, picture: Tensor) -> Tensor:
    """By how much each color is commoner in the window than in the picture, the most so above all: a unit vector."""
    return F.normalize((_histogram(window) - _histogram(picture)).clamp(min=0).square(), dim=0)


def _histogram(pixels: Tensor) -> Tensor:
    """The share of pixels in each cell of a coarse grid of colors."""
    level = (LEVELS * pixels[:3].flatten(1)).floor().clamp(0, LEVELS - 1).long()
    place = (level * (LEVELS ** torch.arange(len(level))).view(-1, 1)).sum(dim=0)
    return place.bincount(minlength=LEVELS ** len(level)) / place.numel()
