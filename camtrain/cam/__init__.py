"""The explanation engine: tensors in, heatmaps out."""

from camtrain.cam.attention import le_grad
from camtrain.cam.capture import Activations, Capture, capture, gradients_of, record_activations
from camtrain.cam.fusion import fuse
from camtrain.cam.guided import guided_backpropagation, guided_grad_cam, guided_gradients
from camtrain.cam.layers import Layer, find_layers, resolve_layers
from camtrain.cam.methods import (
    contribution_cam,
    counterfactual_cam,
    eigen_cam,
    elementwise_cam,
    grad_cam,
    grad_cam_plus_plus,
    hires_cam,
    layer_cam,
    resolve_method,
    xgrad_cam,
)
from camtrain.cam.model_methods import needs_model, smooth_grad_cam_plus_plus
from camtrain.cam.occlusion import occlusion_map
from camtrain.cam.outputs import find_logits, logits_candidates
from camtrain.cam.ownership import evaluating, is_compiled, unwrap
from camtrain.cam.perturbation import ablation_cam, score_cam
from camtrain.cam.ride import Ride, can_ride
from camtrain.cam.spatial import (
    annotated,
    is_empty,
    normalize,
    partly_unknown,
    pool_masks,
    resize,
    without_unknown,
)
from camtrain.cam.states import State
from camtrain.cam.targets import (
    class_index,
    finer,
    log_probability,
    margin,
    multi_label,
    nth_class,
    predicted_class,
    sampled_positive,
    settled,
    top_k,
    true_class,
)
from camtrain.cam.tasks import (
    answer_log_probability,
    caption_token,
    detection_box,
    embedding_similarity,
    regression_output,
    segmentation_region,
)

__all__ = [
    "Activations",
    "Capture",
    "Layer",
    "Ride",
    "State",
    "ablation_cam",
    "annotated",
    "answer_log_probability",
    "can_ride",
    "caption_token",
    "capture",
    "class_index",
    "contribution_cam",
    "counterfactual_cam",
    "detection_box",
    "eigen_cam",
    "elementwise_cam",
    "embedding_similarity",
    "evaluating",
    "find_layers",
    "find_logits",
    "finer",
    "fuse",
    "grad_cam",
    "grad_cam_plus_plus",
    "gradients_of",
    "guided_backpropagation",
    "guided_grad_cam",
    "guided_gradients",
    "hires_cam",
    "is_compiled",
    "is_empty",
    "layer_cam",
    "le_grad",
    "log_probability",
    "logits_candidates",
    "margin",
    "multi_label",
    "needs_model",
    "normalize",
    "nth_class",
    "occlusion_map",
    "partly_unknown",
    "pool_masks",
    "predicted_class",
    "record_activations",
    "regression_output",
    "resize",
    "resolve_layers",
    "resolve_method",
    "sampled_positive",
    "score_cam",
    "segmentation_region",
    "settled",
    "smooth_grad_cam_plus_plus",
    "top_k",
    "true_class",
    "unwrap",
    "without_unknown",
    "xgrad_cam",
]
