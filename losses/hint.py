"""HINT: the network's ranking of regions by importance shall be that of people."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from camtrain.cam import pool_masks
from camtrain.cam.spatial import UNKNOWN
from camtrain.swaps.compositing import read_annotated


class HINTLoss(nn.Module):
    """The ranking loss of HINT, averaged over the annotated images; each cell of the feature grid is a region.

    Its memory grows with the square of the number of cells: 7x7 and 14x14 grids are cheap.

    >>> HINTLoss()(torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[1.0, 0.0]]]))
    tensor(2.)
    """

    def forward(self, heatmaps: Float[Tensor, "B *S"], masks: Shaped[Tensor, "B *M"]) -> Float[Tensor, ""]:
        """A scalar, at least 0; masks are human importance in [0, 1], area-pooled to the grid of the heatmaps.

        Images without an annotation are left out; without any the answer is a zero that has no graph. MaskError for
        other values; masks are of any type of number, with or without a channel of one.
        """
        return _mean_over_annotated(misranking, heatmaps, masks)


class SquaredHINTLoss(nn.Module):
    """The mean squared form of HINT, averaged over the annotated images: the map shall equal the human importance.

    Meant for signed maps, as Grad-CAM without its ReLU; each is rescaled to [0, 1] first.

    >>> SquaredHINTLoss()(torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[1.0, 0.0]]]))
    tensor(1.)
    """

    def forward(self, heatmaps: Float[Tensor, "B *S"], masks: Shaped[Tensor, "B *M"]) -> Float[Tensor, ""]:
        """A scalar in [0, 1]; masks are human importance in [0, 1], area-pooled to the grid of the heatmaps.

        Images without an annotation are left out; without any the answer is a zero that has no graph. MaskError for
        other values; masks are of any type of number, with or without a channel of one.
        """
        return _mean_over_annotated(squared_misalignment, heatmaps, masks)


def misranking(importance: Float[Tensor, "B R"], human: Float[Tensor, "B R"]) -> Float[Tensor, " B"]:
    """The sum of `|importance_r' - importance_r|` over the pairs of regions that the network ranks wrongly.

    A pair is ranked wrongly where people say that region r is more important than r' and the network says otherwise.
    Regions that people rank equal make no pair, so a constant `human` gives 0. Not normalized by the number of pairs.
    Source: Selvaraju et al. 2019, "Taking a HINT", section 4.2.

    >>> misranking(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([[3.0, 2.0, 1.0]]))  # 1 < 3 by 2, 1 < 2 by 1
    tensor([3.])
    """
    more_important = human.unsqueeze(2) > human.unsqueeze(1)  # (B, r, r')
    excess = importance.unsqueeze(1) - importance.unsqueeze(2)  # importance of r' over that of r
    return torch.where(more_important, excess.relu(), 0).sum(dim=(1, 2))


def squared_misalignment(importance: Float[Tensor, "B R"], human: Float[Tensor, "B R"]) -> Float[Tensor, " B"]:
    """The mean over regions of `(importance - human)^2`, each image's importance rescaled to [0, 1] by its extremes.

    In [0, 1] for human importance in [0, 1]. A constant importance counts as 0 everywhere, with a gradient of 0.
    Source: the simplified HINT of Friedrich et al. 2023, "A typology for exploring the mitigation of shortcut
    behaviour", as in the authors' code: a sum there, a mean here, and no constant in the denominator.

    >>> squared_misalignment(torch.tensor([[-1.0, 0.0, 1.0]]), torch.tensor([[0.0, 0.0, 1.0]]))  # 0, 1/2, 1
    tensor([0.0833])
    """
    low, high = importance.amin(dim=1, keepdim=True), importance.amax(dim=1, keepdim=True)
    spread = high - low
    alive = spread > torch.finfo(spread.dtype).tiny
    rescaled = torch.where(alive, (importance - low) / torch.where(alive, spread, 1), 0)
    return (rescaled - human).square().mean(dim=1)


def _mean_over_annotated(penalty: Callable[[Tensor, Tensor], Tensor], heatmaps: Tensor, masks: Tensor) -> Tensor:
    masks, index = read_annotated(masks, heatmaps.ndim)
    if not len(index):
        return heatmaps.new_zeros(())
    pooled = pool_masks(masks, heatmaps.shape[1:]).to(heatmaps.dtype)
    maps, human = heatmaps[index].flatten(1), pooled.flatten(1)
    lowest = maps.detach().amin(dim=1, keepdim=True)  # a region of which nothing is known ranks below all others
    return penalty(torch.where(human <= UNKNOWN, lowest, maps), torch.where(human <= UNKNOWN, 0, human)).mean()
