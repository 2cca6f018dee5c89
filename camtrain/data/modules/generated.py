"""Data modules over what is drawn or planted: scenes, a world for every task, and digits with decoys."""

from typing import Literal

from camtrain.data.decoy import DecoyDigits, DecoyFashionMNIST, DecoyMNIST, read_digits
from camtrain.data.modules.base import BatchFormat, MaskedDataModule
from camtrain.data.scenes import Scenes
from camtrain.data.worlds import CLASSES, TaskWorld
from camtrain.errors import ConfigurationError


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


class WorldDataModule(MaskedDataModule):
    """A generated world for a task, with a shortcut in training; see `camtrain.data.worlds`. Nothing is downloaded.

    In validation and test the shortcut tells nothing, so that it is seen at once.

    Args:
        task: "binary", "multi_label", "regression", "segmentation", "detection", "clips", "captioning" or
            "question_answering".
        batch_size: images in a batch.
        image_size: side in pixels.
        correlation: share of the training pictures whose shortcut says what is true.
        train_size: number of training pictures.
        held_out_size: number of pictures of the validation, and of the test.
        mask_fraction: share of the training pictures that have a mask; validation and test keep all.
        seed: of everything that is drawn.
    """

    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(
        self,
        task: str,
        batch_size: int = 32,
        image_size: int = 32,
        correlation: float = 1.0,
        train_size: int = 768,
        held_out_size: int = 384,
        mask_fraction: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, 0, "mapping", drop_last=False)
        self.task, self.image_size, self.correlation = task, image_size, correlation
        self.train_size, self.held_out_size = train_size, held_out_size
        self.mask_fraction, self.seed = mask_fraction, seed

    @property
    def class_names(self) -> list[str]:
        """What the answers are called; none of values."""
        return list(CLASSES.get(self.task, ()))

    @property
    def group_names(self) -> list[str]:
        """Whether the shortcut says what is true."""
        return ["shortcut is wrong", "shortcut is right"]

    def build(self, split: str) -> TaskWorld:
        """Draw the pictures of a split."""
        train = split == "train"
        size = self.train_size if train else self.held_out_size
        correlation, share = (self.correlation, self.mask_fraction) if train else (None, 1.0)
        return TaskWorld(self.task, split, size, self.image_size, correlation, self.seed, share)


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
