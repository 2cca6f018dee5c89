"""A segmenter of a stated quality: the true masks, their outlines pushed in and out until so much overlaps."""

from collections.abc import Callable

import numpy as np
import torch
from _composites import Composites
from scipy.ndimage import distance_transform_edt, gaussian_filter
from torch import Tensor

from camtrain.data.transforms import IMAGENET_MEAN, IMAGENET_STD

SMOOTH = 5 / 96  # of the side: how wide the bulges are
BIAS = 0.5  # of a bulge's height: by how much a whole outline is too wide or too narrow
HALVINGS = 14


def degraded(mask: np.ndarray, overlap: float, rng: np.random.Generator) -> np.ndarray:
    """A mask (H, W) whose intersection with the true one is so much of their union, or as near as can be.

    >>> truth = np.zeros((32, 32), bool)
    >>> truth[8:24, 8:24] = True
    >>> made = degraded(truth, 0.8, np.random.default_rng(0))
    >>> round((made & truth).sum() / (made | truth).sum(), 1)
    0.8
    """
    distance = distance_transform_edt(mask) - distance_transform_edt(~mask)
    bulges = gaussian_filter(rng.standard_normal(mask.shape), SMOOTH * max(mask.shape))
    bulges = bulges / bulges.std() + BIAS * rng.standard_normal()
    low, high = 0.0, float(max(mask.shape))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        made = distance + middle * bulges > 0
        enough = (made & mask).sum() / max(1, (made | mask).sum()) >= overlap
        low, high = (middle, high) if enough else (low, middle)
    return np.asarray(distance + low * bulges > 0)


def segmenter(dataset: Composites, overlap: float) -> Callable[[Tensor], Tensor]:
    """Knows the images of a dataset, normalized and mirrored or not, and gives each its degraded mask."""
    images, masks = dataset.pictures
    known = {image.numpy().tobytes(): row for row, image in enumerate(images)}
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))

    def made(row: int) -> Tensor:
        rng = np.random.default_rng((dataset.seed, row))
        return torch.from_numpy(degraded(masks[row].numpy() > 0, overlap, rng)).float()

    def segment(batch: Tensor) -> Tensor:
        found = []
        for image in ((batch.cpu() * std + mean) * 255).round().byte().contiguous():
            row = known.get(image.numpy().tobytes())
            found.append(
                made(known[image.flip(-1).contiguous().numpy().tobytes()]).flip(-1) if row is None else made(row)
            )
        return torch.stack(found).to(batch.device)

    return segment
