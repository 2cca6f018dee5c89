"""A user's own images with masks: class folders, or one folder with an index file."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from camtrain.data.annotated import attached, from_annotations
from camtrain.data.checking import CheckedSample, check_samples
from camtrain.data.files import ImageRule, Sample, announce, image_size, read_interleaved, require_folder, say_foreign
from camtrain.data.formats import Annotations, read_annotations
from camtrain.data.formats.reading import Sources
from camtrain.data.formats.runs import in_order
from camtrain.data.layouts import (
    FolderLayout,
    MaskFinder,
    has_class_folders,
    read_class_folders,
    read_index,
    say_splits,
)
from camtrain.data.masks import MaskFacts, MaskRule, Values, mask_facts, mask_rule, read_mask_array
from camtrain.data.shapes import drawn
from camtrain.data.subsets import annotated_subset
from camtrain.data.transforms import JointTransform, transform_pair
from camtrain.errors import ConfigurationError, DataError, MaskError

LABELS_FROM = ("auto", "folders", "annotations")
INVERT = "invert them, or set verify: headers where that is meant"
CHOOSE = "set mask_values: [0] where the object is black, or to its value where that is meant"


class SampleDataset(Dataset[dict[str, Any]]):
    """Images and masks read from files when asked for.

    Items are `{"image", "label", "mask", "id"}` and `"group"` where there are groups: image float `(C, H, W)` in
    [0, 1] unless a transform says otherwise, mask float `(H, W)`, -1 where a pixel is unknown, all -1 where there is no
    annotation.

    Args:
        samples: the files.
        class_names: one per class.
        group_names: one per group; empty without groups.
        transform: joint `(image, mask) -> (image, mask)`; needed to batch images of different sizes.
        image_rule: how images are read.
        mask_rule: what the values of mask files mean.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        class_names: Sequence[str],
        group_names: Sequence[str] = (),
        transform: JointTransform | None = None,
        *,
        image_rule: ImageRule = ImageRule(),  # noqa: B008 - frozen
        mask_rule: MaskRule = MaskRule(),  # noqa: B008 - frozen
    ) -> None:
        self.samples, self.class_names, self.group_names = list(samples), list(class_names), list(group_names)
        self.transform = transform
        self.image_rule, self.mask_rule = image_rule, mask_rule
        self.annotated = torch.ones(len(self.samples), dtype=torch.bool)
        self.looks: list[CheckedSample] = []

    @property
    def labels(self) -> Tensor:
        """`(N,)` class indices."""
        return torch.tensor([sample.label for sample in self.samples], dtype=torch.long)

    def subset(
        self,
        indices: Sequence[int],
        transform: JointTransform | None = None,
        mask_fraction: float = 1.0,
        seed: int = 0,
    ) -> "SampleDataset":
        """The images at `indices` under another transform; only a share of them keeps its mask."""
        chosen = copy.copy(self)
        chosen.samples = [self.samples[index] for index in indices]
        chosen.annotated = annotated_subset(len(chosen.samples), mask_fraction, seed)
        chosen.transform = transform
        chosen.looks = []
        return chosen

    def check(self, verify: str, skip_corrupt: bool) -> None:
        """Open every file, and keep the samples that can be read."""
        self.looks = check_samples(self.samples, verify, skip_corrupt, self.image_rule, self.mask_facts)
        self.samples = [look.sample for look in self.looks]
        self.annotated = torch.ones(len(self.samples), dtype=torch.bool)
        if verify == "decode":
            self._require_the_object()

    def read_mask(self, sample: Sample) -> Tensor | None:
        """Mask float `(H, W)` of a sample, or None where it has no annotation."""
        drawn = self.draw_mask(sample)
        return None if drawn is None else torch.from_numpy(drawn[0])

    def draw_mask(self, sample: Sample) -> tuple[NDArray[np.float32], bool] | None:
        """The mask as an array, the union where there are several, and whether values in between were cut at half."""
        if sample.regions is not None:
            try:
                mask = drawn(sample.regions, sample.size or image_size(sample.image, self.image_rule.upright))[0]
            except MaskError as error:
                raise MaskError(f"{sample.image}: {error}") from error
            return None if mask is None else (mask, False)
        if sample.mask is None:
            return None
        name = self.class_names[sample.label]
        mask, cut = read_mask_array(sample.mask, self.mask_rule, name)
        for path in sample.more_masks:
            other, other_cut = read_mask_array(path, self.mask_rule, name)
            if other.shape != mask.shape:
                raise MaskError(
                    f"Masks of an image have one size: {sample.mask} has {mask.shape}, {path} {other.shape}."
                )
            mask, cut = union(mask, other), cut or other_cut
        return mask, cut

    def mask_facts(self, sample: Sample) -> MaskFacts | None:
        """What the mask of a sample covers; None where it has no annotation."""
        drawn = self.draw_mask(sample)
        return None if drawn is None else mask_facts(*drawn)

    def _require_the_object(self) -> None:
        """Refuse values that no mask has: they are a mistake in the configuration."""
        masks = [look.mask for look in self.looks if look.mask is not None]
        by_class = isinstance(self.mask_rule.values, Mapping)
        groups: dict[str, list[MaskFacts]] = {}
        for look in self.looks:
            if look.mask is not None and look.sample.mask is not None:
                groups.setdefault(self.class_names[look.sample.label] if by_class else "", []).append(look.mask)
        for name, group in groups.items() if self.mask_rule.values is not None else ():
            if all(mask.covered == 0 for mask in group):
                raise MaskError(
                    f"mask_values {self.mask_rule.of_class(name)} are in none of {len(group)} masks"
                    f"{f' of {name}' if name else ''}. Correct them: camtrain masks shows the values of the files."
                )
        doubtful = [look.sample.mask for look in self.looks if look.mask is not None and look.mask.corners]
        plain = self.mask_rule.values is None and masks and self.looks[0].sample.regions is None
        if plain and 2 * len(doubtful) > len(masks):
            raise MaskError(
                f"{len(doubtful)} of {len(masks)} masks, the first {doubtful[0]}, fill all four corners, as "
                f"backgrounds do: {INVERT if self.mask_rule.soft else CHOOSE}."
            )
        if len(masks) > 1 and all(mask.covered == 0 and mask.unknown < 1 for mask in masks):
            raise MaskError(
                f"All of {len(masks)} masks are empty, the first {self.looks[0].sample.mask}: no image has its object. "
                "Save them again (a lossy format loses values like 1), or leave masks out."
            )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.samples[index]
        image = read_interleaved(sample.image, self.image_rule)
        mask = self.read_mask(sample) if self.annotated[index] else None
        if mask is None:
            mask = torch.full(image.shape[1:], -1.0)
        image, mask = transform_pair(self.transform, image, mask)
        item = {"image": image, "label": sample.label, "mask": mask, "id": sample.id}
        return item if sample.group is None else {**item, "group": sample.group}


class MaskedImageFolder(SampleDataset):
    """Images by class with a mask file for some or all of them.

    Three layouts, all below `root`:

    * class folders and a parallel tree: `images/dog/7.jpg` and `masks/dog/7.png`
      (`images="images", masks="masks"`);
    * masks beside images: `dog/7.jpg` and `dog/7_mask.png` (`mask_suffix="_mask"`);
    * an index: a CSV file with a column for the image's file and one for its label, and where wanted for its mask,
      group and split; without masks, these are found by name.

    Class folders may lie in folders `train`, `val` and `test` (or `Training`, `valid`, ...). A mask has the name of its
    image and the suffix of any image file. An image without a mask file has no annotation: its mask is all -1. How many
    images have one is logged; that none has, in any split, is an error where there should be.

    A mask file has two values, 0 and one other; what else there is has to be said, see `camtrain.data.masks`.

    Args:
        root: the folder of the dataset.
        images: folder of the images below root.
        masks: folder of the masks below root; None where they lie beside the images or there are none.
        mask_suffix: what follows the image's stem in the mask's name; `7_mask_1.png` joins `7_mask.png`.
        index: CSV file below root; None for class folders.
        split: "train", "val" or "test" for the part that the index or the folders call so; None for all.
        transform: joint `(image, mask) -> (image, mask)`, see `camtrain.data.transforms`.
        soft_masks: read values as degrees, scaled by the file's bits.
        mask_fraction: share of images that keep their mask.
        verify: "decode" reads every file once at construction, "headers" only sizes, "none" nothing.
        skip_corrupt: leave corrupt images out, with a warning, instead of raising.
        mask_values: the object's values in a mask file, numbers or colors as "#rrggbb"; by class name for label maps.
        ignore_value: values of unknown pixels, which become -1: neither inside nor outside.
        mask_channel: "alpha", "color", "red", "green" or "blue", where a file leaves doubt.
        mask_from: "values"; "instances" where every value but 0 is an object; "attention" for maps scaled by their
            maximum.
        channels: 1, 3 or 4: gray, RGB, RGB with alpha.
        image_range: the values that are black and white in image files of more than 8 bits.
        upright: turn photographs as their EXIF orientation says; False reads images and masks as stored.
        exclude: patterns of file and folder names to leave out; None refuses what looks like masks among the images.
        image_column: of the index, where its name is unusual.
        label_column: of the index, where its name is unusual.
        mask_column: of the index, where its name is unusual.
        group_column: of the index; several make groups of their combinations.
        split_column: of the index, where its name is unusual.
        annotations: a file or folder of annotations below root in place of masks, several, or one by split: COCO,
            LabelMe, CVAT, Label Studio, YOLO, VOC, run lengths, gaze; see `camtrain.data.formats`.
        labels_from: "folders" for class folders or the index, "annotations" for the largest category; "auto" takes
            folders where there are such, and asks where both may be meant.
        run_order: "columns" or "rows", of the run lengths in a CSV file; None where the shapes tell.

    Raises:
        DataError: a missing folder, index or file, no images, a corrupt image, masks of which none is an image's.
        MaskError: a mask of another size than its image, or of values that have to be said.
    """

    def __init__(
        self,
        root: str | Path,
        images: str = "",
        masks: str | None = None,
        mask_suffix: str = "",
        index: str | None = None,
        split: str | None = None,
        transform: JointTransform | None = None,
        soft_masks: bool = False,
        mask_fraction: float = 1.0,
        verify: str = "decode",
        skip_corrupt: bool = False,
        *,
        mask_values: Values | Mapping[str, Values] | None = None,
        ignore_value: Values | None = None,
        mask_channel: str | None = None,
        mask_from: str = "values",
        channels: int = 3,
        image_range: Sequence[int | float] | None = None,
        upright: bool = True,
        exclude: Sequence[str] | None = None,
        image_column: str | None = None,
        label_column: str | None = None,
        mask_column: str | None = None,
        group_column: str | Sequence[str] | None = None,
        split_column: str | None = None,
        annotations: Sources | None = None,
        labels_from: str = "auto",
        run_order: str | None = None,
    ) -> None:
        mask_words: dict[str, Any] = {
            "mask_values": mask_values,
            "ignore_value": ignore_value,
            "mask_channel": mask_channel,
            "mask_from": mask_from,
            "soft_masks": soft_masks,
        }
        rule = mask_rule(**mask_words, upright=upright)
        base = require_folder(Path(root), "the dataset")
        folder = require_folder(base / images, "images")
        beside = folder if mask_suffix else None
        mask_folder = beside if masks is None else require_folder(base / masks, "masks")
        find_mask = MaskFinder(mask_folder, mask_suffix)
        shapes = None if annotations is None else read_annotations(annotations, base)
        columns = {
            "image": image_column,
            "label": label_column,
            "mask": mask_column,
            "group": group_column,
            "split": split_column,
        }

        def read(split: str | None) -> FolderLayout:
            if index is not None:
                return read_index(base / index, folder, find_mask, split, columns)
            return read_class_folders(folder, find_mask, split, exclude)

        if shapes is not None and index is None and _labels_are_annotated(labels_from, folder, shapes):
            layout = from_annotations(shapes, folder, upright=upright).of_split(split)
        else:
            layout = read(split)
            if shapes is not None:
                layout = replace(layout, samples=attached(layout.samples, layout.class_names, shapes, folder))
        layout = replace(layout, samples=in_order(layout.samples, run_order, upright))
        image_rule = ImageRule(channels, image_range, upright)
        super().__init__(
            layout.samples, layout.class_names, layout.group_names, transform, image_rule=image_rule, mask_rule=rule
        )
        _require_classes(rule, self.class_names)
        first = self.samples[0].id
        self.check(verify, skip_corrupt)
        if mask_folder is not None and not (_masked(layout.samples) or _masked(read(None).samples)):
            raise _none_found(mask_folder, first, find_mask.name_for(Path(first)))
        self.annotated = annotated_subset(len(self), mask_fraction)
        say_splits(self.samples)
        say_foreign(folder)
        if mask_folder is not None or shapes is not None or _masked(self.samples):
            chosen = [sample for sample, keeps in zip(self.samples, self.annotated.tolist(), strict=True) if keeps]
            announce(f"annotated: {_masked(chosen)} of {len(self)} images in {folder}")


def union(mask: NDArray[np.float32], other: NDArray[np.float32]) -> Any:
    """Inside either of two masks; unknown where one of them is and the other is not inside.

    >>> union(np.float32([1, -1, -1, 0]), np.float32([-1, 0, 1, 0])).tolist()
    [1.0, -1.0, 1.0, 0.0]
    """
    highest = np.maximum(mask, other)
    return np.where((highest <= 0) & (np.minimum(mask, other) < 0), np.float32(-1), highest)


def _labels_are_annotated(labels_from: str, folder: Path, annotations: Annotations) -> bool:
    """Are the labels those of the annotations, not of class folders."""
    if labels_from not in LABELS_FROM:
        raise ConfigurationError(f"labels_from is one of {', '.join(LABELS_FROM)}; got {labels_from!r}.")
    if labels_from != "auto":
        return labels_from == "annotations"
    if annotations.folder is not None:
        return True  # a data set with folders of its own, as YOLO's
    names = has_class_folders(folder)
    if len(annotations.categories) > 1 and names and not set(names) & set(annotations.categories):
        raise DataError(
            f"The folders {names[:4]} may be the classes, or the categories {annotations.categories[:4]} of the "
            "annotations: set labels_from to folders or annotations."
        )
    return not names


def _require_classes(rule: MaskRule, names: Sequence[str]) -> None:
    """Values by class name are given for every class, and for no other."""
    if isinstance(rule.values, Mapping) and set(rule.values) != set(names):
        raise ConfigurationError(
            f"mask_values has the classes {sorted(rule.values)}; the images have {sorted(names)}. Give values for each."
        )


def _none_found(folder: Path, image: str, wanted: Path) -> DataError:
    """The error for a folder of masks of which none is an image's, with an image and the name of its mask."""
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    found = ", ".join([*files[:3], *["..."] * (len(files) > 3)]) or "no file"
    return DataError(
        f"No file in {folder} is the mask of an image: found {found}; looked for {wanted.as_posix()}, of {image}. "
        "Save masks as PNG files of that name, set mask_suffix to what follows the image's name, or give neither masks "
        "nor mask_suffix."
    )


def _masked(samples: Sequence[Sample]) -> int:
    """How many have a mask."""
    return sum(sample.mask is not None or sample.regions is not None for sample in samples)
