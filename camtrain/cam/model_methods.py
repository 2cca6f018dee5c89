"""Methods that need the model: `f(model, images, ..., target=, labels=) -> (B, *S)`, each with passes of its own."""

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from camtrain.cam.attention import le_grad
from camtrain.cam.guided import guided_backpropagation, guided_grad_cam
from camtrain.cam.layers import Layer
from camtrain.cam.methods import METHODS
from camtrain.cam.occlusion import occlusion_map
from camtrain.cam.perturbation import ablation_cam, score_cam
from camtrain.cam.smoothing import smooth_grad_cam_plus_plus
from camtrain.cam.targets import Target
from camtrain.errors import MethodError

ModelMethod = Callable[..., Tensor]
LAYER_METHODS: dict[str, ModelMethod] = {
    function.__name__: function
    for function in (ablation_cam, guided_grad_cam, le_grad, score_cam, smooth_grad_cam_plus_plus)
}
IMAGE_METHODS: dict[str, ModelMethod] = {
    function.__name__: function for function in (guided_backpropagation, occlusion_map)
}
MODEL_METHODS = LAYER_METHODS | IMAGE_METHODS


def needs_model(method: str | Callable[..., Any]) -> bool:
    """Whether a method runs the model itself, rather than reading activations and gradients.

    Those of this package are known by name or function, also within `functools.partial`; a function of yours says so by
    an attribute `needs_model = True`.

    >>> needs_model("score_cam"), needs_model("grad_cam"), needs_model(functools.partial(score_cam, max_batch=8))
    (True, False, True)
    """
    if isinstance(method, str):
        return method in MODEL_METHODS
    function = plain(method)
    return function in MODEL_METHODS.values() or bool(getattr(function, "needs_model", False))


def needs_layer(method: Callable[..., Any]) -> bool:
    """Whether a method that runs the model looks at a layer; the others look at the images alone."""
    return plain(method) not in IMAGE_METHODS.values()


def find_method(method: str | Callable[..., Any]) -> Callable[..., Any]:
    """The function behind the name of a method of either kind; a callable is returned as it is.

    >>> find_method("score_cam").__name__
    'score_cam'
    """
    if callable(method):
        return method
    known = METHODS | MODEL_METHODS
    if method not in known:
        raise MethodError(
            f"No method named {method!r}. Known: {', '.join(sorted(known))}; "
            "or pass a function of (activations, gradients)."
        )
    return known[method]


def name_of(method: Callable[..., Any]) -> str:
    """The name that a method is logged under, also within `functools.partial`.

    >>> name_of(functools.partial(score_cam, max_batch=8))
    'score_cam'
    """
    return getattr(plain(method), "__name__", type(method).__name__)


def plain(method: Callable[..., Any]) -> Callable[..., Any]:
    """The function within `functools.partial`."""
    return plain(method.func) if isinstance(method, functools.partial) else method


def run_method(
    method: ModelMethod, model: nn.Module, images: Any, layer: Layer, target: Target, labels: Tensor | None
) -> Tensor:
    """A model method's heatmaps for one layer; those of the image alone are not told the layer."""
    if needs_layer(method):
        return method(model, images, layer, target=target, labels=labels)
    return method(model, images, target=target, labels=labels)
