"""Images with COCO annotations as a classification dataset with masks."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from camtrain.data.annotated import from_annotations
from camtrain.data.files import ImageRule, Sample, require_folder
from camtrain.data.folders import SampleDataset
from camtrain.data.formats.base import Annotations
from camtrain.data.formats.coco import read_coco, read_coco_annotations, shape_of, split_of_file
from camtrain.data.subsets import annotated_subset
from camtrain.data.transforms import JointTransform
from camtrain.errors import DataError

__all__ = ["CocoMasks", "annotation_mask", "read_coco"]

Paths = str | Path | Sequence[str | Path] | Mapping[str, str | Path]


class CocoMasks(SampleDataset):
    """Images labeled with their largest category, and a mask of all its objects.

    The file is standard COCO: `images` (`id`, `file_name`, `height`, `width`), `categories` (`id`, `name`) and
    `annotations` (`image_id`, `category_id`, and `segmentation` as polygons or run lengths, or only a `bbox`). The
    label of an image is the category that covers most of it; its mask is the union of that category's annotations,
    crowds too. Images without any are left out; shapes without an area are left out and counted.

    Args:
        images_dir: folder of the images; a list or a mapping by split where there are several files.
        annotation_file: the JSON file; a list, or a mapping from "train", "val" and "test".
        categories: names to use, in the order of the labels; None for all that the file lists.
        boxes: use the boxes even where there are polygons or run lengths.
        transform: joint `(image, mask) -> (image, mask)`, see `camtrain.data.transforms`.
        mask_fraction: share of images that keep their mask.
        verify: "decode" reads every image and draws every mask once at construction, "headers" only sizes, "none"
            nothing.
        skip_corrupt: leave corrupt images out, with a warning, instead of raising.
        upright: turn photographs as their EXIF orientation says.

    Raises:
        DataError: a missing folder, file or image; a file that is not COCO; an unknown category; a corrupt image.
        MaskError: an image of another size than the file says; run lengths that do not fill it.
    """

    def __init__(
        self,
        images_dir: Paths,
        annotation_file: Paths,
        categories: Sequence[str] | None = None,
        boxes: bool = False,
        transform: JointTransform | None = None,
        mask_fraction: float = 1.0,
        verify: str = "decode",
        skip_corrupt: bool = False,
        upright: bool = True,
    ) -> None:
        parts = [
            (split, require_folder(Path(folder), "images"), read_coco_annotations(Path(file), boxes))
            for split, folder, file in _pairs(images_dir, annotation_file)
        ]
        names = list(dict.fromkeys(name for _, _, part in parts for name in part.categories))
        chosen = names if categories is None else list(categories)
        if unknown := [name for name in chosen if name not in names]:
            raise DataError(f"{annotation_file} has no category {unknown}; it has {sorted(names)}. Correct categories.")
        samples: list[Sample] = []
        for split, folder, part in parts:
            layout = from_annotations(
                Annotations(part.kind, part.images, names, part.left_out), folder, chosen, upright
            )
            tail = "" if len(parts) == 1 else f"{split or len(samples)}/"
            named = len(parts) > 1 and split is not None
            samples += [
                replace(sample, id=f"{tail}{sample.id}", split=split if named else None) for sample in layout.samples
            ]
        super().__init__(samples, chosen, (), transform, image_rule=ImageRule(upright=upright))
        self.check(verify, skip_corrupt)
        self.annotated = annotated_subset(len(self), mask_fraction)


def annotation_mask(annotation: Mapping[str, Any], size: tuple[int, int], boxes: bool = False) -> Tensor:
    """Mask float `(H, W)` of one COCO annotation.

    Args:
        annotation: with `segmentation` as a list of polygons, as run lengths (compressed or not), or without one and
            with `bbox` (x, y, width, height).
        size: height and width of the image.
        boxes: use the box in any case.

    Raises:
        DataError: when it holds neither.
        MaskError: when the run lengths are of another size or do not fill it.

    >>> annotation_mask({"bbox": [1, 0, 2, 1]}, (2, 4)).tolist()
    [[0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    """
    shape = shape_of(annotation, size, boxes)
    return torch.zeros(size) if shape is None else torch.from_numpy(shape.draw(size).astype(np.float32))


def _pairs(folders: Paths, files: Paths) -> list[tuple[str | None, str | Path, str | Path]]:
    """Split, folder and file of each part."""
    if isinstance(files, Mapping):
        if not isinstance(folders, str | Path | Mapping):
            raise DataError("images_dir is one folder or a mapping where annotation_file is a mapping; got a list.")
        by_split = folders if isinstance(folders, Mapping) else dict.fromkeys(files, folders)
        if set(by_split) != set(files):
            raise DataError(
                f"images_dir has {sorted(by_split)}, and annotation_file {sorted(files)}. Give both the same."
            )
        return [(split, by_split[split], file) for split, file in files.items()]
    listed = [files] if isinstance(files, str | Path) else list(files)
    places = [folders] * len(listed) if isinstance(folders, str | Path) else list(folders)
    if len(places) != len(listed):
        raise DataError(f"images_dir has {len(places)} folders, and annotation_file {len(listed)} files. Give as many.")
    splits = [None if len(listed) == 1 else _split(Path(file)) for file in listed]
    return list(zip(splits, places, listed, strict=True))


def _split(file: Path) -> str:
    split = split_of_file(file)
    if split is None:
        raise DataError(
            f"The name of {file} says no split. Give annotation_file as a mapping from train, val and test."
        )
    return split
