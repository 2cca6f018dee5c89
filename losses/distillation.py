"""Explanation distillation: the student shall answer like the labels and look like its teacher."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from camtrain.cam import resize


class HeatmapDistillationLoss(nn.Module):
    """Cross-entropy of the student plus `alpha` times the squared distance of its maps to the teacher's.

    Source: Chattopadhyay et al. 2018 (Grad-CAM++), section 6.2, equations 20 and 21.

    Args:
        alpha: weight of the distance, at least 0.

    >>> loss = HeatmapDistillationLoss(alpha=0.5)
    >>> loss(torch.zeros(1, 2), torch.tensor([0]), torch.ones(1, 2, 2), torch.zeros(1, 4, 4))  # ln 2 + 0.5 * 4
    tensor(2.6931)
    """

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        if alpha < 0:
            raise ValueError(f"alpha weighs a distance and is at least 0; got {alpha}.")
        self.alpha = alpha

    def forward(
        self,
        logits: Float[Tensor, "B C"],
        labels: Int[Tensor, " B"],
        student_maps: Float[Tensor, "B *S"],
        teacher_maps: Float[Tensor, "B *T"],
    ) -> Float[Tensor, ""]:
        """A scalar. The teacher's maps are brought to the student's grid, and never receive a gradient."""
        return F.cross_entropy(logits, labels) + self.alpha * heatmap_distance(student_maps, teacher_maps).mean()


def heatmap_distance(student: Float[Tensor, "B *S"], teacher: Float[Tensor, "B *T"]) -> Float[Tensor, " B"]:
    """`||student - teacher||^2` per image: the sum of squares over the student's grid.

    A teacher's finer map is averaged over the area of each cell, a coarser one interpolated linearly. Raw maps of
    different networks differ in scale: pass both through `unit_norm` to compare their shape alone.

    >>> heatmap_distance(torch.tensor([[1.0, 3.0]]), torch.tensor([[1.0, 1.0, 5.0, 3.0]]))
    tensor([1.])
    """
    return (student - match_grid(teacher.detach(), student.shape[1:])).square().flatten(1).sum(dim=1)


def match_grid(heatmaps: Float[Tensor, "B *T"], size: torch.Size) -> Float[Tensor, "B *S"]:
    """Heatmaps on a grid of another size: area means where all sides shrink, else linear interpolation.

    >>> match_grid(torch.tensor([[1.0, 3.0]]), torch.Size([1]))
    tensor([[2.]])
    """
    if all(new <= old for new, old in zip(size, heatmaps.shape[1:], strict=True)):
        return F.interpolate(heatmaps.unsqueeze(1), size=tuple(size), mode="area").squeeze(1)
    return resize(heatmaps, size)


def unit_norm(heatmaps: Float[Tensor, "B *S"]) -> Float[Tensor, "B *S"]:
    """Each map over its Euclidean norm; a dead map stays 0, with a gradient of 0.

    >>> unit_norm(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    power = heatmaps.flatten(1).square().sum(dim=1).view(-1, *[1] * (heatmaps.ndim - 1))
    alive = power > torch.finfo(power.dtype).tiny
    return torch.where(alive, heatmaps / torch.where(alive, power, 1).sqrt(), 0)
