"""Generated scenes: boats, ducks, cars and hens on land and on water, with exact masks and a chosen correlation."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from camtrain.data.memory import InMemoryDataset, Pictures
from camtrain.data.scenes.backgrounds import BACKGROUNDS, cast_shadow
from camtrain.data.scenes.drawing import Sketch, blend, noise, placement
from camtrain.data.scenes.objects import BASELINE, OBJECTS, PALETTE
from camtrain.data.subsets import SPLITS, annotated_subset, check_share
from camtrain.data.transforms import JointTransform
from camtrain.errors import DataError

Array = NDArray[Any]

CLASSES = tuple(OBJECTS)
PLACES = tuple(BACKGROUNDS)
HOMES = {"boat": "water", "duck": "water", "car": "land", "hen": "land"}
DEFAULTS: dict[str, tuple[int, float]] = {"train": (1600, 0.95), "val": (400, 0.5), "test": (800, 0.5)}


@dataclass(frozen=True)
class Scene:
    """One picture: `image` uint8 `(S, S, 3)`, `mask` uint8 `(S, S)`, 1 exactly where the object covers something."""

    image: Array
    mask: Array


def draw_scene(kind: str, place: str, key: Sequence[int], image_size: int = 96, with_object: bool = True) -> Scene:
    """Draw one object in one place.

    The object (shape, pose, colors, position) depends on `kind` and `key` alone, so the same key gives the same mask in
    both places. Light and grain are put on the finished picture.

    Args:
        kind: one of `CLASSES`.
        place: one of `PLACES`.
        key: non-negative integers that seed everything.
        image_size: side in pixels.
        with_object: False leaves the object out and all else as it is, the mask too.

    >>> scene = draw_scene("duck", "water", key=(0, 1), image_size=32)
    >>> scene.image.shape, int(scene.mask.max())
    ((32, 32, 3), 1)
    """
    pose, back, light = (np.random.default_rng((*key, part)) for part in range(3))
    rgb, coverage, base = _draw_object(kind, image_size, pose)
    covered = np.flatnonzero(coverage.any((0, 2))) / image_size
    picture = BACKGROUNDS[place](image_size, back.uniform(0.22, 0.48), back)
    if len(covered):
        cast_shadow(picture, place, covered[0], covered[-1], base)
    if with_object:
        picture = picture * (1 - coverage) + rgb
    return Scene(_expose(picture, light), (coverage[..., 0] > 0).astype(np.uint8))


class Scenes(InMemoryDataset):
    """Boats and ducks (of water), cars and hens (of land), each drawn on land or on water.

    The class is decided by shape alone: colors come from one palette, and every group (class x place) has the same
    distribution of objects. Image `index` depends on `(seed, split, index)` and on the place that `correlation`
    assigns to it; its object and mask do not depend on the place. All images are drawn at the first use and
    kept in memory as bytes (about 2 ms an image).

    Items are `{"image", "label", "mask", "group", "id"}`: image float `(3, S, S)` in [0, 1] unless a transform
    says otherwise, mask float `(S, S)` 1 on the object (all -1 where there is no annotation), group =
    label * 2 + place with the places (land, water).

    Args:
        split: "train", "val" or "test": pictures that never repeat between splits.
        size: number of images; None for 1600, 400 and 800.
        image_size: side in pixels.
        correlation: share of each class that stands where it belongs, exact to one image; None for 0.95 in training
            and 0.5 (balanced: all groups equally large) in validation and test.
        seed: of everything.
        transform: joint `(image, mask) -> (image, mask)`, see `camtrain.data.transforms`.
        mask_fraction: share of images that keep their mask.

    Raises:
        DataError: for an unknown split, an empty size, or shares outside 0..1.

    >>> scenes = Scenes("test", size=8, image_size=24)
    >>> scenes.group_names[scenes[0]["group"]], scenes[0]["image"].shape
    ('boat on water', torch.Size([3, 24, 24]))
    """

    class_names: Sequence[str] = CLASSES
    group_names: Sequence[str] = tuple(f"{kind} on {place}" for kind in CLASSES for place in PLACES)

    def __init__(
        self,
        split: str = "train",
        size: int | None = None,
        image_size: int = 96,
        correlation: float | None = None,
        seed: int = 0,
        transform: JointTransform | None = None,
        mask_fraction: float = 1.0,
    ) -> None:
        if split not in SPLITS:
            raise DataError(f"split is one of {', '.join(SPLITS)}; got {split!r}.")
        default_size, default_correlation = DEFAULTS[split]
        size = default_size if size is None else size
        if size < 1 or image_size < 8 or seed < 0:
            raise DataError(
                "Scenes need size >= 1, image_size >= 8 and seed >= 0; "
                f"got size={size}, image_size={image_size}, seed={seed}."
            )
        self.correlation = default_correlation if correlation is None else correlation
        self.split, self.image_size, self.seed = split, image_size, seed
        labels = torch.arange(size) % len(CLASSES)
        groups = labels * len(PLACES) + assign_places(labels, self.correlation)
        super().__init__(split, labels, groups, annotated_subset(size, mask_fraction, seed), transform)

    @cached_property
    def pictures(self) -> Pictures:
        """All images and masks, drawn at the first call."""
        side = self.image_size
        images = np.empty((len(self), 3, side, side), np.uint8)
        masks = np.empty((len(self), side, side), np.uint8)
        for index, (label, group) in enumerate(zip(self.labels.tolist(), self.groups.tolist(), strict=True)):
            key = (self.seed, SPLITS.index(self.split), index)
            scene = draw_scene(CLASSES[label], PLACES[group % len(PLACES)], key, side)
            images[index], masks[index] = scene.image.transpose(2, 0, 1), scene.mask
        return Pictures(torch.from_numpy(images), torch.from_numpy(masks))


def assign_places(labels: Int[Tensor, " N"], correlation: float) -> Int[Tensor, " N"]:
    """The index in `PLACES` of every image: in each class the share `correlation` stands where the class belongs.

    The k-th image of a class is at home where `round(k * correlation)` increases, so that the share is exact to one
    image in any leading part of the set.

    >>> assign_places(torch.tensor([0, 0, 0, 0]), 0.75).tolist()
    [1, 1, 0, 1]
    """
    check_share("correlation", correlation)
    places = torch.empty_like(labels)
    for label, kind in enumerate(CLASSES):
        home = PLACES.index(HOMES[kind])
        steps = torch.arange(int((labels == label).sum()) + 1, dtype=torch.float64)
        at_home = (steps * correlation + 0.5).floor().diff().bool()
        places[labels == label] = torch.where(at_home, home, 1 - home)
    return places


def _draw_object(kind: str, size: int, rng: np.random.Generator) -> tuple[Array, Array, float]:
    scale, base = rng.uniform(0.2, 0.32), rng.uniform(0.64, 0.92)
    center = (rng.uniform(0.34, 0.66), base - BASELINE * scale)
    matrix = placement(center, scale, angle=rng.normal(0, 5), flip=rng.random() < 0.5, squeeze=rng.uniform(0.82, 1.12))
    first, second = rng.choice(len(PALETTE), 2, replace=False)
    sketch = Sketch(size, matrix)
    OBJECTS[kind](sketch, rng, PALETTE[first], blend(PALETTE[second], PALETTE[first], 0.1))
    rgb, coverage = sketch.finish()
    return rgb * _shading(size, center[1], scale, rng), coverage, base


def _shading(size: int, middle: float, scale: float, rng: np.random.Generator) -> Array:
    rows = (np.arange(size, dtype=np.float32) / size - middle) / scale
    fall = 1.04 - rng.uniform(0.08, 0.22) * np.clip(rows, -1.2, 0.8)
    shading: Array = fall[:, None] * (1 + 0.05 * noise((size, size), rng))
    return shading[..., None]


def _expose(picture: Array, rng: np.random.Generator) -> Array:
    size = len(picture)
    gain = rng.uniform(0.78, 1.12) * (1 + rng.normal(0, 0.03, 3))
    side = 1 + rng.uniform(-0.15, 0.15) * np.linspace(-1, 1, size)[None, :, None]
    grain = rng.standard_normal((size, size, 1), np.float32) * rng.uniform(1.5, 5)
    lit = picture * gain.astype(np.float32) * side.astype(np.float32) + grain
    pixels: Array = np.clip(np.round(lit), 0, 255).astype(np.uint8)
    return pixels
