"""From dataset items to the batches that a module takes: collated, normalized, in one of three formats."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from camtrain.data.batches import MaskedPair
from camtrain.data.memory import InMemoryDataset
from camtrain.errors import BatchError, ConfigurationError

FORMATS = ("mapping", "triple", "pair")


class Gathered(Dataset[dict[str, Any]]):
    """Lets a DataLoader fetch a batch by one indexing, where fetching item by item would cost more than the step.

    Use it with `collate_fn=Collate(...)`, which takes the finished batch as it is.
    """

    def __init__(self, dataset: InMemoryDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        return self.dataset.gather(torch.as_tensor(indices))


class Fields(dict[str, Any]):
    """A collated mapping, which says so to a step that reads it by position."""

    def __missing__(self, key: object) -> Any:
        if isinstance(key, int):
            raise BatchError(
                f"This batch is a mapping with {', '.join(self)}, and the step reads batch[{key}]: read "
                "batch['image'], or take (images, labels) with batch_format='pair' (--data.batch_format pair)."
            )
        raise KeyError(key)


@dataclass(frozen=True)
class Collate:
    """The `collate_fn` of the data modules.

    Attributes:
        batch_format: "mapping", "triple" or "pair", see `format_batch`.
        mean: subtracted from the images, per channel; None where the dataset's transform has normalized them.
        std: divided by, per channel.
        flip: mirror each image and its mask with probability one half.
    """

    batch_format: str = "mapping"
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    flip: bool = False

    def __post_init__(self) -> None:
        if self.batch_format not in FORMATS:
            raise ConfigurationError(f"batch_format is one of {', '.join(FORMATS)}; got {self.batch_format!r}.")

    def __call__(self, items: Sequence[Mapping[str, Any]] | Mapping[str, Any]) -> Any:
        """Collate items, or take a gathered batch, and finish it."""
        batch = dict(items) if isinstance(items, Mapping) else collated(items)
        if self.flip:
            batch["image"], batch["mask"] = flip_some(batch["image"], batch["mask"])
        if self.mean is not None and self.std is not None:
            batch["image"] = normalize(batch["image"], self.mean, self.std)
        return format_batch(batch, self.batch_format)


def collated(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Items as one batch; labels that are boxes stay a list, an entry an image.

    >>> boxes = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    >>> len(collated([{"label": boxes}, {"label": boxes}])["label"])
    2
    """
    if not isinstance(items[0].get("label"), Mapping):
        return dict(default_collate(list(items)))
    rest = [{name: value for name, value in item.items() if name != "label"} for item in items]
    return {**(default_collate(rest) if rest[0] else {}), "label": [item["label"] for item in items]}


def format_batch(batch: Mapping[str, Any], batch_format: str) -> Any:
    """A collated mapping in the format asked for.

    Args:
        batch: with image, label, mask and perhaps group and id.
        batch_format: "mapping" leaves it, "triple" gives (images, labels, masks), "pair" gives (images, labels) as a
            `MaskedPair`, which carries the rest along.

    >>> batch = {"image": torch.zeros(2, 3, 4, 4), "label": torch.tensor([0, 1]), "mask": torch.ones(2, 4, 4)}
    >>> [len(format_batch(batch, name)) for name in FORMATS]
    [3, 3, 2]
    """
    if batch_format == "mapping":
        return Fields(batch)
    pair = batch["image"], batch["label"]
    if batch_format == "triple":
        return (*pair, batch["mask"])
    return MaskedPair(pair, batch["mask"], batch.get("group"), batch.get("id"))


def flip_some(
    images: Float[Tensor, " B C H W"], masks: Float[Tensor, " B H W"]
) -> tuple[Float[Tensor, " B C H W"], Float[Tensor, " B H W"]]:
    """Mirror each image, its mask with it, with probability one half."""
    chosen = torch.rand(len(images)) < 0.5
    return (
        torch.where(chosen[:, None, None, None], images.flip(-1), images),
        torch.where(chosen[:, None, None], masks.flip(-1), masks),
    )


def normalize(
    images: Float[Tensor, "*B C H W"], mean: Sequence[float], std: Sequence[float]
) -> Float[Tensor, "*B C H W"]:
    """`(images - mean) / std` per channel.

    >>> normalize(torch.ones(1, 1, 1, 1), [0.5], [0.25]).item()
    2.0
    """
    return (images - _column(mean, images)) / _column(std, images)


def denormalize(
    images: Float[Tensor, "*B C H W"], mean: Sequence[float], std: Sequence[float]
) -> Float[Tensor, "*B C H W"]:
    """The inverse of `normalize`, clipped to [0, 1]: images as they are shown.

    >>> denormalize(torch.full((1, 1, 1, 1), 2.0), [0.5], [0.25]).item()
    1.0
    """
    return (images * _column(std, images) + _column(mean, images)).clamp(0, 1)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(list(values), dtype=like.dtype, device=like.device)[:, None, None]
