"""Datasets that lie in memory as bytes: one item, or a whole batch by one indexing."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from camtrain.data.transforms import JointTransform, transform_pair


class Pictures(NamedTuple):
    """Images uint8 `(N, C, H, W)` and masks uint8 `(N, H, W)` of a whole dataset."""

    images: Tensor
    masks: Tensor


class InMemoryDataset(Dataset[dict[str, Any]]):
    """Base of the generated and decoy datasets.

    A subclass gives `pictures` and the names; items are `{"image", "label", "mask", "group", "id"}`. The
    image is float in [0, 1] unless a transform says otherwise; the mask is float, all -1 where `annotated` is False.

    Args:
        name: prefix of the ids.
        labels: `(N,)` class indices.
        groups: `(N,)` group indices.
        annotated: `(N,)` bool: which images keep their mask.
        transform: joint `(image, mask) -> (image, mask)`, or None.
    """

    class_names: Sequence[str]
    group_names: Sequence[str]

    def __init__(
        self,
        name: str,
        labels: Tensor,
        groups: Tensor,
        annotated: Tensor,
        transform: JointTransform | None = None,
    ) -> None:
        self.name, self.labels, self.groups, self.annotated = name, labels, groups, annotated
        self.transform = transform

    @property
    def pictures(self) -> Pictures:
        """All images and masks."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        batch = self.gather(torch.tensor([index]))
        image, mask = transform_pair(self.transform, self.pictures.images[index], batch["mask"][0])
        label, group = int(batch["label"]), int(batch["group"])
        return {"image": image, "label": label, "mask": mask, "group": group, "id": batch["id"][0]}

    def gather(self, indices: Tensor) -> dict[str, Any]:
        """The items at `indices` as one collated batch, without the transform: images float in [0, 1]."""
        images, masks = self.pictures
        chosen = masks[indices].float()
        chosen[~self.annotated[indices]] = -1
        return {
            "image": images[indices].float() / 255,
            "label": self.labels[indices],
            "mask": chosen,
            "group": self.groups[indices],
            "id": [f"{self.name}/{index:05d}" for index in indices.tolist()],
        }
