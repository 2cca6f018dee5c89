"""Right for the right reasons: input gradients shall vanish off the object."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from camtrain.cam.spatial import UNKNOWN
from camtrain.errors import GradientError, MaskError
from camtrain.swaps.compositing import read_annotated


class InputGradientLoss(nn.Module):
    """RRR: squared input gradients of the summed log-probabilities off the object, averaged over annotated images.

    The images must require a gradient *before* the forward pass; the loss differentiates the whole network twice.

    >>> images = torch.tensor([[[[1.0, 2.0]]]], requires_grad=True)
    >>> logits = torch.cat([images.sum((2, 3)), torch.zeros(1, 1)], dim=1)
    >>> round(InputGradientLoss()(images, logits, torch.tensor([[[1.0, 0.0]]])).item(), 4)
    0.8193
    """

    def forward(
        self, images: Float[Tensor, "B C *S"], logits: Float[Tensor, "B K"], masks: Shaped[Tensor, "B *M"]
    ) -> Float[Tensor, ""]:
        """A scalar, at least 0; masks have the images' size. Without any annotated image: a zero that has no graph.

        Masks are of any type of number, with or without a channel of one.

        Raises GradientError where the logits do not depend on images that require a gradient, MaskError for masks of
        another size, or with values outside {-1} and [0, 1].
        """
        masks, index = read_annotated(masks, images.ndim - 1)
        if masks.shape[1:] != images.shape[2:]:
            size, expected = tuple(masks.shape[1:]), tuple(images.shape[2:])
            raise MaskError(
                f"Masks have the size of their images: expected {expected}, got {size}. "
                "Resize both together (camtrain.data.transforms does)."
            )
        if not len(index):
            return logits.new_zeros(())
        known = torch.where(masks <= UNKNOWN, 1, masks)  # what is unknown is not held against the network
        return outside_gradient(input_gradients(images, logits)[index], known).mean()


def input_gradients(images: Float[Tensor, "B C *S"], logits: Float[Tensor, "B K"]) -> Float[Tensor, "B C *S"]:
    """`d (sum over k of log p_k) / d image`, with a graph, so that it can be part of a loss.

    Source: Ross et al. 2017, "Right for the right reasons", equation 1. Raises GradientError where no graph leads from
    the logits to the images.

    >>> images = torch.zeros(1, 1, 1, 2, requires_grad=True)
    >>> input_gradients(images, torch.cat([images.sum((2, 3)), -images.sum((2, 3))], dim=1)).unique()
    tensor([0.], grad_fn=<Unique2Backward0>)
    """
    if not images.requires_grad:
        raise GradientError(
            "The images do not require a gradient: call images.requires_grad_() before the forward pass."
        )
    if not logits.requires_grad:
        raise GradientError("The logits carry no graph: run the forward pass with gradients enabled.")
    dtype = torch.promote_types(logits.dtype, torch.float32)
    score = logits.to(dtype).log_softmax(dim=1).sum()
    (gradients,) = torch.autograd.grad(score, images, create_graph=True, allow_unused=True)
    if gradients is None:
        raise GradientError(
            "The logits do not depend on these images: pass the very tensor that the network was given."
        )
    return gradients


def outside_gradient(gradients: Float[Tensor, "B C *S"], masks: Float[Tensor, "B *S"]) -> Float[Tensor, " B"]:
    """The sum over pixels and channels of `((1 - M) gradient)^2` per image, at least 0; 0 for a full mask.

    >>> outside_gradient(torch.tensor([[[3.0, 2.0]]]), torch.tensor([[1.0, 0.0]]))
    tensor([4.])
    """
    return ((1 - masks.unsqueeze(1)) * gradients).square().flatten(1).sum(dim=1)
