"""Methods that need the model: `f(model, images, ..., target=, labels=) -> (B, *S)`, each with passes of its own."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from camtrain.cam.attention import le_grad
from camtrain.cam.capture import capture
from camtrain.cam.guided import guided_backpropagation, guided_grad_cam
from camtrain.cam.layers import Layer, LayerSpec
from camtrain.cam.methods import METHODS, grad_cam_plus_plus
from camtrain.cam.occlusion import occlusion_map
from camtrain.cam.passes import image_of, with_images
from camtrain.cam.perturbation import ablation_cam, score_cam
from camtrain.cam.targets import Target, predicted_class, settled
from camtrain.errors import MethodError


def smooth_grad_cam_plus_plus(
    model: nn.Module,
    images: Any,
    layers: LayerSpec = "auto",
    *,
    target: Target = predicted_class,
    labels: Tensor | None = None,
    samples: int = 8,
    noise: float = 0.15,
    seed: int = 0,
) -> Float[Tensor, "B *S"]:
    """Smooth Grad-CAM++: Grad-CAM++ of the image's activations with gradients averaged over noisy copies of it.

    The noise is Gaussian with a standard deviation of `noise` times the image's range, drawn from a generator of its
    own: the random state is untouched, and every image gets the same noise whatever its batch. What is explained (the
    predicted class) is chosen on the image without noise. Of several layers the first is taken.
    Source: Omeiza et al. 2019.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    >>> smooth_grad_cam_plus_plus(net, torch.rand(5, 1, 4, 4)).shape
    torch.Size([5, 2, 2])
    """
    if samples < 1 or noise < 0:
        raise MethodError(f"Smoothing needs samples >= 1 and noise >= 0, not samples={samples} and noise={noise}.")
    clean = capture(model, images, layers, target, labels=labels)
    fixed = settled(target, clean.logits, labels)
    total = torch.zeros_like(clean.gradients[0])
    for noisy in _noisy(image_of(images), samples, noise, seed):
        varied = with_images(images, noisy, torch.arange(len(noisy)))
        total += capture(model, varied, clean.layers, fixed, labels=labels).gradients[0]
    return grad_cam_plus_plus(clean.activations[0], total / samples)


def _noisy(images: Tensor, samples: int, noise: float, seed: int) -> list[Tensor]:
    generator = torch.Generator(images.device).manual_seed(seed)
    spread = _range(images).mul(noise)
    drawn = (
        torch.randn((1, *images.shape[1:]), generator=generator, device=images.device, dtype=torch.float32)
        for _ in range(samples)
    )
    return [images + spread * sample.to(images.dtype) for sample in drawn]


def _range(images: Tensor) -> Tensor:
    """Each image's largest value minus its smallest, `(B, 1, ...)`."""
    axes = tuple(range(1, images.ndim))
    return images.amax(dim=axes, keepdim=True) - images.amin(dim=axes, keepdim=True)


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
