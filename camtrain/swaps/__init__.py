"""Pixels changed that should not matter: what the cure trains on, and what the diagnosis asks with."""

from camtrain.swaps.blending import Blend, Infill, move_objects
from camtrain.swaps.masks import read_annotated, read_masks
from camtrain.swaps.twins import (
    can_have_twin,
    choose_donors,
    deal_backgrounds,
    make_masked_twins,
    make_twins,
    same_class_share,
)

__all__ = [
    "Blend",
    "Infill",
    "can_have_twin",
    "choose_donors",
    "deal_backgrounds",
    "make_masked_twins",
    "make_twins",
    "move_objects",
    "read_annotated",
    "read_masks",
    "same_class_share",
]
