"""Windows over a frame: where they are, which overlap, and what a person calls their place."""

from itertools import product

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from camtrain.swaps.compositing import feathered

__all__ = ["apart", "containing", "fractions", "place_name", "window_masks", "windows"]

Boxes = Int[Tensor, "K 4"]  # top, left, height, width in pixels
Fractions = tuple[float, float, float, float]  # left, top, width, height


def windows(height: int, width: int, share: float) -> Boxes:
    """Windows of a share of each side, overlapping by half, the outermost at the border: (top, left, height, width).

    >>> windows(8, 4, 0.5).tolist()
    [[0, 0, 4, 2], [0, 1, 4, 2], [0, 2, 4, 2], [2, 0, 4, 2], [2, 1, 4, 2], [2, 2, 4, 2], [4, 0, 4, 2], [4, 1, 4, 2], \
[4, 2, 4, 2]]
    """
    (rows, tall), (columns, wide) = (_along(side, share) for side in (height, width))
    return torch.tensor([[top, left, tall, wide] for top, left in product(rows, columns)])


def window_masks(boxes: Boxes, height: int, width: int) -> Float[Tensor, "K H W"]:
    """1 in each window, its edge blended over a pixel as that of an object is.

    >>> window_masks(torch.tensor([[0, 0, 1, 2]]), 1, 4).tolist()
    [[[1.0, 0.6666666865348816, 0.3333333432674408, 0.0]]]
    """
    masks = torch.zeros(len(boxes), height, width)
    for mask, (top, left, tall, wide) in zip(masks, boxes.tolist(), strict=True):
        mask[top : top + tall, left : left + wide] = 1
    return feathered(masks, 1)


def apart(boxes: Boxes) -> Bool[Tensor, "K K"]:
    """Which windows have no pixel in common.

    >>> apart(torch.tensor([[0, 0, 2, 2], [0, 1, 2, 2], [0, 2, 2, 2]])).tolist()
    [[False, False, True], [False, False, False], [True, False, False]]
    """
    first, end = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    return ((first[:, None] >= end) | (first >= end[:, None])).any(dim=2)


def containing(boxes: Boxes, larger: Int[Tensor, "V 4"]) -> Bool[Tensor, "K V"]:
    """Which of the larger windows hold each window whole.

    >>> containing(torch.tensor([[1, 1, 1, 1]]), torch.tensor([[0, 0, 2, 2], [0, 2, 2, 2]])).tolist()
    [[True, False]]
    """
    first, end = boxes[:, None, :2], (boxes[:, :2] + boxes[:, 2:])[:, None]
    return ((larger[:, :2] <= first) & (end <= larger[:, :2] + larger[:, 2:])).all(dim=2)


def fractions(box: Int[Tensor, " 4"], height: int, width: int) -> Fractions:
    """A window as (left, top, width, height) in fractions of the frame.

    >>> fractions(torch.tensor([6, 4, 2, 2]), 8, 8)
    (0.5, 0.75, 0.25, 0.25)
    """
    top, left, tall, wide = box.tolist()
    return left / width, top / height, wide / width, tall / height


def place_name(box: Fractions) -> str:
    """What a person calls the place of a window (left, top, width, height), and how large it is.

    >>> place_name((0.75, 0.75, 0.25, 0.25)), place_name((0.375, 0.0, 0.25, 0.25)), place_name((0.375, 0.4, 0.25, 0.2))
    ('bottom right corner, 25 % x 25 %', 'top edge, 25 % x 25 %', 'middle, 25 % x 20 %')
    """
    left, top, wide, tall = box
    names = [
        _third(top + tall / 2, ("top", "", "bottom")),
        _third(left + wide / 2, ("left", "", "right")),
    ]
    known = [name for name in names if name]
    place = f"{' '.join(known)} {'corner' if len(known) == 2 else 'edge'}" if known else "middle"
    return f"{place}, {100 * wide:.0f} % x {100 * tall:.0f} %"


def _third(centre: float, names: tuple[str, str, str]) -> str:
    return names[min(2, int(3 * centre))]


def _along(side: int, share: float) -> tuple[list[int], int]:
    """Where windows begin along one side, and how long they are."""
    length = max(1, round(share * side))
    steps = max(1, round((side - length) / max(1.0, length / 2)))
    return sorted({round(step * (side - length) / steps) for step in range(steps + 1)}), length
