"""Annotations that are not masks, made into masks: boxes, polygons, points, attention maps of people, label maps."""

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from camtrain.data.shapes import Polygon, read_points
from camtrain.errors import MaskError

Size = int | Sequence[int]


def boxes_to_masks(boxes: Iterable[Any], size: Size) -> Float[Tensor, "B H W"]:
    """Masks of 1 inside any of an image's boxes.

    Args:
        boxes: for each image `(N, 4)`, or `(4,)` where it has one, as `left, top, right, bottom` in pixels, right and
            bottom exclusive; tensors, arrays or lists. An image without a box is unannotated, all -1.
        size: height and width of the images, or the side of squares.

    Raises:
        MaskError: for a box without a pixel inside the image, for what is no list of boxes, or no size.

    Warns where no coordinate is above 1: these are read as pixels too, and may be meant as shares of the image.

    >>> boxes_to_masks([[[1, 0, 3, 1]], []], (1, 4))
    tensor([[[ 0.,  1.,  1.,  0.]],
    <BLANKLINE>
            [[-1., -1., -1., -1.]]])
    """
    height, width = _height_and_width(size)
    rows, columns = _pixels(height, width)

    def inside(box: Tensor) -> Tensor:
        left, top, right, bottom = box.tolist()
        found: Tensor = ((columns + 0.5 > left) & (columns + 0.5 < right)) & (
            (rows + 0.5 > top) & (rows + 0.5 < bottom)
        )
        if not found.any():
            raise MaskError(
                f"Box {box.tolist()} covers no pixel of an image of size {height, width}: give pixels, as x1 y1 x2 y2."
            )
        return found

    tables = _tables(boxes, ("left", "top", "right", "bottom"))
    return _stacked([[inside(box) for box in of_image] for of_image in tables], height, width)


def polygons_to_masks(polygons: Iterable[Any], size: Size) -> Float[Tensor, "B H W"]:
    """Masks of 1 where a pixel's center lies inside any of an image's polygons.

    Args:
        polygons: for each image a list of polygons, each a flat list `x, y, x, y, ...` or pairs, in pixels. An image
            without a polygon is unannotated, all -1.
        size: height and width of the images, or the side of squares.

    Raises:
        MaskError: for a polygon of less than three points, without a pixel inside the image, far outside of it, in
            shares of the image, or of points that are no numbers; or no size.

    >>> polygons_to_masks([[[1, 0, 3, 0, 3, 1, 1, 1]], []], (1, 4))
    tensor([[[ 0.,  1.,  1.,  0.]],
    <BLANKLINE>
            [[-1., -1., -1., -1.]]])
    """
    height, width = _height_and_width(size)

    def inside(index: int, values: Any) -> Tensor:
        points = read_points(_as_lists(values), f"A polygon of image {index}")
        covered = Polygon(points).draw((height, width)) if len(points) > 2 else None
        if covered is None or not covered.any():
            raise MaskError(
                f"The polygon {points.tolist()} of image {index} covers no pixel of an image of size {height, width}: "
                "give three points or more, as x, y in pixels."
            )
        return torch.from_numpy(covered)

    regions = [[inside(index, polygon) for polygon in of_image] for index, of_image in enumerate(polygons)]
    return _stacked(regions, height, width)


def label_map_to_masks(
    maps: Any, values: int | Sequence[int] | Int[Tensor, " B"], ignore: int | Sequence[int] = ()
) -> Float[Tensor, "B H W"]:
    """Masks of 1 where a label map has the object's value, and -1 where a pixel is unknown.

    Args:
        maps: `(B, H, W)` or `(B, 1, H, W)` whole numbers: VOC's, Cityscapes', a trimap.
        values: of the object: one, several, or a tensor with one for each image.
        ignore: values of unknown pixels, as 255 for VOC's border.

    Raises:
        MaskError: for maps of another shape or type, or where none holds a value of the object.

    >>> label_map_to_masks(torch.tensor([[[0, 15, 255]]]), 15, ignore=255)
    tensor([[[ 0.,  1., -1.]]])
    """
    maps = torch.as_tensor(maps)
    if maps.is_floating_point():
        raise MaskError(f"A label map holds whole numbers; got {maps.dtype}. Convert it with .long().")
    maps = maps.squeeze(1) if maps.ndim == 4 and maps.shape[1] == 1 else maps
    if maps.ndim != 3:
        raise MaskError(f"Label maps are (B, H, W) or (B, 1, H, W); got {tuple(maps.shape)}.")
    if isinstance(values, Tensor) and values.ndim:
        inside = maps == values.view(-1, 1, 1)
    else:
        inside = torch.isin(maps, torch.as_tensor(values, dtype=maps.dtype))
    if len(maps) and not inside.any():
        met = torch.unique(maps).tolist()
        raise MaskError(f"No map holds the object's value {values}; they hold {met[:10]}. Correct values.")
    masks: Tensor = inside.float()
    return masks.masked_fill(torch.isin(maps, torch.as_tensor(ignore, dtype=maps.dtype)), -1)


def points_to_masks(points: Iterable[Any], size: Size, radius: float | None = None) -> Float[Tensor, "B H W"]:
    """Masks of 1 within a radius of any of an image's points: clicks on an object.

    Args:
        points: for each image `(N, 2)`, or `(2,)` where it has one, as `x, y` in pixels; tensors, arrays or lists. An
            image without a point is unannotated, all -1.
        size: height and width of the images, or the side of squares.
        radius: in pixels; if None a tenth of the shorter side.

    Raises:
        MaskError: for a point outside the image, a radius of 0 or less, for what is no list of points, or no size.

    Warns where no coordinate is above 1: these are read as pixels too, and may be meant as shares of the image.

    >>> points_to_masks([[1.5, 0.5]], (1, 4), radius=1.0)
    tensor([[[1., 1., 1., 0.]]])
    """
    height, width = _height_and_width(size)
    radius = min(height, width) / 10 if radius is None else radius
    if radius <= 0:
        raise MaskError(f"The radius around a point is above 0 pixels; got {radius}.")
    rows, columns = _pixels(height, width)

    def disc(point: Tensor) -> Tensor:
        x, y = point.tolist()
        if not (0 <= x <= width and 0 <= y <= height):
            raise MaskError(
                f"Point ({x}, {y}) is outside an image of height and width {height, width}: give x, y in pixels."
            )
        distance: Tensor = (columns + 0.5 - x).square() + (rows + 0.5 - y).square()
        return distance <= max(radius, 0.71) ** 2  # the pixel that holds the point, at the least

    tables = _tables(points, ("x", "y"))
    return _stacked([[disc(point) for point in of_image] for of_image in tables], height, width)


def attention_to_masks(maps: Any) -> Float[Tensor, "B H W"]:
    """Maps of where people looked or clicked, of any scale, as soft masks with a maximum of 1.

    Args:
        maps: `(B, H, W)` or `(B, 1, H, W)`, a tensor or an array of any type of number. A map without anything above 0
            is unannotated, all -1.

    Raises:
        MaskError: for maps of another shape, negative values or such that are not finite.

    >>> attention_to_masks(torch.tensor([[[0, 2, 4]], [[0, 0, 0]]]))
    tensor([[[ 0.0000,  0.5000,  1.0000]],
    <BLANKLINE>
            [[-1.0000, -1.0000, -1.0000]]])
    """
    maps = _read_maps(torch.as_tensor(maps))
    if not bool((maps.isfinite() & (maps >= 0)).all()):
        raise MaskError("A map of attention holds finite values of at least 0: take away what was added to it.")
    highest = maps.amax(dim=(1, 2), keepdim=True)
    return torch.where(highest > 0, maps / highest.clamp(min=torch.finfo(maps.dtype).tiny), -1)


def _read_maps(maps: Tensor) -> Float[Tensor, "B H W"]:
    """The maps without a channel of one, in single precision at the least."""
    shape = tuple(maps.shape)
    if maps.ndim == 4 and shape[1] == 1:
        maps = maps.squeeze(1)
    if maps.ndim != 3 or not all(maps.shape[1:]):
        remedy = (
            "Merge the channels, as by maps.amax(1)." if maps.ndim == 4 else "Give a map for each image of a batch."
        )
        raise MaskError(f"Maps of attention are (B, H, W) or (B, 1, H, W); got {shape}. {remedy}")
    return maps.to(torch.promote_types(maps.dtype, torch.float32))


def _height_and_width(size: Size) -> tuple[int, int]:
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or min(sides) < 1:
        raise MaskError(f"size is the height and width of the images; got {sides}. Give them, as by images.shape[-2:].")
    return sides[0], sides[1]


def _pixels(height: int, width: int) -> tuple[Tensor, Tensor]:
    rows, columns = torch.arange(height).unsqueeze(1), torch.arange(width).unsqueeze(0)
    return rows.expand(height, width), columns.expand(height, width)


def _tables(annotations: Iterable[Any], columns: Sequence[str]) -> list[Tensor]:
    """For each image `(N, K)` in double precision on the CPU, from lists, arrays and tensors in any mixture."""
    tables = [_table(index, of_image, columns) for index, of_image in enumerate(annotations)]
    highest = max((float(table.max()) for table in tables if len(table)), default=None)
    if highest is not None and highest <= 1:
        warnings.warn(
            f"No {'/'.join(columns)} is above 1, and they are read as pixels: multiply shares of the image by its "
            "width and height.",
            UserWarning,
            stacklevel=3,
        )
    return tables


def _table(index: int, of_image: Any, columns: Sequence[str]) -> Float[Tensor, "N K"]:
    wanted = f"Image {index} is annotated by rows of {', '.join(columns)}"
    try:
        table = torch.as_tensor(_as_lists(of_image), dtype=torch.float64)
    except (TypeError, ValueError) as error:
        raise MaskError(f"{wanted}; got {of_image!r}. Give a list of such rows, or an empty one.") from error
    if not table.numel():
        return table.new_zeros(0, len(columns))
    if table.ndim not in (1, 2) or table.shape[-1] != len(columns):
        raise MaskError(f"{wanted}; got shape {tuple(table.shape)}. Give a list with an entry for each image.")
    return table.view(-1, len(columns))


def _as_lists(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    return [_as_lists(item) for item in value] if isinstance(value, list | tuple) else value


def _stacked(regions: Sequence[Sequence[Bool[Tensor, "H W"]]], height: int, width: int) -> Tensor:
    """The union of each image's regions; all -1 for an image without any."""
    masks = torch.full((len(regions), height, width), -1.0)
    for mask, found in zip(masks, regions, strict=True):
        if found:
            mask.copy_(torch.stack(list(found)).any(dim=0))
    return masks
