"""Photographs, masks and pretrained networks of the shared data folder, as tensors that the networks take."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

SIDE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NETWORKS = {
    "mobilenet_v2": ("mobilenet_v2-b0353104.pth", torchvision.models.mobilenet_v2),
    "squeezenet1_1": ("squeezenet1_1-caffe-tvnorm.pth", torchvision.models.squeezenet1_1),
}


@dataclass(frozen=True)
class Photos:
    """Normalized images, and for each the ImageNet classes that are right for it."""

    images: Tensor
    classes: tuple[tuple[int, ...], ...]
    masks: Tensor | None = None

    @property
    def labels(self) -> Tensor:
        return torch.tensor([each[0] for each in self.classes])

    def right(self, predicted: Tensor) -> Tensor:
        return torch.tensor([int(p) in each for p, each in zip(predicted, self.classes, strict=True)])

    def where(self, kept: Tensor) -> "Photos":
        rows = kept.nonzero().flatten().tolist()
        masks = None if self.masks is None else self.masks[rows]
        return Photos(self.images[rows], tuple(self.classes[row] for row in rows), masks)


def network(name: str, data: Path, device: str) -> nn.Module:
    file, build = NETWORKS[name]
    model: nn.Module = build(weights=None)
    model.load_state_dict(torch.load(data / "weights" / file, map_location="cpu", weights_only=True))
    return model.eval().to(device)


def imagenet(data: Path, count: int, device: str) -> Photos:
    """`count` of the 500 photographs of ImageNet, one a class, evenly over the classes."""
    folder = data / "imagenet_photos"
    rows = _evenly(_index(folder), count)
    images = torch.stack([_image(folder / row["file"]) for row in rows])
    return Photos(images.to(device), tuple((int(row["imagenet_idx"]),) for row in rows))


def sysu(data: Path, count: int, device: str) -> Photos:
    """`count` photographs of airplanes, bicycles, boats, cars and motorbikes, in turn, with the objects' outlines."""
    folder = data / "sysu_shapes"
    kinds: dict[str, list[dict[str, str]]] = {}
    for row in _index(folder):
        kinds.setdefault(row["label"], []).append(row)
    share = -(-count // len(kinds))
    chosen = [_evenly(kind, share) for kind in kinds.values()]
    rows = [row for together in zip(*chosen, strict=True) for row in together][:count]
    images = torch.stack([_image(folder / "images" / f"{Path(row['file']).stem}.jpg") for row in rows])
    masks = torch.stack([_mask(folder / "masks" / f"{Path(row['file']).stem}.png") for row in rows])
    classes = tuple(tuple(map(int, row["imagenet_idx"].split(";"))) for row in rows)
    return Photos(images.to(device), classes, masks.to(device))


def side_by_side(photos: Photos, left: Sequence[int], right: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of images in one, and the masks of the left and of the right object: `(B, *, H, 2 W)`."""
    masks = torch.zeros_like(photos.images[:, 0]) if photos.masks is None else photos.masks
    wide = torch.cat([photos.images[list(left)], photos.images[list(right)]], dim=-1)
    nothing = torch.zeros_like(masks[list(left)])
    own, other = masks[list(left)], masks[list(right)]
    return wide, torch.cat([own, nothing], dim=-1), torch.cat([nothing, other], dim=-1)


def pairs(photos: Photos) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Rows of photographs of the same kind of object, and of different kinds; each photograph is once on the left."""
    same, different = [], []
    for row, kind in enumerate(photos.classes):
        following = [other % len(photos.classes) for other in range(row + 1, row + len(photos.classes))]
        alike = [other for other in following if photos.classes[other] == kind]
        others = [other for other in following if not set(photos.classes[other]) & set(kind)]
        same += [(row, alike[0])] if alike else []
        different += [(row, others[0])] if others else []
    return same, different


def _index(folder: Path) -> list[dict[str, str]]:
    with (folder / "index.csv").open() as file:
        return list(csv.DictReader(file))


def _evenly(rows: list[Any], count: int) -> list[Any]:
    count = min(count, len(rows))
    return [rows[index * len(rows) // count] for index in range(count)]


def _cropped(mode: v2.InterpolationMode) -> Callable[..., Any]:
    return v2.Compose([v2.Resize(256, mode, antialias=True), v2.CenterCrop(SIDE), v2.ToImage()])


def _image(file: Path) -> Tensor:
    with Image.open(file) as image:
        pixels = _cropped(v2.InterpolationMode.BILINEAR)(image.convert("RGB"))
    return v2.functional.normalize(pixels.float() / 255, MEAN, STD)


def _mask(file: Path) -> Tensor:
    with Image.open(file) as mask:
        return (_cropped(v2.InterpolationMode.NEAREST)(mask.convert("L"))[0] > 127).float()
