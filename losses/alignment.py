"""Alignment penalties: how much of a map's evidence lies off the object."""

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from camtrain.cam import pool_masks, without_unknown
from camtrain.errors import ConfigurationError
from camtrain.swaps.compositing import read_annotated

Maps = Float[Tensor, "B *S"]
Penalties = Float[Tensor, " B"]
Penalty = Callable[[Tensor, Tensor], Tensor]
Known = Literal[
    "outside_energy",
    "outside_l1",
    "outside_squared",
    "inside_cross_entropy",
    "inside_hinge",
    "squared_error",
    "dice_distance",
    "iou_distance",
]
KNOWN: tuple[str, ...] = get_args(Known)


class AlignmentLoss(nn.Module):
    """The mean penalty over the annotated images of a batch, and what of it is tolerated.

    A tolerance asks less than that all evidence lies inside, which costs accuracy where objects and region touch: it
    asks the batch, not each image, for no more energy outside than `min(a, 1 - a)`, averaged over images, where `a` is
    the share of the map's cells outside. That is what maps that care for nothing would have there, and of small objects
    what these would have by chance. So an object that reaches into a region that must not matter may be seen there,
    as long as others are not; a network that is drawn there as a rule is not tolerated.

    Args:
        penalty: a function of raw heatmaps and masks, both `(B, *S)`, giving one penalty per image: `outside_energy`
            (the default), `outside_l1`, `outside_squared`, `inside_cross_entropy`, `inside_hinge`, `squared_error`,
            `dice_distance`, `iou_distance`, the name of one of these, or one of your own.
        tolerance: so much of `min(a, 1 - a)` is taken off the mean penalty, down to 0; at least 0, meant for penalties
            in the units of `outside_energy`. Once satisfied the gradient is 0.

    Raises ConfigurationError for a tolerance that is no finite number or below 0, and for a penalty that is not known.

    >>> heatmaps, masks = torch.tensor([[[3.0, 1.0]]]), torch.tensor([[[1.0, 0.0]]])
    >>> AlignmentLoss()(heatmaps, masks), AlignmentLoss(tolerance=1.0)(heatmaps, masks)
    (tensor(0.2500), tensor(0.))
    """

    def __init__(self, penalty: Known | Callable[..., Any] | None = None, tolerance: float = 0.0) -> None:
        super().__init__()
        if not 0 <= tolerance < math.inf:
            raise ConfigurationError(f"tolerance is a finite number and at least 0; got {tolerance}.")
        self.penalty, self.tolerance = find_penalty(outside_energy if penalty is None else penalty), tolerance

    def forward(self, heatmaps: Maps, masks: Shaped[Tensor, "B *M"]) -> Float[Tensor, ""]:
        """A scalar in the units of the penalty; masks are area-pooled to the grid of the heatmaps.

        Masks are of any type of number, with or without a channel of one; MaskError for values that cannot be meant.

        Images without an annotation (masks of all -1) are left out, whatever their heatmap holds, and so are cells of
        which nothing is known. Without any annotated
        image the answer is a zero that has no graph. A dead map (zero everywhere) counts as 0 with a zero gradient.
        """
        masks, index = read_annotated(masks, heatmaps.ndim)
        if not len(index):
            return heatmaps.new_zeros(())
        pooled = pool_masks(masks, heatmaps.shape[1:]).to(heatmaps.dtype)
        maps, pooled = without_unknown(heatmaps[index], pooled)
        penalties = self.penalty(maps, pooled)
        if self.tolerance == 0:
            return penalties.mean()
        return torch.relu((penalties - self.tolerance * _fair_share(maps, pooled)).mean())

    @property
    def looks(self) -> bool:
        """Whether it has to look at values: a penalty of one's own need not take an image without an annotation."""
        return self.penalty not in map(find_penalty, KNOWN)

    def over(self, heatmaps: Maps, masks: Float[Tensor, "B *M"], counted: Bool[Tensor, " B"]) -> Float[Tensor, ""]:
        """The same over images that are known to have a good mask, without a look at values; 0 where none has.

        On a GPU, whoever looks waits for all that was computed before.
        """
        column = counted.view(-1, *[1] * (heatmaps.ndim - 1))
        pooled = pool_masks(masks, heatmaps.shape[1:]).to(heatmaps.dtype)
        maps, pooled = without_unknown(torch.where(column, heatmaps, 0), torch.where(column, pooled, 0))
        penalties = self.penalty(maps, pooled)
        if self.tolerance != 0:
            penalties = penalties - self.tolerance * _fair_share(maps, pooled)
        mean = torch.where(counted, penalties, 0).sum() / counted.sum().clamp(min=1)
        return mean if self.tolerance == 0 else torch.relu(mean)


def outside_energy(heatmaps: Maps, masks: Maps) -> Penalties:
    """The fraction of each map's energy outside the mask, in [0, 1]: `1 - sum(M map) / sum(map)`.

    0 for a dead map, and its gradient is 0; an empty mask gives 1. A full mask gives exactly 0 with a gradient of
    exactly 0. Source: the energy loss of Rao et al. 2023 (section 3, "Energy"), without its weight.

    >>> outside_energy(torch.tensor([[6.0, 2.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    tensor([0.2500, 0.0000])
    """
    maps = heatmaps.flatten(1).clamp(min=0)
    outside = (maps * (1 - masks.flatten(1))).sum(dim=1)
    return _ratio(outside, maps.sum(dim=1))


def outside_l1(heatmaps: Maps, masks: Maps) -> Penalties:
    """The mean over cells of `|M - map / max(map)|`, in [0, 1].

    The mask itself is the goal, so a map smaller than its mask is penalized too. 0 for a dead map.
    Source: Rao et al. 2023, "L1" (after He et al. 2023).

    >>> outside_l1(torch.tensor([[4.0, 1.0]]), torch.tensor([[1.0, 0.0]]))
    tensor([0.1250])
    """
    maps = heatmaps.flatten(1).clamp(min=0)
    distance = (masks.flatten(1) - _by_maximum(maps)).abs().mean(dim=1)
    return torch.where(_alive(maps), distance, 0)


def inside_cross_entropy(heatmaps: Maps, masks: Maps) -> Penalties:
    """Per-pixel cross-entropy inside the mask: `-sum(M log(map / max(map))) / sum(M)`, at least 0.

    Nothing outside is penalized. A cell of 0 inside the mask counts as the smallest step of the data type, with no
    gradient. 0 for a dead map and for an empty mask. Source: Rao et al. 2023, "PPCE" (after Shen et al. 2021).

    >>> inside_cross_entropy(torch.tensor([[4.0, 1.0]]), torch.tensor([[1.0, 1.0]]))
    tensor([0.6931])
    """
    maps, masks = heatmaps.flatten(1).clamp(min=0), masks.flatten(1)
    logs = _by_maximum(maps).clamp(min=torch.finfo(maps.dtype).eps).log()
    return torch.where(_alive(maps), _ratio(-(masks * logs).sum(dim=1), masks.sum(dim=1)), 0)


def outside_squared(heatmaps: Maps, masks: Maps) -> Penalties:
    """The sum over cells of `(1 - M) (map / max|map|)^2`, at least 0. Signed maps are meant too. 0 for a dead map.

    Source: Rao et al. 2023, "RRR*" (after Ross et al. 2017).

    >>> outside_squared(torch.tensor([[4.0, -2.0, 1.0]]), torch.tensor([[1.0, 0.0, 0.0]]))
    tensor([0.3125])
    """
    maps = heatmaps.flatten(1)
    return ((1 - masks.flatten(1)) * _by_maximum(maps).square()).sum(dim=1)


def squared_error(heatmaps: Maps, masks: Maps) -> Penalties:
    """The mean over cells of `(M - map / max(map))^2`, in [0, 1]. 0 for a dead map.

    The mask is the goal, as in `outside_l1`. Source: the mean squared form of HINT in Friedrich et al. 2023.

    >>> squared_error(torch.tensor([[4.0, 2.0]]), torch.tensor([[1.0, 0.0]]))
    tensor([0.1250])
    """
    maps = heatmaps.flatten(1).clamp(min=0)
    distance = (masks.flatten(1) - _by_maximum(maps)).square().mean(dim=1)
    return torch.where(_alive(maps), distance, 0)


def dice_distance(heatmaps: Maps, masks: Maps) -> Penalties:
    """`1 - 2 sum(M h) / (sum(M) + sum(h))` of `h = map / max(map)`, in [0, 1]. 0 for a dead map; an empty mask gives 1.

    Source: the soft Dice loss of Milletari et al. 2016 (V-Net), with sums in place of sums of squares.

    >>> dice_distance(torch.tensor([[4.0, 2.0]]), torch.tensor([[1.0, 0.0]]))
    tensor([0.2000])
    """
    maps, masks = heatmaps.flatten(1).clamp(min=0), masks.flatten(1)
    shares = _by_maximum(maps)
    overlap = _ratio(2 * (masks * shares).sum(dim=1), masks.sum(dim=1) + shares.sum(dim=1))
    return torch.where(_alive(maps), 1 - overlap, 0)


def iou_distance(heatmaps: Maps, masks: Maps) -> Penalties:
    """`1 - sum(M h) / sum(M + h - M h)` of `h = map / max(map)`, in [0, 1]. 0 for a dead map; an empty mask gives 1.

    Source: the soft IoU loss of Rahman and Wang 2016.

    >>> iou_distance(torch.tensor([[4.0, 2.0]]), torch.tensor([[1.0, 0.0]]))
    tensor([0.3333])
    """
    maps, masks = heatmaps.flatten(1).clamp(min=0), masks.flatten(1)
    shares = _by_maximum(maps)
    both = masks * shares
    overlap = _ratio(both.sum(dim=1), (masks + shares - both).sum(dim=1))
    return torch.where(_alive(maps), 1 - overlap, 0)


def inside_hinge(heatmaps: Maps, masks: Maps, enough: float = 0.8) -> Penalties:
    """How much of the energy is missing inside the mask: `relu(enough - sum(M map) / sum(map))`, in [0, enough].

    Satisfied, with a gradient of 0, once the fraction `enough` lies inside: context may keep the rest. A dead map: 0.

    >>> inside_hinge(torch.tensor([[3.0, 1.0], [9.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    tensor([0.0500, 0.0000])
    """
    maps = heatmaps.flatten(1).clamp(min=0)
    missing = torch.relu(outside_energy(heatmaps, masks) - (1 - enough))
    return torch.where(_alive(maps), missing, 0)


def find_penalty(penalty: Penalty | str) -> Penalty:
    """The penalty of that name; a function is returned as it is. ConfigurationError for a name that is not known.

    >>> find_penalty("outside_l1") is outside_l1
    True
    """
    if callable(penalty):
        return penalty
    if penalty not in KNOWN:
        raise ConfigurationError(
            f"penalty is one of {', '.join(KNOWN)}, or a function of heatmaps and masks; got {penalty!r}."
        )
    found: Penalty = globals()[penalty]
    return found


def _fair_share(heatmaps: Maps, masks: Maps) -> Penalties:
    """`min(a, 1 - a)` of the share `a` of cells outside the mask; 0 for a dead map."""
    area = 1 - masks.flatten(1).mean(dim=1)
    return torch.where(_alive(heatmaps.flatten(1).clamp(min=0)), torch.minimum(area, 1 - area), 0)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """`part / whole`, and 0 with a gradient of 0 where the whole is nothing."""
    alive = whole > torch.finfo(whole.dtype).tiny
    return torch.where(alive, part / torch.where(alive, whole, 1), 0)


def _by_maximum(maps: Tensor) -> Tensor:
    """Each map over its largest magnitude; a dead map stays 0."""
    return _ratio(maps, maps.abs().amax(dim=1, keepdim=True))


def _alive(maps: Tensor) -> Tensor:
    return maps.abs().amax(dim=1) > torch.finfo(maps.dtype).tiny
