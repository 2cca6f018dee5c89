"""A user's own images with masks: class folders, or one folder with an index file."""

import copy
import csv
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from camtrain.data.files import Sample, check_samples, list_images, read_image, read_mask, require_folder
from camtrain.data.subsets import SPLITS, annotated_subset
from camtrain.data.transforms import JointTransform, transform_pair
from camtrain.errors import DataError

_log = logging.getLogger("camtrain")


class SampleDataset(Dataset[dict[str, Any]]):
    """Images and masks read from files when asked for.

    Items are `{"image", "label", "mask", "id"}` and `"group"` where there are groups: image float `(3, H, W)` in
    [0, 1] unless a transform says otherwise, mask float `(H, W)`, all -1 where there is no annotation.

    Args:
        samples: the files.
        class_names: one per class.
        group_names: one per group; empty without groups.
        transform: joint `(image, mask) -> (image, mask)`; needed to batch images of different sizes.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        class_names: Sequence[str],
        group_names: Sequence[str] = (),
        transform: JointTransform | None = None,
    ) -> None:
        self.samples, self.class_names, self.group_names = list(samples), list(class_names), list(group_names)
        self.transform = transform
        self.annotated = torch.ones(len(self.samples), dtype=torch.bool)

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
        return chosen

    def read_mask(self, sample: Sample) -> Tensor | None:
        """Mask float `(H, W)` of a sample, or None where it has no annotation."""
        return None if sample.mask is None else read_mask(sample.mask)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.samples[index]
        image = read_image(sample.image)
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
    * an index: a CSV file with the columns `file` (below `images`) and `label`, and where wanted `mask` (below
      `masks`), `group` and `split`; without the column `mask`, masks are found by name.

    Class folders may lie in folders `train`, `val` and `test`. An image without a mask file has no annotation: its
    mask is all -1. How many images have one is logged; that none has, in any split, is an error where there should be.

    Args:
        root: the folder of the dataset.
        images: folder of the images below root.
        masks: folder of the masks below root; None where they lie beside the images or there are none.
        mask_suffix: what follows the image's stem in the mask's name.
        index: CSV file below root; None for class folders.
        split: "train", "val" or "test" for the part that the index or the folders call so; None for all.
        transform: joint `(image, mask) -> (image, mask)`, see `camtrain.data.transforms`.
        soft_masks: read gray masks 0..255 as 0..1 instead of every value but 0 as 1.
        mask_fraction: share of images that keep their mask.
        verify: "decode" reads every file once at construction, "headers" only sizes, "none" nothing.
        skip_corrupt: leave corrupt images out, with a warning, instead of raising.

    Raises:
        DataError: a missing folder, index or file, no images, a corrupt image, masks of which none is an image's.
        MaskError: a mask of another size than its image.
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
    ) -> None:
        base = require_folder(Path(root), "the dataset")
        folder = require_folder(base / images, "images")
        beside = folder if mask_suffix else None
        mask_folder = beside if masks is None else require_folder(base / masks, "masks")
        find_mask = MaskFinder(mask_folder, mask_suffix)
        read = partial(read_class_folders, folder) if index is None else partial(read_index, base / index, folder)
        samples, classes, groups = read(find_mask, split)
        super().__init__(check_samples(samples, verify, skip_corrupt), classes, groups, transform)
        if mask_folder is not None and not (_masked(samples) or _masked(read(find_mask)[0])):
            raise _none_found(mask_folder, samples[0].id, find_mask.name_for(Path(samples[0].id)))
        self.soft_masks = soft_masks
        self.annotated = annotated_subset(len(self), mask_fraction)
        if mask_folder is not None:
            kept = [sample for sample, keeps in zip(self.samples, self.annotated.tolist(), strict=True) if keeps]
            _log.info("annotated: %d of %d images in %s", _masked(kept), len(self), folder)

    def read_mask(self, sample: Sample) -> Tensor | None:
        """The mask file, hard or soft."""
        return None if sample.mask is None else read_mask(sample.mask, soft=self.soft_masks)


@dataclass(frozen=True)
class MaskFinder:
    """From an image's path below the image folder to its mask file, or None.

    Attributes:
        folder: of the masks; None where there are none.
        suffix: what follows the image's stem in the mask's name.
    """

    folder: Path | None
    suffix: str = ""

    def __call__(self, relative: Path, named: str | None = None) -> Path | None:
        """The mask that the index names, or the one found by the image's name."""
        if self.folder is None:
            return None
        if named:
            return self.folder / named
        path = self.folder / self.name_for(relative)
        return path if path.is_file() else None

    def name_for(self, relative: Path) -> Path:
        """Where below the folder the mask of an image is looked for.

        >>> MaskFinder(Path("masks"), "_mask").name_for(Path("dog/7.jpg")).as_posix()
        'dog/7_mask.png'
        """
        return relative.with_name(f"{relative.stem}{self.suffix}.png")

    def is_mask(self, path: Path) -> bool:
        """Whether a file among the images is a mask by its name."""
        return bool(self.suffix) and path.stem.endswith(self.suffix)


def read_class_folders(
    folder: Path, find_mask: MaskFinder, split: str | None = None
) -> tuple[list[Sample], list[str], list[str]]:
    """Samples, class names and (no) group names of a folder with one folder per class.

    The class folders may lie in folders `train`, `val` and `test`; without `train` these would be classes.
    """
    named = [name for name in SPLITS if (folder / name).is_dir()]
    roots: dict[str | None, Path] = {name: folder / name for name in named}
    if "train" not in named:
        roots = {None: folder}
    classes = sorted({name for root in roots.values() for name in _folder_names(root)})
    samples = [
        Sample(path, classes.index(name), find_mask(path.relative_to(folder)), None, found_in, _id(path, folder))
        for found_in, root in roots.items()
        if split in (None, found_in)
        for name in _folder_names(root)
        for path in list_images(root / name)
        if not find_mask.is_mask(path)
    ]
    if not samples:
        raise DataError(
            f"{folder} holds no images in class folders (like {folder / 'dog' / '1.jpg'})"
            f"{'' if split is None else f' for the split {split!r}'}. "
            "Set images to the folder of the class folders, or index to a CSV file with file and label."
        )
    return samples, classes, []


def read_index(
    index: Path, folder: Path, find_mask: MaskFinder, split: str | None = None
) -> tuple[list[Sample], list[str], list[str]]:
    """Samples, class names and group names of a CSV index; names are sorted over all its rows."""
    rows, columns = _read_rows(index)
    needed = {"file", "label"} | ({"split"} if split is not None else set())
    if missing := needed - set(columns):
        raise DataError(f"{index} has no column {sorted(missing)}; it has {columns}. Add or rename it.")
    if unknown := sorted({row.get("split") or "train" for row in rows} - set(SPLITS)):
        raise DataError(f"The column split of {index} holds train, val or test; got {unknown}. Rename them.")
    classes = sorted({row["label"] for row in rows})
    groups = sorted({row["group"] for row in rows}) if "group" in columns else []
    samples = [
        Sample(
            folder / row["file"],
            classes.index(row["label"]),
            find_mask(Path(row["file"]), row.get("mask")),
            groups.index(row["group"]) if groups else None,
            row.get("split") or None,
            row["file"],
        )
        for row in rows
        if split is None or row["split"] == split
    ]
    if not samples:
        raise DataError(f"{index} has no rows{'' if split is None else f' with split {split!r}'}. Add some.")
    return samples, classes, groups


def _read_rows(index: Path) -> tuple[list[dict[str, str]], list[str]]:
    if not index.is_file():
        raise DataError(f"There is no index file {index}. Set index to a CSV file with file and label.")
    with index.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        return list(reader), list(reader.fieldnames or [])


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
    return sum(sample.mask is not None for sample in samples)


def _folder_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _id(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
