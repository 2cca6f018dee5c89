"""Consistency: a heatmap must move with the image. Needs no mask."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ConsistencyLoss(nn.Module):
    """The mean of `flip_inconsistency` over the images whose two maps both hold evidence.

    Run the network on the images and on `images.flip(-1)`, take a differentiable map of each, and give both.

    >>> heatmaps = torch.tensor([[[3.0, 1.0]]])
    >>> ConsistencyLoss()(heatmaps, heatmaps.flip(-1))
    tensor(0.)
    """

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, heatmaps: Float[Tensor, "B *S"], of_flipped: Float[Tensor, "B *S"]) -> Float[Tensor, ""]:
        """A scalar in [0, 1]; raw heatmaps of the images and of the flipped images. An empty batch gives 0."""
        alive = (heatmaps.flatten(1).sum(dim=1) > 0) & (of_flipped.flatten(1).sum(dim=1) > 0)
        if not bool(alive.any()):
            return heatmaps.new_zeros(())
        return flip_inconsistency(heatmaps[alive], of_flipped[alive], self.dim).mean()


def flip_inconsistency(
    heatmaps: Float[Tensor, "B *S"], of_flipped: Float[Tensor, "B *S"], dim: int = -1
) -> Float[Tensor, " B"]:
    """Half the L1 distance between the energy distributions of a map and of the flipped image's map, flipped back.

    In [0, 1]: 0 where the map moves with the image, 1 where the two share no cell. Scale does not matter. A dead map
    is all zeros and gives at most one half. Source: the idea of Guo et al. 2019 ("Visual attention consistency"), on
    normalized maps.

    >>> flip_inconsistency(torch.tensor([[3.0, 1.0]]), torch.tensor([[3.0, 1.0]]))
    tensor([0.5000])
    """
    first, second = _shares(heatmaps), _shares(of_flipped.flip(dim))
    return (first - second).abs().sum(dim=1) / 2


def _shares(heatmaps: Tensor) -> Tensor:
    flat = heatmaps.flatten(1).clamp(min=0)
    total = flat.sum(dim=1, keepdim=True)
    alive = total > torch.finfo(total.dtype).tiny
    return torch.where(alive, flat / torch.where(alive, total, 1), 0)
