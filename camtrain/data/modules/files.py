"""Data modules over your own files: class folders, an index, annotation files."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

from camtrain.data.coco import CocoMasks
from camtrain.data.folders import MaskedImageFolder, SampleDataset
from camtrain.data.modules.base import BatchFormat, MaskedDataModule
from camtrain.data.subsets import divide
from camtrain.data.transforms import IMAGENET_MEAN, IMAGENET_STD, eval_transform, train_transform


class FilesDataModule(MaskedDataModule):
    """Base of the data modules that read files: one dataset, divided as its files say or at random.

    Args:
        image_size: side in pixels.
        val_fraction: share of every class held out for validation.
        test_fraction: share of every class held out for the test; 0 tests on the validation images.
        mask_fraction: share of the training images that have a mask.
        seed: of the division.
        mean: of the normalization.
        std: of the normalization.
        loading: batch_size, num_workers, batch_format and drop_last.
    """

    def __init__(
        self,
        image_size: int,
        val_fraction: float,
        test_fraction: float,
        mask_fraction: float,
        seed: int,
        mean: Sequence[float],
        std: Sequence[float],
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        self.image_size, self.mask_fraction, self.seed = image_size, mask_fraction, seed
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self.mean, self.std = tuple(mean), tuple(std)

    @cached_property
    def everything(self) -> SampleDataset:
        """The dataset before it is divided."""
        raise NotImplementedError

    @cached_property
    def parts(self) -> dict[str, list[int]]:
        """Indices of the splits."""
        splits = [sample.split for sample in self.everything.samples]
        return divide(self.everything.labels, splits, self.val_fraction, self.test_fraction, self.seed)

    @property
    def class_names(self) -> list[str]:
        """As the files name them."""
        return self.everything.class_names

    @property
    def group_names(self) -> list[str]:
        """As the files name them; empty without groups."""
        return self.everything.group_names

    def build(self, split: str) -> SampleDataset:
        """A split with its transform."""
        make = train_transform if split == "train" else eval_transform
        transform = make(self.image_size, self.mean, self.std)
        fraction = self.mask_fraction if split == "train" else 1.0
        return self.everything.subset(self.parts[split], transform, fraction, self.seed)


class ImageFolderDataModule(FilesDataModule):
    """Your own images with masks: class folders, or one folder with a CSV index; see `MaskedImageFolder`.

    The splits are the column `split` of the index (train, val, test) where it has one, else the folders
    `train`, `val` and `test` in the folder of the images where there are such, else a random division.

    Args:
        root: the folder of the dataset.
        images: folder of the images below root.
        masks: folder of the masks below root; None where they lie beside the images or there are none.
        mask_suffix: what follows the image's stem in the mask's name.
        index: CSV file below root; None for class folders.
        image_size: side in pixels.
        val_fraction: share of every class held out for validation.
        test_fraction: share of every class held out for the test; 0 tests on the validation images.
        mask_fraction: share of the training images that keep their mask.
        soft_masks: read the values of masks as degrees, scaled by the file's bits.
        verify: "decode" reads every file once in setup, "headers" only sizes, "none" nothing.
        skip_corrupt: leave corrupt images out, with a warning, instead of raising.
        seed: of the division.
        mean: of the normalization.
        std: of the normalization.
        batch_size: images in a batch.
        num_workers: processes that load.
        batch_format: "mapping", "triple" or "pair".
        drop_last: leave out an incomplete last batch in training.
        mask_values: the object's values in a mask file, numbers or colors as "#rrggbb"; by class name for label maps.
        ignore_value: values of unknown pixels, which become -1: neither inside nor outside.
        mask_channel: "alpha", "color", "red", "green" or "blue", where a file leaves doubt.
        mask_from: "values"; "instances" where every value but 0 is an object; "attention" for maps scaled by their
            maximum.
        image_range: the values that are black and white in image files of more than 8 bits.
        upright: turn photographs as their EXIF orientation says; False reads images and masks as stored.
        exclude: patterns of file and folder names to leave out.
        image_column: of the index, where its name is unusual.
        label_column: of the index, where its name is unusual.
        mask_column: of the index, where its name is unusual.
        group_column: of the index; several make groups of their combinations.
        split_column: of the index, where its name is unusual.
        annotations: a file or folder of annotations below root in place of masks, several, or one by split.
        labels_from: "folders" or "annotations"; "auto" asks where both may be meant.
        run_order: "columns" or "rows", of the run lengths in a CSV file; None where the shapes tell.
    """

    def __init__(
        self,
        root: str,
        images: str = "",
        masks: str | None = None,
        mask_suffix: str = "",
        index: str | None = None,
        image_size: int = 128,
        val_fraction: float = 0.2,
        test_fraction: float = 0.0,
        mask_fraction: float = 1.0,
        soft_masks: bool = False,
        verify: Literal["decode", "headers", "none"] = "decode",
        skip_corrupt: bool = False,
        seed: int = 0,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        batch_size: int = 32,
        num_workers: int = 2,
        batch_format: BatchFormat = "mapping",
        drop_last: bool = False,
        mask_values: int | str | list[int | str] | dict[str, int | str | list[int | str]] | None = None,
        ignore_value: int | str | list[int | str] | None = None,
        mask_channel: Literal["alpha", "color", "red", "green", "blue"] | None = None,
        mask_from: Literal["values", "instances", "attention"] = "values",
        image_range: Sequence[int | float] | None = None,
        upright: bool = True,
        exclude: list[str] | None = None,
        image_column: str | None = None,
        label_column: str | None = None,
        mask_column: str | None = None,
        group_column: str | list[str] | None = None,
        split_column: str | None = None,
        annotations: str | list[str] | dict[str, str] | None = None,
        labels_from: Literal["auto", "folders", "annotations"] = "auto",
        run_order: Literal["columns", "rows"] | None = None,
    ) -> None:
        super().__init__(
            image_size,
            val_fraction,
            test_fraction,
            mask_fraction,
            seed,
            mean,
            std,
            batch_size=batch_size,
            num_workers=num_workers,
            batch_format=batch_format,
            drop_last=drop_last,
        )
        self.folder_arguments: dict[str, Any] = {
            "root": root,
            "images": images,
            "masks": masks,
            "mask_suffix": mask_suffix,
            "index": index,
            "soft_masks": soft_masks,
            "verify": verify,
            "skip_corrupt": skip_corrupt,
            "mask_values": mask_values,
            "ignore_value": ignore_value,
            "mask_channel": mask_channel,
            "mask_from": mask_from,
            "image_range": image_range,
            "upright": upright,
            "exclude": exclude,
            "image_column": image_column,
            "label_column": label_column,
            "mask_column": mask_column,
            "group_column": group_column,
            "split_column": split_column,
            "annotations": annotations,
            "labels_from": labels_from,
            "run_order": run_order,
        }

    @cached_property
    def everything(self) -> MaskedImageFolder:
        """All images below the root."""
        return MaskedImageFolder(**self.folder_arguments)


class CocoDataModule(FilesDataModule):
    """Images with COCO annotations, labeled with their largest category; see `CocoMasks`.

    Args:
        images_dir: folder of the images; several where there are several files.
        annotation_file: the JSON file; several, or a mapping from train, val and test.
        categories: names to use; None for all that the file lists.
        boxes: use boxes even where there are polygons or run lengths.
        image_size: side in pixels.
        val_fraction: share of every class held out for validation.
        test_fraction: share of every class held out for the test; 0 tests on the validation images.
        mask_fraction: share of the training images that keep their mask.
        verify: "decode" reads every file once in setup, "headers" only sizes, "none" nothing.
        skip_corrupt: leave corrupt images out, with a warning, instead of raising.
        seed: of the division.
        mean: of the normalization.
        std: of the normalization.
        batch_size: images in a batch.
        num_workers: processes that load.
        batch_format: "mapping", "triple" or "pair".
        drop_last: leave out an incomplete last batch in training.
    """

    def __init__(
        self,
        images_dir: str | list[str] | dict[str, str],
        annotation_file: str | list[str] | dict[str, str],
        categories: list[str] | None = None,
        boxes: bool = False,
        image_size: int = 128,
        val_fraction: float = 0.2,
        test_fraction: float = 0.0,
        mask_fraction: float = 1.0,
        verify: Literal["decode", "headers", "none"] = "decode",
        skip_corrupt: bool = False,
        seed: int = 0,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        batch_size: int = 32,
        num_workers: int = 2,
        batch_format: BatchFormat = "mapping",
        drop_last: bool = False,
    ) -> None:
        super().__init__(
            image_size,
            val_fraction,
            test_fraction,
            mask_fraction,
            seed,
            mean,
            std,
            batch_size=batch_size,
            num_workers=num_workers,
            batch_format=batch_format,
            drop_last=drop_last,
        )
        self.coco_arguments: dict[str, Any] = {
            "images_dir": images_dir,
            "annotation_file": annotation_file,
            "categories": categories,
            "boxes": boxes,
            "verify": verify,
            "skip_corrupt": skip_corrupt,
        }

    @cached_property
    def everything(self) -> CocoMasks:
        """All annotated images."""
        return CocoMasks(**self.coco_arguments)
