"""Batches of any common shape, read as one record: images, labels, masks, groups, ids."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex

import torch
from torch import Tensor

from camtrain.errors import BatchError, MaskError

FAINTEST = 32 / 255  # of a mask that may be soft; below, its values may be kinds that were divided

Adapter = Callable[[Any], Any]

_KEYS = {
    "images": ("image", "images", "pixel_values"),
    "labels": ("label", "labels"),
    "masks": ("mask", "masks"),
    "groups": ("group", "groups"),
    "ids": ("id", "ids"),
}
_REMEDY = (
    "give (images, labels), (images, labels, masks) or a mapping with 'image', 'label', 'mask', "
    "or pass a batch_adapter that returns one of these"
)


@dataclass(frozen=True)
class Batch:
    """What camtrain reads from a batch.

    Attributes:
        images: `(B, C, *S)`, as the model takes them.
        labels: `(B,)` class indices, or what another task takes: `(B, C)` of 0 and 1, values, maps, a list of
            mappings with boxes; or None.
        masks: `(B, *S)` float: 1 where the evidence should be, values between are soft, -1 where a pixel is
            unknown, all -1 where the image has no annotation; of labels `(B, C)` also `(B, C, *S)`, one for each;
            or None.
        groups: `(B,)` group indices, or None.
        ids: one name per image, or None.
    """

    images: Tensor
    labels: Any = None
    masks: Tensor | None = None
    groups: Tensor | None = None
    ids: list[str] | None = None

    def __len__(self) -> int:
        return len(self.images)


class MaskedPair(list[Tensor]):
    """`(images, labels)` that also carries masks, groups and ids.

    It unpacks, indexes and measures as the list of two that a DataLoader makes of pairs, so that a module written for
    `x, y = batch` trains on it unchanged, and survives `.to(device)`, `.pin_memory()` and pickling. A conversion that
    rebuilds lists element by element (Lightning's `64-true` and `bf16-true` precision) keeps only the two: use a
    mapping there.

    >>> pair = MaskedPair((torch.zeros(2, 3, 4, 4), torch.tensor([0, 1])), masks=torch.ones(2, 4, 4))
    >>> images, labels = pair
    >>> len(pair), pair.masks.shape
    (2, torch.Size([2, 4, 4]))
    """

    def __init__(
        self,
        pair: Iterable[Tensor],
        masks: Tensor | None = None,
        groups: Tensor | None = None,
        ids: list[str] | None = None,
    ) -> None:
        """Wrap a pair; anything but two elements is a `BatchError`."""
        super().__init__(pair)
        if len(self) != 2:
            raise BatchError(f"A MaskedPair holds (images, labels); got {len(self)} elements.")
        self.masks, self.groups, self.ids = masks, groups, ids

    def to(self, *args: Any, **kwargs: Any) -> "MaskedPair":
        """Every tensor moved as `Tensor.to` moves it."""
        return self._map(lambda tensor: tensor.to(*args, **kwargs))

    def pin_memory(self) -> "MaskedPair":
        """Every tensor in page-locked memory. Torch 2.6 asks no list: it copies it and pins the two."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> "MaskedPair":
        masks, groups = (None if t is None else function(t) for t in (self.masks, self.groups))
        return MaskedPair(map(function, self), masks, groups, self.ids)

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        return MaskedPair, (tuple(self), self.masks, self.groups, self.ids)


def read_batch(batch: Any, adapter: Adapter | None = None) -> Batch:
    """Read a batch of any common shape.

    Args:
        batch: `(images, labels)`, `(images, labels, masks)`, bare images, a `Batch`, or a mapping with
            `image`/`images`/`pixel_values`, `label`/`labels`, `mask`/`masks`, `group`/`groups`, `id`/`ids`;
            other keys are ignored.
        adapter: called first, for batches of another shape; returns one of the above.

    Returns:
        The tensors as they came, except that masks lose a channel axis of one and become floating point, and that a
        list of images of one size, as detectors take it, is stacked.

    Raises:
        BatchError: if it cannot be read, naming what was found.

    >>> read_batch((torch.zeros(2, 3, 4, 4), torch.tensor([0, 1]), torch.ones(2, 1, 4, 4))).masks.shape
    torch.Size([2, 4, 4])
    >>> read_batch({"image": torch.zeros(2, 3, 4, 4), "id": ["a", "b"]}).ids
    ['a', 'b']
    """
    if adapter is not None:
        batch = adapter(batch)
    if isinstance(batch, Batch):
        return _normalized(batch.images, batch.labels, batch.masks, batch.groups, batch.ids)
    if isinstance(batch, Tensor):
        return _normalized(batch)
    if isinstance(batch, MaskedPair):
        return _normalized(batch[0], batch[1], batch.masks, batch.groups, batch.ids)
    if isinstance(batch, Mapping):
        return _normalized(*(_first(batch, names) for names in _KEYS.values()))
    if isinstance(batch, Sequence) and not isinstance(batch, str) and 1 <= len(batch) <= 3:
        return _normalized(*batch)
    raise BatchError(f"Cannot read {_describe(batch)} as a batch; {_REMEDY}.")


def with_images(batch: Any, images: Tensor, others: Tensor) -> Any:
    """The batch with other images in their place, of its own type; the batch itself stays as it is.

    Args:
        batch: a tensor, tuple, list, mapping, dataclass or other object that holds `images`.
        images: the very tensor that `read_batch` found in it.
        others: what is put in its place.

    Raises:
        BatchError: where the batch does not hold that tensor, as when an adapter has converted it.

    >>> batch = {"image": torch.zeros(1, 1, 2, 2), "label": torch.tensor([3])}
    >>> with_images(batch, batch["image"], torch.ones(1, 1, 2, 2))["image"].sum().item()
    4.0
    """
    if batch is images:
        return others
    if isinstance(batch, Mapping):
        found: Any = {key: others if value is images else value for key, value in batch.items()}
        held: Iterable[Any] = batch.values()
    elif isinstance(batch, list | tuple):
        items = [others if value is images else value for value in batch]
        named = hasattr(batch, "_fields")
        found = type(batch)(*items) if named else items if isinstance(batch, list) else tuple(items)
        if isinstance(batch, MaskedPair):
            found = MaskedPair(items, batch.masks, batch.groups, batch.ids)
        held = batch
    else:
        found, held = copy.copy(batch), getattr(batch, "__dict__", {}).values()
        for name, value in getattr(batch, "__dict__", {}).items():
            if value is images:
                object.__setattr__(found, name, others)
    if not any(value is images for value in held):
        raise BatchError(f"{_describe(batch)} does not hold the images as they were read: leave them unconverted.")
    return found


def check_masks(batch: Batch) -> None:
    """Refuse masks that cannot be meant.

    Args:
        batch: any batch; one without masks passes.

    Raises:
        MaskError: for masks of another size than the images, or values outside {-1} and [0, 1].

    >>> check_masks(Batch(torch.zeros(1, 3, 2, 2), masks=torch.full((1, 2, 2), 255.0)))
    Traceback (most recent call last):
        ...
    camtrain.errors.MaskError: A mask holds values in [0, 1], and -1 where unknown (everywhere: no annotation); \
image 0 has 255.0. Divide 8-bit masks by 255.
    """
    if batch.masks is None:
        return
    expected = (len(batch.images), *batch.images.shape[2:])
    if batch.masks.ndim == batch.images.ndim and isinstance(batch.labels, Tensor) and batch.labels.ndim == 2:
        expected = (expected[0], batch.labels.shape[1], *expected[1:])  # one for each label
    if tuple(batch.masks.shape) != expected:
        raise MaskError(
            f"Masks have the size of their images: expected {expected}, got {tuple(batch.masks.shape)}. "
            "Resize both together (camtrain.data.transforms does)."
        )
    flat = batch.masks.flatten(1)
    if not flat.numel() or _plainly_valid(flat):
        return
    _require_undivided(flat)
    _require_unshifted(flat)
    bad = ~((flat >= 0) & (flat <= 1)) & (flat != -1)
    if bool(bad.any()):
        index, value = int(bad.any(1).nonzero()[0]), flat[bad][0].item()
        values, counts = torch.unique(flat[index], return_counts=True)
        raise MaskError(
            "A mask holds values in [0, 1], and -1 where unknown (everywhere: no annotation); "
            f"image {index} has {value}{_shares(values, counts)}. {_advice(values)}"
        )


def check_images(batch: Batch) -> None:
    """Refuse images that the network does not take as they are: bytes, which a module converts in its own step.

    >>> check_images(Batch(torch.zeros(1, 3, 2, 2, dtype=torch.uint8)))
    Traceback (most recent call last):
        ...
    camtrain.errors.BatchError: Images are explained as the network takes them, in floating point; got torch.uint8. \
Convert them in the dataset, or as the module does in a batch_adapter.
    """
    if not batch.images.is_floating_point():
        raise BatchError(
            f"Images are explained as the network takes them, in floating point; got {batch.images.dtype}. Convert "
            "them in the dataset, or as the module does in a batch_adapter."
        )


def _shares(values: Tensor, counts: Tensor) -> str:
    """The values and their shares, where they are kinds."""
    if len(values) > 99 or set(values.tolist()) <= {0, 1, 255}:
        return ""
    order = counts.argsort(descending=True, stable=True)[:6]
    shown = [f"{values[k].item():g} ({counts[k].item() / counts.sum().item():.0%})" for k in order]
    return f" (values {', '.join([*shown, *['...'] * (len(values) > 6)])})"


def _advice(values: Tensor) -> str:
    """What to do about values that are no mask's."""
    if set(values.tolist()) <= {0, 255}:
        return "Divide 8-bit masks by 255."
    kinds = values.isfinite().all() and (values == values.round()).all() and values.max() > 1
    if bool(kinds) and len(values) < 100:
        return (
            "These are kinds: make masks with camtrain.data.label_map_to_masks(maps, values, ignore=255) in a "
            "batch_adapter."
        )
    if bool(values.max() > 1):
        return "Divide masks by the largest value that they may have (255 of 8 bits)."
    return "Correct it or leave the image without a mask."


def _plainly_valid(flat: Tensor) -> bool:
    """Whether every mask lies in [0, 1] or is -1 everywhere; looks at the extremes alone, which is far cheaper."""
    low, high = flat.amin(dim=1), flat.amax(dim=1)
    plain = (low >= 0) & (high <= 1) & ((high == 0) | (high > FAINTEST))
    return bool((plain | ((low == -1) & (high == -1))).all())


def _require_undivided(flat: Tensor) -> None:
    """Refuse masks of 0 and 1, or label maps, that were divided by 255, as torchvision's ToTensor does."""
    high = flat.amax(dim=1)
    faint = (high > 0) & (high <= FAINTEST)
    if not bool(faint.any()):
        return
    index = int(faint.nonzero()[0])
    kinds = flat[index] * 255
    if bool((kinds - kinds.round()).abs().max() < 1e-3):
        raise MaskError(
            f"The mask of image {index} holds nothing above {high[index].item():.4f}, "
            f"{kinds.max().item():.0f} of 255: a mask of small numbers, it seems, divided by 255, as ToTensor does. "
            "Give it undivided: torch.from_numpy(numpy.array(mask)) == 1, or its kinds by "
            "camtrain.data.label_map_to_masks; a soft map that is so faint, divided by its own maximum."
        )


def _require_unshifted(flat: Tensor) -> None:
    """Refuse masks of -1 and 1 alone, mostly -1: not unknown pixels, but 0 and 1 normalized as images are."""
    some = flat[(flat == 1).any(1) & (flat == -1).any(1)]
    if len(some) and bool(((some == 1) | (some == -1)).all()) and bool((some == -1).float().mean() > 0.5):
        raise MaskError(
            "Masks hold 1 and -1 and no 0, so that nothing would be outside the object: -1 is unknown. Normalize "
            "images alone, not their masks."
        )


def class_names(source: object | None, num_classes: int) -> list[str]:
    """Names of the classes: `source.class_names` or `source.classes`, else "class 0", "class 1", ...

    Args:
        source: a data module, a dataset (a part of one too), or None.
        num_classes: how many names to return; names that are missing are numbered, names in excess left out.

    >>> class_names(None, 2)
    ['class 0', 'class 1']
    """
    found = getattr(source, "class_names", None) or getattr(source, "classes", None) or []
    while not found and (source := getattr(source, "dataset", None)) is not None:  # a Subset, as random_split makes
        found = getattr(source, "class_names", None) or getattr(source, "classes", None) or []
    names = [str(name) for name in found][:num_classes]
    return names + [f"class {index}" for index in range(len(names), num_classes)]


def _first(batch: Mapping[Any, Any], names: Sequence[str]) -> Any:
    return next((batch[name] for name in names if name in batch), None)


def _normalized(images: Any, labels: Any = None, masks: Any = None, groups: Any = None, ids: Any = None) -> Batch:
    if _are_alike(images):
        images = torch.stack(list(images))
    if not isinstance(images, Tensor) or images.ndim < 3:
        raise BatchError(f"Images are a tensor (B, C, H, W); got {_describe(images)}; {_REMEDY}.")
    labels = list(labels) if _are_boxes(labels) else _vector("Labels", labels)
    return Batch(
        images,
        labels,
        None if masks is None else _read_masks(masks, images, labels),
        _vector("Groups", groups),
        None if ids is None else [str(i.item() if isinstance(i, Tensor) else i) for i in ids],
    )


def _vector(name: str, values: Any) -> Tensor | None:
    if values is None or isinstance(values, Tensor):
        return values
    if isinstance(values, Sequence) and all(isinstance(value, int) for value in values):
        return torch.tensor(values, dtype=torch.long)
    raise BatchError(f"{name} are a tensor (B,); got {_describe(values)}; {_REMEDY}.")


def _are_alike(images: Any) -> bool:
    """Whether it is a list of images of one size."""
    listed = isinstance(images, list | tuple) and len(images) > 0
    return listed and all(isinstance(one, Tensor) and one.ndim == 3 and one.shape == images[0].shape for one in images)


def _are_boxes(labels: Any) -> bool:
    listed = isinstance(labels, list | tuple) and len(labels) > 0
    return listed and all(isinstance(one, Mapping) and {"boxes", "labels"} <= set(one) for one in labels)


def _read_masks(masks: Any, images: Tensor, labels: Any = None) -> Tensor:
    if not isinstance(masks, Tensor) or masks.ndim not in (images.ndim - 1, images.ndim):
        expected = (len(images), *images.shape[2:])
        raise BatchError(f"Masks are a tensor {expected}; got {_describe(masks)}; {_REMEDY}.")
    each = isinstance(labels, Tensor) and labels.ndim == 2 and 1 < labels.shape[1] == masks.shape[1]
    if masks.ndim == images.ndim and not each:
        if masks.shape[1] != 1 and masks.shape[-1] == 1 and masks.shape[1:-1] == images.shape[2:]:
            raise MaskError(f"A mask's channel is its second axis; got {_describe(masks)}. Give masks.squeeze(-1).")
        if masks.shape[1] != 1:
            raise MaskError(f"A mask has one channel; got {_describe(masks)}. Merge the channels, as by masks.amax(1).")
        masks = masks.squeeze(1)
    floating: Tensor = masks if masks.is_floating_point() else masks.float()
    return floating


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"a mapping with the keys {sorted(map(str, value))}"
    if isinstance(value, list | tuple):
        inner = ", ".join(_describe(item) for item in value[:5])
        return f"a {type(value).__name__} of {len(value)} ({inner}{', ...' if len(value) > 5 else ''})"
    return f"{type(value).__name__}"
