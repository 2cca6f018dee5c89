"""Datasets with masks, planted shortcuts, batch adapters; the data modules are in `camtrain.data.modules`."""

from camtrain.data.annotations import (
    attention_to_masks,
    boxes_to_masks,
    label_map_to_masks,
    points_to_masks,
    polygons_to_masks,
)
from camtrain.data.batches import Batch, MaskedPair, check_masks, class_names, read_batch
from camtrain.data.canary import Canary, CanaryDataset
from camtrain.data.coco import CocoMasks
from camtrain.data.collate import Collate, denormalize, normalize
from camtrain.data.decoy import DecoyFashionMNIST, DecoyMNIST
from camtrain.data.folders import MaskedImageFolder
from camtrain.data.randomize import RandomizeCue
from camtrain.data.scenes import Scenes, draw_scene
from camtrain.data.transforms import TwinBackgrounds, eval_transform, train_transform

__all__ = [
    "Batch",
    "Canary",
    "CanaryDataset",
    "CocoMasks",
    "Collate",
    "DecoyFashionMNIST",
    "DecoyMNIST",
    "MaskedImageFolder",
    "MaskedPair",
    "RandomizeCue",
    "Scenes",
    "TwinBackgrounds",
    "attention_to_masks",
    "boxes_to_masks",
    "check_masks",
    "class_names",
    "denormalize",
    "draw_scene",
    "eval_transform",
    "label_map_to_masks",
    "normalize",
    "points_to_masks",
    "polygons_to_masks",
    "read_batch",
    "train_transform",
]
