"""Pixels changed that should not matter: what the cure trains on, and what the diagnosis asks with."""

from camtrain.swaps.blending import Blend, move_objects
from camtrain.swaps.compositing import (
    blend,
    composite,
    cutout,
    dilate,
    feathered,
    fill_objects,
    fill_with_texture,
    kept_around,
    place,
    read_annotated,
    read_masks,
)
from camtrain.swaps.infills import Infill, noise_background
from camtrain.swaps.looks import LOOKS, Look, look_of
from camtrain.swaps.twins import (
    blend_twins,
    can_have_twin,
    choose_donors,
    choose_twins,
    deal,
    deal_backgrounds,
    make_masked_twins,
    make_twins,
    same_class_share,
)

__all__ = [
    "LOOKS",
    "Blend",
    "Infill",
    "Look",
    "blend",
    "blend_twins",
    "can_have_twin",
    "choose_donors",
    "choose_twins",
    "composite",
    "cutout",
    "deal",
    "deal_backgrounds",
    "dilate",
    "feathered",
    "fill_objects",
    "fill_with_texture",
    "kept_around",
    "look_of",
    "make_masked_twins",
    "make_twins",
    "move_objects",
    "noise_background",
    "place",
    "read_annotated",
    "read_masks",
    "same_class_share",
]
