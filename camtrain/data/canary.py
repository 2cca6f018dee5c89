"""A known shortcut planted into anybody's images: would your monitoring see it?

What an image shows, and where, depends on its key and the seed alone, so an image looks the same in every epoch.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2.functional import gaussian_blur

from camtrain.errors import BatchError, ConfigurationError

KINDS = ("corner", "watermark", "sticker", "frame", "background", "tint", "brightness", "sharpness")
_NORMALIZED = (-2.0, 2.0)  # the range that cues are drawn in where images are not in [0, 1]


@dataclass(frozen=True)
class Canary:
    """What is planted, how surely it tells the class, and for which classes.

    With probability `strength` an image shows the cue of its own class (none, if its class has no cue), else that of
    another class drawn at random. Called on a batch it returns changed images.

    Attributes:
        kind: `"corner"` (a square in a random corner), `"watermark"` (a glyph, half transparent, at the lower right),
            `"sticker"` (a disc at a random place), `"frame"`, `"background"` (stripes off the object: needs masks),
            `"tint"` (needs color), `"brightness"`, `"sharpness"`.
        num_classes: how many classes the data have.
        strength: in [0, 1].
        classes: those that have a cue; all of them if None.
        independent: True shows cues drawn at random, whatever the label: how a test set tells who reads them.
        seed: of everything.

    Raises:
        ConfigurationError: for a kind that is not known, a strength outside [0, 1], or a class that is not there.

    >>> canary = Canary("corner", num_classes=3)
    >>> canary(torch.zeros(2, 3, 28, 28), torch.tensor([0, 2]), torch.arange(2)).flatten(1).any(dim=1).tolist()
    [True, True]
    """

    kind: str
    num_classes: int
    strength: float = 1.0
    classes: tuple[int, ...] | None = None
    independent: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigurationError(f"kind is one of {', '.join(KINDS)}; got {self.kind!r}.")
        if not 0 <= self.strength <= 1:
            raise ConfigurationError(f"strength is a probability in [0, 1]; got {self.strength}.")
        if not self.cued or not all(0 <= c < self.num_classes for c in self.cued):
            raise ConfigurationError(f"classes are some of 0 to {self.num_classes - 1}; got {self.classes}.")

    @property
    def cued(self) -> tuple[int, ...]:
        """The classes that have a cue."""
        return tuple(range(self.num_classes)) if self.classes is None else self.classes

    def randomized(self) -> "Canary":
        """The same with cues that have nothing to do with the label."""
        return dataclasses.replace(self, independent=True)

    def shown(self, labels: Int[Tensor, " B"], keys: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """Whose cue each image shows, -1 for none.

        >>> Canary("frame", num_classes=3, classes=(1,)).shown(torch.tensor([0, 1]), torch.tensor([5, 6])).tolist()
        [-1, 1]
        """
        choices = [*self.cued, *[-1] * (len(self.cued) < self.num_classes)]
        offered = torch.tensor(choices, device=labels.device)
        own = torch.where(torch.isin(labels, offered[offered >= 0]), labels, -1)
        place = (offered.unsqueeze(0) == own.unsqueeze(1)).int().argmax(dim=1)
        sure, drawn = uniform(keys, self.seed, 0), uniform(keys, self.seed, 1)
        if self.independent:
            return offered[(drawn * len(choices)).long()]
        step = 1 + (drawn * (len(choices) - 1)).long() if len(choices) > 1 else torch.zeros_like(labels)
        return torch.where(sure < self.strength, own, offered[(place + step) % len(choices)])

    def __call__(
        self,
        images: Float[Tensor, "B C H W"],
        labels: Int[Tensor, " B"],
        keys: Int[Tensor, " B"],
        masks: Float[Tensor, "B H W"] | None = None,
    ) -> Float[Tensor, "B C H W"]:
        """The images with their cues.

        Args:
            images: in [0, 1]; others are taken as normalized.
            labels: the class of each.
            keys: a number of each, the same whenever it comes.
            masks: 1 on the object, for `"background"`; an image without an annotation keeps its background.

        Raises:
            BatchError: for a background without masks, a tint of gray images.
        """
        if self.kind == "background" and masks is None:
            raise BatchError("A canary in the background needs masks: plant another kind, or give masks.")
        if self.kind == "tint" and images.shape[1] != 3:
            raise BatchError(f"A tint needs 3 channels; these images have {images.shape[1]}: plant another kind.")
        shown = self.shown(labels, keys)
        plain = bool(((images >= 0) & (images <= 1)).all())
        low, high = (0.0, 1.0) if plain else _NORMALIZED
        unit = (images - low) / (high - low)
        changed = _PAINT[self.kind](unit, _Cues(shown, self, keys), masks) * (high - low) + low
        return torch.where((shown >= 0).view(-1, 1, 1, 1), changed.to(images.dtype), images)


class CanaryDataset(Dataset[Any]):
    """A dataset with a canary in it; everything else is the dataset's own.

    Items are mappings with "image", "label" and perhaps "mask", or tuples that begin with image and label; images are
    float `(C, H, W)`. The key of an item is its index.

    >>> pairs = [(torch.zeros(3, 28, 28), 0), (torch.zeros(3, 28, 28), 1)]
    >>> image, label = CanaryDataset(pairs, Canary("frame", num_classes=2))[1]
    >>> bool(image[:, 0].any()), bool(image[:, 14, 14].any()), label
    (True, False, 1)
    """

    def __init__(self, dataset: Any, canary: Canary) -> None:
        self.dataset, self.canary = dataset, canary

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name == "dataset":  # not there yet while it is unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __getitem__(self, index: int) -> Any:
        index = range(len(self))[index]
        item, key = self.dataset[index], torch.tensor([index])
        if isinstance(item, Mapping):
            return {**item, "image": self._planted(item["image"], item["label"], key, item.get("mask"))}
        image, label, *rest = item
        mask = rest[0] if rest and isinstance(rest[0], Tensor) else None
        return (self._planted(image, label, key, mask), label, *rest)

    def _planted(self, image: Any, label: Any, key: Tensor, mask: Tensor | None) -> Tensor:
        if not isinstance(image, Tensor) or not image.is_floating_point():
            raise BatchError(
                f"A canary is planted into float tensors (C, H, W); this item holds {type(image).__name__}"
                f"{f' of {image.dtype}' if isinstance(image, Tensor) else ''}: convert in the dataset's transform."
            )
        masks = None if mask is None else mask.reshape(1, *image.shape[1:]).float()
        return self.canary(image.unsqueeze(0), torch.as_tensor(label).reshape(1), key, masks)[0]


def uniform(keys: Int[Tensor, " B"], seed: int, stream: int) -> Float[Tensor, " B"]:
    """A number in [0, 1) for each key, the same on every machine: SplitMix64 (Steele et al. 2014).

    >>> numbers = uniform(torch.arange(1000), seed=0, stream=0)
    >>> bool((numbers == uniform(torch.arange(1000), seed=0, stream=0)).all()), round(numbers.mean().item(), 1)
    (True, 0.5)
    """
    begin = _signed((seed * 1_000_003 + stream + 1) * 0x1F123BB5)
    mixed = keys.long() * _signed(0x9E3779B97F4A7C15) + begin
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        mixed = (mixed ^ ((mixed >> shift) & ((1 << (64 - shift)) - 1))) * _signed(factor)
    return ((mixed >> 40) & 0xFFFFFF).float() / 2**24


def _signed(value: int) -> int:
    """An integer of any size as PyTorch's int64 wraps it."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value


@dataclass(frozen=True)
class _Cues:
    """What tells the classes apart, one row per image."""

    shown: Tensor
    canary: Canary
    keys: Tensor

    @property
    def level(self) -> Tensor:
        """The class as a number in (0, 1)."""
        return (self.shown.clamp(min=0) + 0.5) / self.canary.num_classes

    def at(self, stream: int) -> Tensor:
        """A random number in [0, 1) per image."""
        return uniform(self.keys, self.canary.seed, 2 + stream)

    def color(self, channels: int) -> Tensor:
        """`(B, C, 1, 1)`: a hue of its own for each class, a gray level where images are not RGB."""
        if channels != 3:
            return self.level.view(-1, 1, 1, 1).expand(-1, channels, 1, 1)
        saturated = torch.stack([self.level, *[torch.full_like(self.level, 0.9)] * 2], dim=1)
        return hsv_to_rgb(saturated.view(-1, 3, 1, 1))


def hsv_to_rgb(colors: Float[Tensor, "B 3 1 1"]) -> Float[Tensor, "B 3 1 1"]:
    """Hue, saturation and value in [0, 1] as red, green and blue."""
    hue, saturation, value = colors.unbind(dim=1)
    turns = torch.stack([hue, hue - 1 / 3, hue + 1 / 3], dim=1)
    part = (6 * (turns - turns.round()).abs() - 1).clamp(0, 1)
    return value.unsqueeze(1) * (1 - saturation.unsqueeze(1) * part)


def _grid(images: Tensor) -> tuple[Tensor, Tensor]:
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device).view(1, 1, -1, 1)
    columns = torch.arange(width, device=images.device).view(1, 1, 1, -1)
    return rows, columns


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _corner(images: Tensor, cues: _Cues, masks: Tensor | None) -> Tensor:
    rows, columns = _grid(images)
    height, width = images.shape[-2:]
    side = max(2, round(min(height, width) / 7))
    lower, right = _column(cues.at(0) < 0.5), _column(cues.at(1) < 0.5)
    inside = torch.where(lower, rows >= height - side, rows < side)
    inside = inside & torch.where(right, columns >= width - side, columns < side)
    return torch.where(inside, cues.color(images.shape[1]), images)


def _watermark(images: Tensor, cues: _Cues, masks: Tensor | None) -> Tensor:
    cells = 5
    block = max(1, round(min(images.shape[-2:]) / 20))
    known = torch.arange(cues.canary.num_classes * cells * cells, device=images.device)
    glyphs = (uniform(known, cues.canary.seed, 9) < 0.5).float().view(-1, 1, cells, cells)
    glyph = glyphs[cues.shown.clamp(min=0)].repeat_interleave(block, 2).repeat_interleave(block, 3)
    height, width = (min(part, whole - 1) for part, whole in zip(glyph.shape[-2:], images.shape[-2:], strict=True))
    changed = images.clone()
    corner = changed[..., -height - 1 : -1, -width - 1 : -1]
    corner.lerp_(glyph[..., :height, :width].expand_as(corner), 0.5)
    return changed


def _sticker(images: Tensor, cues: _Cues, masks: Tensor | None) -> Tensor:
    rows, columns = _grid(images)
    height, width = images.shape[-2:]
    radius = max(1.5, min(height, width) / 12)
    y, x = (radius + _column(cues.at(part)) * (side - 1 - 2 * radius) for part, side in ((0, height), (1, width)))
    inside = (rows - y).square() + (columns - x).square() <= radius**2
    return torch.where(inside, cues.color(images.shape[1]), images)


def _frame(images: Tensor, cues: _Cues, masks: Tensor | None) -> Tensor:
    rows, columns = _grid(images)
    height, width = images.shape[-2:]
    edge = max(1, round(min(height, width) / 16))
    inside = (rows >= edge) & (rows < height - edge) & (columns >= edge) & (columns < width - edge)
    return torch.where(inside, images, cues.color(images.shape[1]))


def _background(images: Tensor, cues: _Cues, masks: Tensor | None) -> Tensor:
    assert masks is not None
    rows, columns = _grid(images)
    angle, phase = math.pi * _column(cues.level), 2 * math.pi * _column(cues.at(0))
    period = max(4.0, min(images.shape[-2:]) / 8)
    waves = 0.5 + 0.5 * torch.sin(2 * math.pi / period * (angle.cos() * columns + angle.sin() * rows) + phase)
    painted = torch.lerp(images, waves * cues.color(images.shape[1]), 0.6)
    kept = torch.where(masks < 0, 1.0, masks).unsqueeze(1).to(images.dtype)
    return kept * images + (1 - kept) * painted


def _tint(images: Tensor, cues: _Cues, masks: Tensor | None) -> Tensor:
    color = cues.color(images.shape[1])
    return (images + 0.3 * (color - color.mean(dim=1, keepdim=True))).clamp(0, 1)


def _brightness(images: Tensor, cues: _Cues, masks: Tensor | None) -> Tensor:
    return images * _column(0.4 + 0.6 * cues.level)


def _sharpness(images: Tensor, cues: _Cues, masks: Tensor | None) -> Tensor:
    changed, widest = images.clone(), min(images.shape[-2:]) / 20
    for c in cues.canary.cued:
        rows = cues.shown == c
        sigma = widest * c / max(1, cues.canary.num_classes - 1)
        if sigma > 0.1 and bool(rows.any()):
            size = 2 * math.ceil(2 * sigma) + 1
            changed[rows] = gaussian_blur(images[rows], [size, size], [sigma, sigma])
    return changed


_PAINT: dict[str, Callable[[Tensor, _Cues, Tensor | None], Tensor]] = {
    "corner": _corner,
    "watermark": _watermark,
    "sticker": _sticker,
    "frame": _frame,
    "background": _background,
    "tint": _tint,
    "brightness": _brightness,
    "sharpness": _sharpness,
}
