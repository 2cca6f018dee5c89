"""The explanation engine: tensors in, heatmaps out."""

from camtrain.cam.capture import Activations, Capture, capture, gradients_of, record_activations
from camtrain.cam.layers import Layer, find_layers, resolve_layers
from camtrain.cam.methods import (
    contribution_cam,
    grad_cam,
    grad_cam_plus_plus,
    hires_cam,
    layer_cam,
    resolve_method,
    xgrad_cam,
)
from camtrain.cam.ownership import evaluating, unwrap
from camtrain.cam.ride import Ride, can_ride
from camtrain.cam.spatial import annotated, is_empty, normalize, pool_masks, resize
from camtrain.cam.targets import (
    class_index,
    find_logits,
    log_probability,
    margin,
    predicted_class,
    true_class,
)

__all__ = [
    "Activations",
    "Capture",
    "Layer",
    "Ride",
    "annotated",
    "can_ride",
    "capture",
    "class_index",
    "contribution_cam",
    "evaluating",
    "find_layers",
    "find_logits",
    "grad_cam",
    "grad_cam_plus_plus",
    "gradients_of",
    "hires_cam",
    "is_empty",
    "layer_cam",
    "log_probability",
    "margin",
    "normalize",
    "pool_masks",
    "predicted_class",
    "record_activations",
    "resize",
    "resolve_layers",
    "resolve_method",
    "true_class",
    "unwrap",
    "xgrad_cam",
]
