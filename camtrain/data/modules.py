"""LightningDataModules over the datasets, with plain arguments for the command line.

All of them have `class_names`, `num_classes`, `group_names`, `num_groups` and `denormalize`, and yield batches in
one of three formats: "mapping" (`{"image", "label", "mask", "group", "id"}`), "triple" (images, labels, masks) or
"pair" (images, labels) that carries the masks along unseen.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import pytorch_lightning as pl
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from camtrain.data.coco import CocoMasks
from camtrain.data.collate import Collate, Gathered, denormalize
from camtrain.data.decoy import DecoyDigits, DecoyFashionMNIST, DecoyMNIST, read_digits
from camtrain.data.folders import MaskedImageFolder, SampleDataset
from camtrain.data.memory import InMemoryDataset
from camtrain.data.scenes import Scenes
from camtrain.data.subsets import divide
from camtrain.data.transforms import IMAGENET_MEAN, IMAGENET_STD, eval_transform, train_transform
from camtrain.errors import ConfigurationError

BatchFormat = Literal["mapping", "triple", "pair"]


class MaskedDataModule(pl.LightningDataModule):
    """Base of the data modules: three datasets and their loaders.

    A subclass gives `build(split)` for "train", "val" and "test", the names, and `mean` and `std`.

    Args:
        batch_size: images in a batch.
        num_workers: processes that load; 0 for the main process.
        batch_format: "mapping", "triple" or "pair".
        drop_last: leave out an incomplete last batch in training.
    """

    mean: Sequence[float] = (0.5, 0.5, 0.5)
    std: Sequence[float] = (0.25, 0.25, 0.25)
    flip = False

    def __init__(self, batch_size: int, num_workers: int, batch_format: BatchFormat, drop_last: bool) -> None:
        super().__init__()
        if batch_size < 1 or num_workers < 0:
            raise ConfigurationError(
                f"batch_size is at least 1 and num_workers at least 0; got {batch_size} and {num_workers}."
            )
        Collate(batch_format)  # refuses an unknown format
        self.batch_size, self.num_workers = batch_size, num_workers
        self.batch_format, self.drop_last = batch_format, drop_last
        self.datasets: dict[str, Dataset[Any]] = {}

    @property
    def class_names(self) -> list[str]:
        """One name per class."""
        raise NotImplementedError

    @property
    def group_names(self) -> list[str]:
        """One name per group; empty without groups."""
        raise NotImplementedError

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def num_groups(self) -> int:
        """Number of groups; 0 without groups."""
        return len(self.group_names)

    def build(self, split: str) -> Dataset[Any]:
        """The dataset of a split."""
        raise NotImplementedError

    def setup(self, stage: str | None = None) -> None:
        """Build the datasets that the stage needs and that are not there yet; bad files are an error here."""
        for split in _NEEDED.get(str(stage), ("train", "val", "test")):
            if split not in self.datasets:
                self.datasets[split] = self.build(split)

    def train_dataloader(self) -> DataLoader[Any]:
        """Training batches, shuffled."""
        return self.loader("train", shuffle=True, drop_last=self.drop_last)

    def val_dataloader(self) -> DataLoader[Any]:
        """Validation batches, in a fixed order."""
        return self.loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Test batches, in a fixed order."""
        return self.loader("test")

    def loader(self, split: str, shuffle: bool = False, drop_last: bool = False) -> DataLoader[Any]:
        """A loader over the dataset of a split."""
        if split not in self.datasets:
            self.setup({"train": "fit", "val": "validate"}.get(split, split))
        dataset = self.datasets[split]
        if isinstance(dataset, InMemoryDataset):
            flip = self.flip and split == "train"
            collate = Collate(self.batch_format, tuple(self.mean), tuple(self.std), flip)
            dataset = Gathered(dataset)
        else:
            collate = Collate(self.batch_format)
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            collate_fn=collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )

    def denormalize(self, images: Tensor) -> Tensor:
        """Images `(..., C, H, W)` of a batch as they are shown, in [0, 1]."""
        return denormalize(images, self.mean, self.std)


_NEEDED = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("test",)}


class ScenesDataModule(MaskedDataModule):
    """Generated scenes: boat, duck, car and hen on land and on water. Nothing is downloaded.

    Training images show the object where it belongs with probability `correlation`. Validation and test are balanced
    by default (each object as often on land as on water), so that a shortcut is seen at once.

    Args:
        batch_size: images in a batch.
        image_size: side in pixels.
        correlation: share of each class that stands where it belongs, in training.
        val_correlation: the same in validation; 0.5 is balanced.
        test_correlation: the same in the test set.
        train_size: number of training images.
        val_size: number of validation images.
        test_size: number of test images.
        mask_fraction: share of the training images that have a mask; validation and test keep all.
        seed: of everything that is drawn.
        flip: mirror training images at random.
        num_workers: processes that load; the images lie in memory, and 0 is fastest.
        batch_format: "mapping", "triple" or "pair".
        drop_last: leave out an incomplete last batch in training.
    """

    def __init__(
        self,
        batch_size: int = 32,
        image_size: int = 96,
        correlation: float = 0.95,
        val_correlation: float = 0.5,
        test_correlation: float = 0.5,
        train_size: int = 1600,
        val_size: int = 400,
        test_size: int = 800,
        mask_fraction: float = 1.0,
        seed: int = 0,
        flip: bool = True,
        num_workers: int = 0,
        batch_format: BatchFormat = "mapping",
        drop_last: bool = False,
    ) -> None:
        super().__init__(batch_size, num_workers, batch_format, drop_last)
        self.image_size, self.seed, self.flip, self.mask_fraction = image_size, seed, flip, mask_fraction
        self.sizes = {"train": train_size, "val": val_size, "test": test_size}
        self.correlations = {"train": correlation, "val": val_correlation, "test": test_correlation}

    @property
    def class_names(self) -> list[str]:
        """Boat, duck, car, hen."""
        return list(Scenes.class_names)

    @property
    def group_names(self) -> list[str]:
        """Boat on land, boat on water, and so on."""
        return list(Scenes.group_names)

    def build(self, split: str) -> Scenes:
        """Draw the images of a split."""
        scenes = Scenes(
            split,
            size=self.sizes[split],
            image_size=self.image_size,
            correlation=self.correlations[split],
            seed=self.seed,
            mask_fraction=self.mask_fraction if split == "train" else 1.0,
        )
        _ = scenes.pictures  # drawn here, not in the first batch or in every worker
        return scenes


class DecoyDataModule(MaskedDataModule):
    """Decoy MNIST or Decoy Fashion-MNIST.

    Validation is a held-out part of the training files, with decoys that tell the label as in training; only the
    test set has random decoys.

    Args:
        root: the folder that holds `FashionMNIST/raw` or `MNIST/raw`.
        dataset: "fashion_mnist" or "mnist".
        decoy: False leaves the decoys out everywhere.
        download: fetch missing files.
        batch_size: images in a batch.
        train_size: number of training images; None for all.
        val_size: number of validation images; None for all.
        test_size: number of test images; None for all.
        val_fraction: share of the training files held out for validation.
        mask_fraction: share of the training images that have a mask; validation and test keep all.
        seed: of corners, random labels and subsets.
        num_workers: processes that load; the images lie in memory, and 0 is fastest.
        batch_format: "mapping", "triple" or "pair".
        drop_last: leave out an incomplete last batch in training.
    """

    def __init__(
        self,
        root: str = "data",
        dataset: Literal["fashion_mnist", "mnist"] = "fashion_mnist",
        decoy: bool = True,
        download: bool = False,
        batch_size: int = 256,
        train_size: int | None = None,
        val_size: int | None = None,
        test_size: int | None = None,
        val_fraction: float = 0.1,
        mask_fraction: float = 1.0,
        seed: int = 0,
        num_workers: int = 0,
        batch_format: BatchFormat = "mapping",
        drop_last: bool = False,
    ) -> None:
        super().__init__(batch_size, num_workers, batch_format, drop_last)
        if dataset not in _DIGITS:
            raise ConfigurationError(f"dataset is one of {', '.join(_DIGITS)}; got {dataset!r}.")
        self.kind, (mean, std) = _DIGITS[dataset]
        self.mean, self.std = (mean,), (std,)
        self.root, self.decoy, self.download = root, decoy, download
        self.sizes = {"train": train_size, "val": val_size, "test": test_size}
        self.val_fraction, self.mask_fraction, self.seed = val_fraction, mask_fraction, seed

    @property
    def class_names(self) -> list[str]:
        """The ten classes."""
        return list(self.kind.class_names)

    @property
    def group_names(self) -> list[str]:
        """Whether the decoy tells the true label."""
        return list(self.kind.group_names)

    def prepare_data(self) -> None:
        """Download the files, in one process, if asked."""
        if self.download:
            read_digits(self.kind.source, self.root, train=True, download=True)

    def build(self, split: str) -> DecoyDigits:
        """Read the files and plant the decoys of a split."""
        return self.kind(
            self.root,
            split,
            decoy=self.decoy,
            seed=self.seed,
            size=self.sizes[split],
            val_fraction=self.val_fraction,
            mask_fraction=self.mask_fraction if split == "train" else 1.0,
        )


_DIGITS: dict[str, tuple[type[DecoyDigits], tuple[float, float]]] = {
    "fashion_mnist": (DecoyFashionMNIST, (0.286, 0.353)),
    "mnist": (DecoyMNIST, (0.1307, 0.3081)),
}


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
        index: CSV file below root with the columns file and label; None for class folders.
        image_size: side in pixels.
        val_fraction: share of every class held out for validation.
        test_fraction: share of every class held out for the test; 0 tests on the validation images.
        mask_fraction: share of the training images that keep their mask.
        soft_masks: read gray masks 0..255 as 0..1 instead of every value but 0 as 1.
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
        }

    @cached_property
    def everything(self) -> MaskedImageFolder:
        """All images below the root."""
        return MaskedImageFolder(**self.folder_arguments)


class CocoDataModule(FilesDataModule):
    """Images with COCO annotations, labeled with their largest category; see `CocoMasks`.

    Args:
        images_dir: folder of the images.
        annotation_file: the JSON file.
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
        images_dir: str,
        annotation_file: str,
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
