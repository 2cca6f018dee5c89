"""LightningDataModules over the datasets, with plain arguments for the command line.

All of them have `class_names`, `num_classes`, `group_names`, `num_groups` and `denormalize`, and yield batches in
one of three formats: "mapping" (`{"image", "label", "mask", "group", "id"}`), "triple" (images, labels, masks) or
"pair" (images, labels) that carries the masks along unseen.
"""

from camtrain.data.modules.base import BatchFormat, MaskedDataModule
from camtrain.data.modules.files import CocoDataModule, FilesDataModule, ImageFolderDataModule
from camtrain.data.modules.generated import DecoyDataModule, ScenesDataModule, WorldDataModule

__all__ = [
    "BatchFormat",
    "CocoDataModule",
    "DecoyDataModule",
    "FilesDataModule",
    "ImageFolderDataModule",
    "MaskedDataModule",
    "ScenesDataModule",
    "WorldDataModule",
]
