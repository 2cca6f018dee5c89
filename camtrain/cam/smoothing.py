"""Methods that average gradients over noisy copies of the images."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from camtrain.cam.capture import capture
from camtrain.cam.layers import LayerSpec
from camtrain.cam.methods import grad_cam_plus_plus
from camtrain.cam.passes import image_of, with_images
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
