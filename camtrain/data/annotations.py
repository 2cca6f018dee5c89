"""Annotations that are not masks, made into masks: boxes, points, attention maps of people."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from camtrain.errors import MaskError

Size = tuple[int, int]


def boxes_to_masks(boxes: Sequence[Tensor] | Tensor, size: Size) -> Float[Tensor, "B H W"]:
    """Masks of 1 inside any of an image's boxes.

    Args:
        boxes: for each image `(N, 4)` as `left, top, right, bottom` in pixels, right and bottom exclusive; an image
            without a box is unannotated, all -1.
        size: height and width of the images.

    Raises:
        MaskError: for a box without a pixel inside the image.

    >>> boxes_to_masks([torch.tensor([[1.0, 0.0, 3.0, 1.0]]), torch.zeros(0, 4)], (1, 4))
    tensor([[[ 0.,  1.,  1.,  0.]],
    <BLANKLINE>
            [[-1., -1., -1., -1.]]])
    """
    rows, columns = _pixels(size)

    def inside(box: Tensor) -> Tensor:
        left, top, right, bottom = box.cpu().tolist()
        found: Tensor = ((columns + 0.5 > left) & (columns + 0.5 < right)) & (
            (rows + 0.5 > top) & (rows + 0.5 < bottom)
        )
        if not found.any():
            raise MaskError(
                f"Box {box.tolist()} covers no pixel of an image of size {size}: give pixels, as x1 y1 x2 y2."
            )
        return found

    return _stacked([[inside(box) for box in of_image] for of_image in boxes], size)


def points_to_masks(
    points: Sequence[Tensor] | Tensor, size: Size, radius: float | None = None
) -> Float[Tensor, "B H W"]:
    """Masks of 1 within a radius of any of an image's points: clicks on an object.

    Args:
        points: for each image `(N, 2)` as `x, y` in pixels; an image without a point is unannotated, all -1.
        size: height and width of the images.
        radius: in pixels; if None a tenth of the shorter side.

    Raises:
        MaskError: for a point outside the image, or a radius of 0 or less.

    >>> points_to_masks([torch.tensor([[1.5, 0.5]])], (1, 4), radius=1.0)
    tensor([[[1., 1., 1., 0.]]])
    """
    radius = min(size) / 10 if radius is None else radius
    if radius <= 0:
        raise MaskError(f"The radius around a point is above 0 pixels; got {radius}.")
    rows, columns = _pixels(size)

    def disc(point: Tensor) -> Tensor:
        x, y = point.cpu().tolist()
        if not (0 <= x <= size[1] and 0 <= y <= size[0]):
            raise MaskError(f"Point ({x}, {y}) is outside an image of height and width {size}: give x, y in pixels.")
        distance: Tensor = (columns + 0.5 - x).square() + (rows + 0.5 - y).square()
        return distance <= max(radius, 0.71) ** 2  # the pixel that holds the point, at the least

    return _stacked([[disc(point) for point in of_image] for of_image in points], size)


def attention_to_masks(maps: Float[Tensor, "B H W"]) -> Float[Tensor, "B H W"]:
    """Maps of where people looked or clicked, of any scale, as soft masks with a maximum of 1.

    A map without anything above 0 is unannotated, all -1. Negative and non-finite values: MaskError.

    >>> attention_to_masks(torch.tensor([[[0.0, 2.0, 4.0]], [[0.0, 0.0, 0.0]]]))
    tensor([[[ 0.0000,  0.5000,  1.0000]],
    <BLANKLINE>
            [[-1.0000, -1.0000, -1.0000]]])
    """
    if not bool((maps.isfinite() & (maps >= 0)).all()):
        raise MaskError("A map of attention holds finite values of at least 0: take away what was added to it.")
    highest = maps.amax(dim=(1, 2), keepdim=True)
    return torch.where(highest > 0, maps / highest.clamp(min=torch.finfo(maps.dtype).tiny), -1)


def _pixels(size: Size) -> tuple[Tensor, Tensor]:
    height, width = size
    return torch.arange(height).unsqueeze(1).expand(size), torch.arange(width).unsqueeze(0).expand(size)


def _stacked(regions: Sequence[Sequence[Tensor]], size: Size) -> Tensor:
    """The union of each image's regions; all -1 for an image without any."""
    masks = torch.full((len(regions), *size), -1.0)
    for mask, found in zip(masks, regions, strict=True):
        if found:
            mask.copy_(torch.stack(list(found)).any(dim=0))
    return masks
