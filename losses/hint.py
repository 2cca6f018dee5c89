"""HINT: the network's ranking of regions by importance shall be that of people."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from camtrain.cam import annotated, pool_masks


class HINTLoss(nn.Module):
    """The ranking loss of HINT, averaged over the annotated images; each cell of the feature grid is a region.

    Its memory grows with the square of the number of cells: 7x7 and 14x14 grids are cheap.

    >>> HINTLoss()(torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[1.0, 0.0]]]))
    tensor(2.)
    """

    def forward(self, heatmaps: Float[Tensor, "B *S"], masks: Float[Tensor, "B *M"]) -> Float[Tensor, ""]:
        """A scalar, at least 0; masks are human importance in [0, 1], area-pooled to the grid of the heatmaps.

        Images without an annotation are left out; without any the answer is a zero that has no graph.
        """
        keep = annotated(masks)
        if not bool(keep.any()):
            return heatmaps.new_zeros(())
        pooled = pool_masks(masks[keep], heatmaps.shape[1:]).to(heatmaps.dtype)
        return misranking(heatmaps[keep].flatten(1), pooled.flatten(1)).mean()


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
