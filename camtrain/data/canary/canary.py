"""A known shortcut planted into anybody's images: would your monitoring see it?

What an image shows, and where, depends on its key and the seed alone, so an image looks the same in every epoch.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from camtrain.data.canary.cues import PAINTERS, Cues, uniform
from camtrain.errors import BatchError, ConfigurationError

KINDS = tuple(PAINTERS)
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
        images: Tensor,
        labels: Tensor,
        keys: Int[Tensor, " B"],
        masks: Float[Tensor, "B H W"] | None = None,
    ) -> Float[Tensor, "B C H W"]:
        """The images with their cues.

        Args:
            images: (B, C, H, W) in [0, 1]; others are taken as normalized.
            labels: (B,) integers, the class of each.
            keys: a number of each, the same whenever it comes.
            masks: 1 on the object, for `"background"`; an image without an annotation keeps its background.

        Raises:
            BatchError: for images of another shape, a background without masks, a tint of gray images, labels that are
                not a class each.
        """
        if images.ndim != 4:
            raise BatchError(f"A canary is planted into images (B, C, H, W); got shape {tuple(images.shape)}.")
        if labels.shape != images.shape[:1] or labels.is_floating_point():
            raise BatchError(
                f"A canary needs a class index per image, ({len(images)},) integers; got {labels.dtype} of shape "
                f"{tuple(labels.shape)}."
            )
        if bool(((labels < 0) | (labels >= self.num_classes)).any()):
            raise BatchError(f"Label {int(labels.max())} is outside the canary's {self.num_classes} classes.")
        if self.kind == "background" and masks is None:
            raise BatchError("A canary in the background needs masks: plant another kind, or give masks.")
        if self.kind == "tint" and images.shape[1] != 3:
            raise BatchError(f"A tint needs 3 channels; these images have {images.shape[1]}: plant another kind.")
        return self.paint(images, self.shown(labels, keys), keys, masks)

    def paint(
        self,
        images: Tensor,
        shown: Int[Tensor, " B"],
        keys: Int[Tensor, " B"],
        masks: Float[Tensor, "B H W"] | None = None,
    ) -> Float[Tensor, "B C H W"]:
        """The images with the cues of these classes, -1 for none; the same places, whatever the class.

        >>> canary, image = Canary("frame", num_classes=2), torch.zeros(2, 3, 28, 28)
        >>> painted = canary.paint(image, torch.tensor([1, -1]), torch.tensor([7, 7]))
        >>> painted.flatten(1).any(dim=1).tolist()
        [True, False]
        """
        plain = bool(((images >= 0) & (images <= 1)).all())
        low, high = (0.0, 1.0) if plain else _NORMALIZED
        unit, cues = (images - low) / (high - low), Cues(shown, keys, self.num_classes, self.seed)
        changed = PAINTERS[self.kind](unit, cues, masks) * (high - low) + low
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
