"""Real objects cut out by their masks, pasted on real photographs of the weather, with a chosen correlation.

After Waterbirds (Sagawa et al. 2020, appendix C.1). The photographs, of objects and of places alike, are divided into
train, val and test before anything is pasted, so no pixel is in two splits.
"""

import copy
import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from camtrain.data.collate import Collate, Gathered
from camtrain.data.memory import InMemoryDataset, Pictures
from camtrain.data.subsets import SPLITS, annotated_subset, permutation, stratified
from camtrain.data.transforms import IMAGENET_MEAN, IMAGENET_STD

CLASSES = ("airplane", "motorbike", "car", "bicycle")  # the four with most images in sysu_shapes
OBJECTS = {
    "sysu_shapes": CLASSES,
    "caltech101_masks": ("kangaroo", "elephant", "flamingo", "emu"),  # 45 images each
}  # as many classes as places
PLACES = ("cloudy", "rain", "shine", "sunrise")  # class i is at home in place i
GROUPS = len(CLASSES) * len(PLACES)
ALIGNED = [group for group in range(GROUPS) if group // len(PLACES) == group % len(PLACES)]
CONFLICTING = [group for group in range(GROUPS) if group not in ALIGNED]
BALANCED = 1 / len(PLACES)
VAL_SHARE, TEST_SHARE = 0.15, 0.25  # of the photographs of every class and every place
SCALES = (0.5, 0.8)  # the object's longer side over the image's
ZOOMS = (0.6, 1.0)  # the part of the place's shorter side that is shown


@dataclass(frozen=True)
class Sources:
    """The photographs of a split: cut-outs (RGBA) of each class, and places (RGB)."""

    objects: tuple[tuple[Image.Image, ...], ...]
    places: tuple[tuple[Image.Image, ...], ...]


def read_sources(root: Path, split: str, seed: int, objects: str = "sysu_shapes") -> Sources:
    """What is pasted in a split; the division into splits is the seed's."""
    everything = _read_all(root, objects)
    return Sources(*(tuple(_part(pool, split, seed) for pool in pools) for pools in everything))


def _part(pool: Sequence[Image.Image], split: str, seed: int) -> tuple[Image.Image, ...]:
    parts = stratified(torch.zeros(len(pool)), (VAL_SHARE, TEST_SHARE), seed)
    return tuple(pool[index] for index in parts[SPLITS.index(split)])


@cache
def _read_all(root: Path, objects: str) -> tuple[list[list[Image.Image]], list[list[Image.Image]]]:
    shapes, weather = root / objects, root / "backgrounds_weather"
    single = [row for row in _rows(shapes) if row.get("n_objects", "1") == "1"]
    return (
        [[_cut_out(shapes, row) for row in single if row["label"] == name] for name in OBJECTS[objects]],
        [[_photo(weather / row["file"]) for row in _rows(weather) if row["label"] == name] for name in PLACES],
    )


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "index.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _photo(path: Path) -> Image.Image:
    with Image.open(path) as file:
        return file.convert("RGB")


def _cut_out(folder: Path, row: dict[str, str]) -> Image.Image:
    image = _photo(folder / "images" / row["file"])
    with Image.open((folder / "masks" / row["file"]).with_suffix(".png")) as file:
        image.putalpha(file.convert("L").point(lambda value: 255 * (value > 0)))
    return image.crop(image.getchannel("A").getbbox())


class Composites(InMemoryDataset):
    """One object on one place each; group = class * 4 + place.

    Which object image `index` shows, and where and how large, does not depend on the correlation: sets of one seed
    differ only in their places. Each object of the split is shown about equally often.

    Args:
        root: the folder that holds the objects' folder and `backgrounds_weather`.
        split: "train", "val" or "test": no two share a photograph.
        count: number of images, equally many of each class.
        correlation: share of each class that is at home, exact to one image; the others are spread over the other
            places. 1/4 is balanced.
        size: side in pixels.
        seed: of everything.
        objects: one of `OBJECTS`.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        count: int,
        correlation: float,
        size: int,
        seed: int,
        objects: str = "sysu_shapes",
    ) -> None:
        self.root, self.split, self.size, self.seed, self.objects = root, split, size, seed, objects
        self.class_names = OBJECTS[objects]
        self.group_names = tuple(f"{kind}, {place}" for kind in self.class_names for place in PLACES)
        labels = torch.arange(count) % len(CLASSES)
        self.places = assign_places(labels, correlation, seed)
        super().__init__(split, labels, labels * len(PLACES) + self.places, torch.ones(count, dtype=torch.bool))

    @cached_property
    def pictures(self) -> Pictures:
        """All images and masks, composed at the first use."""
        sources = read_sources(self.root, self.split, self.seed, self.objects)
        images = np.empty((len(self), 3, self.size, self.size), np.uint8)
        masks = np.empty((len(self), self.size, self.size), np.uint8)
        orders = [permutation(len(pool), self.seed).tolist() for pool in sources.objects]
        for index, (label, place) in enumerate(zip(self.labels.tolist(), self.places.tolist(), strict=True)):
            pose, view = (np.random.default_rng((self.seed, SPLITS.index(self.split), index, part)) for part in (0, 1))
            order, turn = orders[label], index // len(CLASSES)
            pasted, mask = paste(sources.objects[label][order[turn % len(order)]], self.size, pose)
            pool = sources.places[place]
            image = crop(pool[view.integers(len(pool))], self.size, view)
            image.paste(pasted, mask=pasted.getchannel("A"))
            images[index], masks[index] = np.asarray(image).transpose(2, 0, 1), mask
        return Pictures(torch.from_numpy(images), torch.from_numpy(masks))

    def with_masks(self, fraction: float) -> "Composites":
        """The same images, of which a share of every class keeps its masks; a smaller share is part of a larger."""
        changed = copy.copy(self)
        changed.annotated = annotated_by_class(self.labels, fraction, self.seed)
        return changed


def assign_places(labels: Int[Tensor, " N"], correlation: float, seed: int) -> Int[Tensor, " N"]:
    """The place of every image: the share `correlation` of each class at home, the rest evenly elsewhere.

    >>> assign_places(torch.zeros(8, dtype=torch.long), 0.25, seed=0).bincount().tolist()
    [2, 2, 2, 2]
    """
    places = labels.clone()
    for label in range(len(CLASSES)):
        members = (labels == label).nonzero().flatten()
        away = members[permutation(len(members), seed)][round(correlation * len(members)) :]
        places[away] = (label + 1 + torch.arange(len(away)) % (len(PLACES) - 1)) % len(PLACES)
    return places


def annotated_by_class(labels: Int[Tensor, " N"], fraction: float, seed: int) -> Bool[Tensor, " N"]:
    """Which images keep their masks: the same share of every class."""
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(len(CLASSES)):
        members = labels == label
        chosen[members] = annotated_subset(int(members.sum()), fraction, seed)
    return chosen


def paste(cutout: Image.Image, size: int, rng: np.random.Generator) -> tuple[Image.Image, np.ndarray]:
    """The cut-out on an empty RGBA canvas, at a random scale, place and side; and where it covers at least half."""
    factor = size * rng.uniform(*SCALES) / max(cutout.size)
    width, height = (max(4, round(factor * side)) for side in cutout.size)
    small = cutout.resize((width, height), Image.Resampling.BILINEAR)  # RGBA: colors are weighted by alpha
    if rng.random() < 0.5:
        small = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    canvas = Image.new("RGBA", (size, size))
    canvas.paste(small, (int(rng.integers(size - width + 1)), int(rng.integers(size - height + 1))))
    return canvas, np.asarray(canvas.getchannel("A")) >= 128


def crop(photo: Image.Image, size: int, rng: np.random.Generator) -> Image.Image:
    """A random square of a photograph, mirrored or not."""
    side = rng.uniform(*ZOOMS) * min(photo.size)
    left, top = (rng.uniform(0, whole - side) for whole in photo.size)
    square = photo.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    return square.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else square


def batches(dataset: Composites, batch_size: int = 100, flip: bool = False, **options: Any) -> DataLoader[Any]:
    """Normalized batches as mappings, each by one indexing."""
    collate = Collate("mapping", IMAGENET_MEAN, IMAGENET_STD, flip)
    return DataLoader(Gathered(dataset), batch_size, collate_fn=collate, **options)


def sheet(datasets: Sequence[Composites], columns: int = 12) -> Tensor:
    """Some images of each set, a row a class, and below it the same with all but the objects darkened."""
    columns = min(columns, *(len(dataset) // len(CLASSES) for dataset in datasets))
    rows = []
    for dataset in datasets:
        for label in range(len(CLASSES)):
            chosen = (dataset.labels == label).nonzero().flatten()[:columns]
            images, masks = (part[chosen] for part in dataset.pictures)
            rows += [images, torch.where(masks.bool().unsqueeze(1), images, images // 4)]
    return torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
