"""Does the heatmap outline the object? Thresholds, boxes and overlaps, one value per image.

Heatmaps `(B, *s)` are interpolated to the masks `(B, *S)`; a soft mask counts as inside from 0.5. NaN wherever the
question has no answer: an unannotated or empty mask, an empty heatmap.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor

from camtrain.cam import is_empty, normalize, resize
from camtrain.errors import ConfigurationError
from camtrain.metrics.functional.evidence import answerable

_LEVELS = 256


def binarize(heatmaps: Float[Tensor, "B *S"], threshold: float | None = None) -> Bool[Tensor, "B *S"]:
    """Where each heatmap, rescaled to [0, 1] by its own range, exceeds a threshold; by default that of Otsu.

    An empty heatmap exceeds nothing.

    >>> binarize(torch.tensor([[[4.0, 3.0, 1.0, 0.0]]]), 0.5)
    tensor([[[ True,  True, False, False]]])
    """
    if threshold is not None and not 0 <= threshold < 1:
        raise ConfigurationError(f"A threshold of a heatmap in [0, 1] is at least 0 and below 1, not {threshold}.")
    scaled = normalize(heatmaps)
    if threshold is not None:
        return scaled > threshold
    levels = (scaled * (_LEVELS - 1)).round().long()
    return levels > otsu_level(scaled).view(-1, *[1] * (heatmaps.ndim - 1))


def otsu_level(scaled: Float[Tensor, "B *S"]) -> Tensor:
    """The level of 0 .. 255 that splits each map in [0, 1] with the largest variance between both parts, `(B,)` int64.

    Pixels above it are foreground, as in OpenCV. Source: Otsu 1979, equation 18.

    >>> otsu_level(torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.1, 0.2, 0.9, 0.8]]))
    tensor([ 0, 51])
    """
    levels = (scaled.flatten(1) * (_LEVELS - 1)).round().long()
    counts = torch.zeros(len(levels), _LEVELS, dtype=torch.float64, device=scaled.device)
    counts.scatter_add_(1, levels, torch.ones_like(levels, dtype=torch.float64))
    share = counts / max(levels.shape[1], 1)
    below = share.cumsum(dim=1)
    moment = (share * torch.arange(_LEVELS, device=scaled.device)).cumsum(dim=1)
    split = below * (1 - below)
    between = (moment[:, -1:] * below - moment) ** 2 / torch.where(split > 1e-9, split, torch.inf)
    return between.argmax(dim=1)


def heatmap_iou(
    heatmaps: Float[Tensor, "B *s"], masks: Float[Tensor, "B *S"], threshold: float | None = None
) -> Float[Tensor, " B"]:
    """Intersection over union of mask and binarized heatmap, in [0, 1]; by Otsu's threshold if none is given.

    >>> heat, mask = torch.tensor([[[4.0, 3.0, 1.0, 0.0]]]), torch.tensor([[[1.0, 0.0, 0.0, 0.0]]])
    >>> heatmap_iou(heat, mask, 0.5), heatmap_iou(heat, mask, 0.8)
    (tensor([0.5000]), tensor([1.]))
    """
    hot = binarize(resize(heatmaps, masks.shape[1:]), threshold).flatten(1) & (masks >= 0).flatten(1)
    inside = (masks >= 0.5).flatten(1)
    overlap = (hot & inside).sum(dim=1) / (hot | inside).sum(dim=1)
    return torch.where(answerable(heatmaps, masks), overlap.to(heatmaps.dtype), torch.nan)


def loc(heatmaps: Float[Tensor, "B *s"], masks: Float[Tensor, "B *S"], delta: float) -> Float[Tensor, " B"]:
    """Loc(delta) of a heatmap and a box given as a mask: area inside / (area of the box + area outside).

    The areas are those of pixels above `delta` in the map rescaled to [0, 1]. That is `heatmap_iou` at this threshold.
    Source: Chattopadhyay et al. 2018 (Grad-CAM++), section 5.3.

    >>> loc(torch.tensor([[[4.0, 3.0, 1.0, 0.0]]]), torch.tensor([[[0.0, 1.0, 1.0, 0.0]]]), 0.5)
    tensor([0.3333])
    """
    return heatmap_iou(heatmaps, masks, delta)


def box_from_heatmap(heatmaps: Float[Tensor, "B H W"], threshold: float = 0.15) -> Float[Tensor, "B 4"]:
    """The box `x1, y1, x2, y2` (ends excluded) around the largest connected segment above a share of the maximum.

    Corners connect. An empty heatmap gives NaN. Source: Selvaraju et al. 2017 (Grad-CAM), section 4.1.

    >>> box_from_heatmap(torch.tensor([[[0.0, 9.0, 8.0, 0.0, 2.0], [0.0, 0.0, 7.0, 0.0, 0.0]]]))
    tensor([[1., 0., 3., 2.]])
    """
    if not 0 <= threshold < 1:
        raise ConfigurationError(f"A share of the maximum is at least 0 and below 1, not {threshold}.")
    if heatmaps.numel() == 0:
        return heatmaps.new_zeros(0, 4)
    hot = heatmaps > threshold * heatmaps.flatten(1).amax(dim=1).view(-1, 1, 1)
    segments = [_largest_segment(each) for each in hot.cpu().numpy()]
    boxes = box_of_mask(torch.stack(segments).to(heatmaps))
    return torch.where(is_empty(heatmaps).unsqueeze(1), torch.nan, boxes)


def _largest_segment(hot: "np.ndarray[tuple[int, ...], np.dtype[np.bool_]]") -> Tensor:
    segments, _ = ndimage.label(hot, structure=np.ones((3, 3)))
    sizes = np.bincount(segments.ravel(), minlength=2)[1:]
    return torch.from_numpy(segments == 1 + int(sizes.argmax()))


def box_of_mask(masks: Float[Tensor, "B H W"]) -> Float[Tensor, "B 4"]:
    """The box `x1, y1, x2, y2` (ends excluded) around each mask; NaN where it is empty or unannotated.

    >>> box_of_mask(torch.tensor([[[0.0, 1.0, 1.0], [0.0, 1.0, 0.0]]]))
    tensor([[1., 0., 3., 2.]])
    """
    inside = masks >= 0.5
    ends = [_ends(inside.any(dim=axis)) for axis in (1, 2)]  # columns, rows
    boxes = torch.stack([ends[0][0], ends[1][0], ends[0][1], ends[1][1]], dim=1).to(masks.dtype)
    return torch.where(inside.flatten(1).any(dim=1, keepdim=True), boxes, torch.nan)


def _ends(used: Bool[Tensor, "B N"]) -> tuple[Tensor, Tensor]:
    places = torch.arange(used.shape[1], device=used.device)
    first = torch.where(used, places, used.shape[1]).amin(dim=1)
    return first, torch.where(used, places, -1).amax(dim=1) + 1


def box_iou(boxes: Float[Tensor, "B 4"], others: Float[Tensor, "B 4"]) -> Float[Tensor, " B"]:
    """Intersection over union of pairs of boxes `x1, y1, x2, y2`; NaN where one of them is.

    >>> box_iou(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[1.0, 0.0, 3.0, 2.0]]))
    tensor([0.3333])
    """
    low, high = torch.maximum(boxes[:, :2], others[:, :2]), torch.minimum(boxes[:, 2:], others[:, 2:])
    shared = (high - low).clamp_min(0).prod(dim=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1) + (others[:, 2:] - others[:, :2]).prod(dim=1)
    return shared / (areas - shared)


def localization_error(
    heatmaps: Float[Tensor, "B h w"], masks: Float[Tensor, "B H W"], *, iou: float = 0.5, threshold: float = 0.15
) -> Float[Tensor, " B"]:
    """1 where the heatmap's box misses the mask's, overlapping it by less than `iou`; 0 where it finds it.

    See `box_from_heatmap` for the threshold. Source: Selvaraju et al. 2017 (Grad-CAM), section 4.1.

    >>> mask = torch.tensor([[[0.0, 1.0, 1.0], [0.0, 1.0, 1.0]]])
    >>> localization_error(mask, mask), localization_error(1 - mask, mask)
    (tensor([0.]), tensor([1.]))
    """
    boxes = box_from_heatmap(resize(heatmaps, masks.shape[1:]), threshold)
    missed = (box_iou(boxes, box_of_mask(masks).to(boxes)) < iou).to(heatmaps.dtype)
    return torch.where(answerable(heatmaps, masks), missed, torch.nan)


def average_precision(heatmaps: Float[Tensor, "B *s"], masks: Float[Tensor, "B *S"]) -> Float[Tensor, " B"]:
    """Average precision of the heatmap as a score for each pixel being on the object, in [0, 1].

    `sum_n (R_n - R_n-1) P_n` over the distinct values of the heatmap, as scikit-learn has it; by chance, the object's
    share of the image.

    >>> average_precision(torch.tensor([[[4.0, 3.0, 1.0, 0.0]]]), torch.tensor([[[1.0, 0.0, 1.0, 0.0]]]))
    tensor([0.8333])
    """
    heat = resize(heatmaps, masks.shape[1:]).masked_fill(masks < 0, -1).flatten(1)  # what is unknown comes last
    falling, order = (-heat).sort(dim=1)
    inside = (masks >= 0.5).flatten(1).gather(1, order).to(torch.float64)
    last = torch.searchsorted(falling, falling, right=True)  # one behind the last pixel of the same value
    precision = inside.cumsum(dim=1).gather(1, last - 1) / last
    value = (inside * precision).sum(dim=1) / inside.sum(dim=1)
    return torch.where(answerable(heatmaps, masks), value.to(heatmaps.dtype), torch.nan)
