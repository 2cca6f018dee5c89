"""Guided backpropagation and Guided Grad-CAM: at every ReLU, only positive gradients pass."""

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from camtrain.cam.capture import capture, gradients_of
from camtrain.cam.layers import LayerSpec
from camtrain.cam.methods import grad_cam
from camtrain.cam.ownership import call
from camtrain.cam.passes import image_of, undisturbed, with_images
from camtrain.cam.spatial import channel_axis, resize
from camtrain.cam.targets import Target, predicted_class, score_of
from camtrain.errors import MethodError

_UPSAMPLING = ("linear", "nearest")


class GuidedReLU(torch.autograd.Function):
    """A rectifier with an upper bound, which lets a gradient pass where both it and the input are positive."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, bound: float, in_place: bool) -> Tensor:
        """The rectified tensor, the same one if in place."""
        passed = (tensor > 0) & (tensor < bound)
        ctx.save_for_backward(passed)
        if not in_place:
            return tensor.clamp(0, bound)
        ctx.mark_dirty(tensor)
        return tensor.clamp_(0, bound)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """The positive part of the gradient, where the input passed."""
        (passed,) = ctx.saved_tensors
        return torch.where(passed, gradients[0].relu(), 0), None, None


class GuidedRectifiers(TorchFunctionMode):
    """While active, every ReLU and ReLU6 is a `GuidedReLU`: modules and functions, in place or not."""

    count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace rectifiers, run everything else."""
        kwargs = kwargs or {}
        found = _rectifier(func, args, kwargs)
        if found is None:
            return func(*args, **kwargs)
        self.count += 1
        return GuidedReLU.apply(args[0] if args else kwargs["input"], *found)


_IN_PLACE = {torch.relu_, Tensor.relu_}
_BOUNDS = {F.relu: torch.inf, F.relu6: 6.0}
_HARDTANH = inspect.signature(F.hardtanh)


def _rectifier(func: Any, args: Any, kwargs: Any) -> tuple[float, bool] | None:
    """The bound and whether it works in place, if the call is a rectifier; None otherwise."""
    if func in (torch.relu, Tensor.relu):
        return torch.inf, False
    if func in _IN_PLACE:
        return torch.inf, True
    if func in _BOUNDS:
        return _BOUNDS[func], bool(kwargs.get("inplace", len(args) > 1 and args[1]))
    if func is F.hardtanh:
        given = _HARDTANH.bind(*args, **kwargs)
        given.apply_defaults()
        low, high, in_place = (given.arguments[name] for name in ("min_val", "max_val", "inplace"))
        return (high, in_place) if low == 0 else None
    return None


def guided_gradients(
    model: nn.Module,
    images: Any,
    *,
    target: Target = predicted_class,
    labels: Tensor | None = None,
) -> Tensor:
    """The signed gradient of the score in the images `(B, C, *S)` by guided backpropagation.

    Every ReLU and ReLU6 of the model, module or function, in place or not, passes only positive gradients; other
    activations are differentiated as they are. The model is left as it was.
    Raises MethodError for a model without a ReLU. Source: Springenberg et al. 2015.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> guided_gradients(net, torch.rand(5, 1, 2, 2)).shape
    torch.Size([5, 1, 2, 2])
    """
    with undisturbed(model, images) as (net, inputs), torch.enable_grad():
        leaf = image_of(inputs).detach().clone().requires_grad_()
        given = with_images(inputs, leaf.clone(), torch.arange(len(leaf)))  # a first layer may work in place
        with GuidedRectifiers() as guided:
            scores = score_of(target, call(net, given), labels)
        if guided.count == 0:
            raise MethodError(
                f"Guided backpropagation changes ReLUs, and {type(net).__name__} ran none: take another method."
            )
        return gradients_of(scores, [leaf])[0]


def guided_backpropagation(
    model: nn.Module,
    images: Any,
    *,
    target: Target = predicted_class,
    labels: Tensor | None = None,
) -> Float[Tensor, "B *S"]:
    """Guided backpropagation as a heatmap at image size `(B, *S)`: `sum_c |g_c|` over the color channels.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> guided_backpropagation(net, torch.rand(5, 1, 2, 2)).shape
    torch.Size([5, 2, 2])
    """
    gradients = _full(guided_gradients(model, images, target=target, labels=labels))
    return gradients.abs().sum(dim=channel_axis(tuple(gradients.shape)))


def guided_grad_cam(
    model: nn.Module,
    images: Any,
    layers: LayerSpec = "auto",
    *,
    target: Target = predicted_class,
    labels: Tensor | None = None,
    upsampling: str = "linear",
) -> Float[Tensor, "B *S"]:
    """Guided Grad-CAM at image size `(B, *S)`: Grad-CAM, upsampled, times guided backpropagation `sum_c |g_c|`.

    `upsampling` is `"linear"` (as everywhere) or `"nearest"`. Of several layers the first is taken.
    Source: Selvaraju et al. 2017, section 3.2.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    >>> guided_grad_cam(net, torch.rand(5, 1, 4, 4)).shape
    torch.Size([5, 4, 4])
    """
    if upsampling not in _UPSAMPLING:
        raise MethodError(f"guided_grad_cam upsamples by {' or '.join(_UPSAMPLING)}, not {upsampling!r}.")
    captured = capture(model, images, layers, target, labels=labels)
    coarse = grad_cam(captured.activations[0], captured.gradients[0])
    fine = guided_backpropagation(model, images, target=target, labels=labels)
    return fine * _upsampled(coarse, fine.shape[1:], upsampling)


def _upsampled(heatmaps: Tensor, size: tuple[int, ...], upsampling: str) -> Tensor:
    if upsampling == "linear":
        return resize(heatmaps, size)
    return F.interpolate(heatmaps.unsqueeze(1), size=size, mode="nearest").squeeze(1)


def _full(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
