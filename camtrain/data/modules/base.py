"""What every data module has: batches in three formats, names of classes and groups, the way back to pictures."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from camtrain.data.collate import Collate, Gathered, denormalize
from camtrain.data.memory import InMemoryDataset
from camtrain.errors import ConfigurationError
from camtrain.packages import joined

if TYPE_CHECKING:
    from pytorch_lightning import LightningDataModule
else:
    LightningDataModule = joined("LightningDataModule")

BatchFormat = Literal["mapping", "triple", "pair"]


class MaskedDataModule(LightningDataModule):
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
