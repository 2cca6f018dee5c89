"""Heatmap methods: pure functions of activations A and gradients G = d score / d A.

Every method takes `(B, K, *S)` activations and gradients of one layer and returns `(B, *S)` raw energy: non-negative,
at feature resolution, never rescaled. Half precision is computed in float32, float64 stays float64.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from camtrain.errors import MethodError

Method = Callable[[Tensor, Tensor], Tensor]


def _full_precision(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Run a method outside autocast and in at least float32."""

    @functools.wraps(method)
    def wrapped(activations: Tensor, gradients: Tensor, **options: Any) -> Tensor:
        dtype = torch.promote_types(torch.promote_types(activations.dtype, gradients.dtype), torch.float32)
        with torch.autocast(activations.device.type, enabled=False):
            return method(activations.to(dtype), gradients.to(dtype), **options)

    return wrapped


def _space(maps: Tensor) -> tuple[int, ...]:
    return tuple(range(2, maps.ndim))


def _weighted_sum(weights: Float[Tensor, "B K"], activations: Float[Tensor, "B K *S"]) -> Float[Tensor, "B *S"]:
    flat = torch.bmm(weights.unsqueeze(1), activations.flatten(2))  # (B, 1, S)
    return flat.reshape(activations.shape[0], *activations.shape[2:])


@_full_precision
def grad_cam(activations: Float[Tensor, "B K *S"], gradients: Float[Tensor, "B K *S"]) -> Float[Tensor, "B *S"]:
    """Grad-CAM: `relu(sum_k w_k A_k)` with `w_k` the mean of `G_k` over space.

    Source: Selvaraju et al. 2017, equations 1 and 2. An empty batch gives an empty result.

    >>> A = torch.tensor([[[[1.0, 2.0]], [[3.0, 0.0]]]])  # (1, 2, 1, 2)
    >>> G = torch.tensor([[[[1.0, 3.0]], [[-1.0, -1.0]]]])
    >>> grad_cam(A, G)
    tensor([[[0., 4.]]])
    """
    return _weighted_sum(gradients.mean(dim=_space(gradients)), activations).relu()


@_full_precision
def grad_cam_plus_plus(
    activations: Float[Tensor, "B K *S"], gradients: Float[Tensor, "B K *S"]
) -> Float[Tensor, "B *S"]:
    """Grad-CAM++: `relu(sum_k w_k A_k)` with `w_k = sum alpha_k relu(G_k)`.

    Source: Chattopadhyay et al. 2018, equation 19, without its cubes: `alpha = 1 / (2 + S G)` where `G != 0`, 0
    elsewhere, with `S` the sum of `A_k` over space. It needs no exponential of the score, which would only scale the
    map.
    At the pole `S G = -2`, which negative activations alone can reach, `alpha` is 0.

    >>> A = torch.ones(1, 1, 2, 2)
    >>> grad_cam_plus_plus(A, A)  # w = 4 / (2 + 4)
    tensor([[[0.6667, 0.6667],
             [0.6667, 0.6667]]])
    """
    denominator = 2 + activations.sum(dim=_space(activations), keepdim=True) * gradients
    pole = denominator.abs() < torch.finfo(denominator.dtype).eps
    alpha = torch.where((gradients == 0) | pole, 0, 1 / torch.where(pole, 1, denominator))
    return _weighted_sum((alpha * gradients.relu()).sum(dim=_space(gradients)), activations).relu()


@_full_precision
def hires_cam(activations: Float[Tensor, "B K *S"], gradients: Float[Tensor, "B K *S"]) -> Float[Tensor, "B *S"]:
    """HiResCAM: `relu(sum_k G_k A_k)`.

    Source: Draelos and Carin 2020.

    >>> hires_cam(torch.tensor([[[2.0, 1.0]]]), torch.tensor([[[3.0, -1.0]]]))
    tensor([[6., 0.]])
    """
    return (gradients * activations).sum(dim=1).relu()


@_full_precision
def layer_cam(activations: Float[Tensor, "B K *S"], gradients: Float[Tensor, "B K *S"]) -> Float[Tensor, "B *S"]:
    """LayerCAM: `relu(sum_k relu(G_k) A_k)`.

    Source: Jiang et al. 2021, equations 5 and 6.

    >>> layer_cam(torch.tensor([[[2.0], [5.0]]]), torch.tensor([[[3.0], [-1.0]]]))
    tensor([[6.]])
    """
    return (gradients.relu() * activations).sum(dim=1).relu()


@_full_precision
def xgrad_cam(activations: Float[Tensor, "B K *S"], gradients: Float[Tensor, "B K *S"]) -> Float[Tensor, "B *S"]:
    """XGrad-CAM: `relu(sum_k w_k A_k)` with `w_k = sum(G_k A_k) / sum(A_k)`, 0 where a channel sums to 0.

    Source: Fu et al. 2020, equation 8.

    >>> xgrad_cam(torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[4.0, 0.0]]]))
    tensor([[1., 3.]])
    """
    total = activations.sum(dim=_space(activations))
    evidence = (gradients * activations).sum(dim=_space(activations))
    weights = torch.where(total == 0, 0, evidence / torch.where(total == 0, 1, total))
    return _weighted_sum(weights, activations).relu()


@_full_precision
def contribution_cam(activations: Float[Tensor, "B K *S"], gradients: Float[Tensor, "B K *S"]) -> Float[Tensor, "B *S"]:
    """Contribution map: `sum_k |G_k A_k|`, evidence for and against alike.

    Meant for the score `log_probability`: evidence cannot hide behind a mean over space, as in Grad-CAM, nor behind a
    ReLU. It is the default of the alignment penalty.

    >>> contribution_cam(torch.tensor([[[2.0, 1.0]]]), torch.tensor([[[3.0, -1.0]]]))
    tensor([[6., 1.]])
    """
    return (gradients * activations).abs().sum(dim=1)


@_full_precision
def elementwise_cam(activations: Float[Tensor, "B K *S"], gradients: Float[Tensor, "B K *S"]) -> Float[Tensor, "B *S"]:
    """Elementwise map: `sum_k relu(G_k A_k)`, each channel's evidence for the score at each cell.

    Unlike HiResCAM, evidence against the score in one channel does not cancel evidence for it in another.

    >>> elementwise_cam(torch.tensor([[[2.0, 1.0], [1.0, 1.0]]]), torch.tensor([[[3.0, -1.0], [-6.0, 4.0]]]))
    tensor([[6., 4.]])
    """
    return (gradients * activations).relu().sum(dim=1)


@_full_precision
def counterfactual_cam(
    activations: Float[Tensor, "B K *S"], gradients: Float[Tensor, "B K *S"]
) -> Float[Tensor, "B *S"]:
    """Counterfactual map: Grad-CAM with `-G`, what lowers the score; without it the model would be surer.

    Source: Selvaraju et al. 2017, section 3.3.

    >>> A = torch.tensor([[[[1.0, 2.0]], [[3.0, 0.0]]]])
    >>> G = torch.tensor([[[[1.0, 3.0]], [[-1.0, -1.0]]]])
    >>> counterfactual_cam(A, G)
    tensor([[[1., 0.]]])
    """
    return _weighted_sum(-gradients.mean(dim=_space(gradients)), activations).relu()


@_full_precision
def eigen_cam(
    activations: Float[Tensor, "B K *S"], gradients: Float[Tensor, "B K *S"], *, centered: bool = True
) -> Float[Tensor, "B *S"]:
    """Eigen-CAM: `relu` of the activations projected on their first principal component. Class-agnostic.

    The cells are the samples, the channels their features; `centered` subtracts each channel's mean over space first,
    as a principal component analysis does. The sign, which the decomposition leaves open, is the one for which the
    projection has a positive inner product with the mean activation. The gradients are not used. An image whose
    activations are not finite gets NaN.

    Source: Muhammad and Yeasin 2020, which does not center (`centered=False`).

    >>> A = torch.tensor([[[[1.0, 2.0]], [[1.0, 2.0]]]])
    >>> eigen_cam(A, A, centered=False)  # along (1, 1) / sqrt(2)
    tensor([[[1.4142, 2.8284]]])
    """
    samples = activations.flatten(2).transpose(1, 2)  # (B, S, K)
    finite = samples.isfinite().all(dim=(1, 2), keepdim=True) if samples.numel() else samples.new_ones(0, 1, 1).bool()
    samples = torch.where(finite, samples, 0)
    features = samples - samples.mean(dim=1, keepdim=True) if centered else samples
    left, strength, _ = torch.linalg.svd(features, full_matrices=False)
    projection = left[:, :, 0] * strength[:, :1]  # (B, S)
    agreement = (projection * samples.mean(dim=2)).sum(dim=1, keepdim=True)
    signed = torch.where(agreement < 0, -projection, projection).relu()
    return torch.where(finite[:, :, 0], signed, torch.nan).reshape(activations.shape[0], *activations.shape[2:])


METHODS: dict[str, Method] = {
    function.__name__: function
    for function in (
        contribution_cam,
        counterfactual_cam,
        eigen_cam,
        elementwise_cam,
        grad_cam,
        grad_cam_plus_plus,
        hires_cam,
        layer_cam,
        xgrad_cam,
    )
}


def resolve_method(method: str | Method) -> Method:
    """The function behind a method's name; a callable is returned as it is.

    >>> resolve_method("grad_cam").__name__
    'grad_cam'
    """
    if callable(method):
        return method
    if method not in METHODS:
        known = ", ".join(sorted(METHODS))
        raise MethodError(
            f"No method named {method!r} that reads activations and gradients. Known: {known}; or pass a function of "
            "(activations, gradients). Those that run the model, as score_cam, are for camtrain.explain."
        )
    return METHODS[method]
