"""Every image of a pass as a small tile: the image and its overlay side by side, for a page that shows them all."""

from collections.abc import Callable, Mapping, Sequence
from math import ceil, isnan
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from camtrain.monitoring.panels import Naming, answer_of, keyframe, strip
from camtrain.monitoring.selection import Kept, keep
from camtrain.monitoring.table import Explained, Table
from camtrain.records import CELLS, Gallery
from camtrain.records.panels import TILES_ACROSS, TILES_DOWN
from camtrain.render import draw_contours, overlay, to_uint8

MOST_TILES = 10_000
SIDES = {400: 144, 1500: 112, 4000: 72}  # up to so many images: pixels of a tile, so that some 150 MB hold a pass
SMALLEST = 52

Tile = UInt8[Tensor, "6 S S"]  # an image, and its overlay


class Tiles:
    """Collects a tile of every image of a pass, of very many of each n-th.

    Args:
        expected: how many images the pass will bring, about; None where that is not known.
        denormalize: makes pictures of images; None guesses as `to_uint8` does.
    """

    def __init__(self, expected: int | None, denormalize: Callable[[Tensor], Any] | None = None) -> None:
        self.every = ceil((expected or 1) / MOST_TILES)
        self.side = next((side for most, side in SIDES.items() if (expected or 0) <= most), SMALLEST)
        self.denormalize = denormalize
        self.by_sample: dict[str, Tile] = {}

    def update(self, explained: Explained, first_position: int) -> None:
        """Add those images of a batch whose turn it is."""
        rows = [row for row in range(len(explained.samples)) if (first_position + row) % self.every == 0]
        rows = rows[: MOST_TILES - len(self.by_sample)]
        kept = [strip(keyframe(item)) for item in keep(explained, rows)] if rows else []
        groups: dict[tuple[Any, ...], list[Kept]] = {}
        for item in kept:
            groups.setdefault((item.image.shape, item.mask is None), []).append(item)
        for group in groups.values():
            tiles = drawn(group, self.side, self.denormalize).cpu()
            self.by_sample |= dict(zip([item.sample for item in group], tiles, strict=True))


def drawn(kept: Sequence[Kept], side: int, denormalize: Callable[[Tensor], Any] | None) -> UInt8[Tensor, "B 6 S S"]:
    """Tiles of images of one size, their objects outlined: whole images, in the middle of a square."""
    images = torch.stack([item.image.float() for item in kept])
    pixels = to_uint8(images if denormalize is None else denormalize(images))
    size = within(pixels.shape[-2:], side)
    small = F.interpolate(pixels.float(), size, mode="area").round().to(torch.uint8)
    heat = torch.stack([next(iter(item.heatmaps.values())) for item in kept])
    heated = overlay(small, heat)
    if kept[0].mask is not None:
        masks = torch.stack([item.mask.float() for item in kept if item.mask is not None]).unsqueeze(1)
        heated = draw_contours(heated, F.interpolate(masks, size, mode="area").squeeze(1))
    height, width = ((side - length) for length in size)
    margins = (width // 2, width - width // 2, height // 2, height - height // 2)
    return F.pad(torch.cat([small, heated], dim=1), margins)


def within(size: Sequence[int], side: int) -> tuple[int, int]:
    """A height and width of the same proportion, the longer one `side`.

    >>> within((200, 300), 60)
    (40, 60)
    """
    factor = side / max(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def gallery(
    table: Table, tiles: Mapping[str, Tile], naming: Naming, epoch: int, step: int, form: str = "choice"
) -> Gallery:
    """The tiles of all processes as sheets, in the order of the table, with what that knows of them."""
    rows = [row for row, sample in enumerate(table.samples) if sample in tiles]
    pictures = [tiles[table.samples[row]] for row in rows]
    per_sheet = TILES_ACROSS * TILES_DOWN
    sheets = [sheet(pictures[first : first + per_sheet]) for first in range(0, len(pictures), per_sheet)]
    side = pictures[0].shape[-1] if pictures else 0
    return Gallery(columns_of(table, rows, naming, form), tuple(sheets), side, len(table.samples), epoch, step)


def sheet(pictures: Sequence[Tile]) -> UInt8[Tensor, "3 H W"]:
    """At most `TILES_ACROSS` x `TILES_DOWN` tiles on one picture, line by line; no line more than it needs."""
    side = pictures[0].shape[-1]
    lines = ceil(len(pictures) / TILES_ACROSS)
    every = torch.zeros(lines * TILES_ACROSS, 2, 3, side, side, dtype=torch.uint8)
    every[: len(pictures)] = torch.stack(list(pictures)).view(-1, 2, 3, side, side)
    placed = every.view(lines, TILES_ACROSS, 2, 3, side, side).permute(3, 0, 4, 1, 2, 5)
    return placed.reshape(3, lines * side, TILES_ACROSS * 2 * side)


def columns_of(table: Table, rows: Sequence[int], naming: Naming, form: str = "choice") -> dict[str, list[Any]]:
    """What `Gallery.columns` holds, of some rows; inside energy by the first method."""
    energies = next((name for name in table.columns if name.startswith("inside_energy/")), "")
    numbers = [dict(zip(table.columns, table.numbers[row].tolist(), strict=True)) for row in rows]
    answers = [answer_of(form, each, naming) for each in numbers]
    shares = {name: name for name in ("probability", "true_probability", "chance", "right")}
    return {
        "sample": [table.samples[row] for row in rows],
        "true": [answer["label_name"] for answer in answers],
        "predicted": [answer["predicted_name"] for answer in answers],
        **{
            name: [_number(each[source]) for each in numbers]
            for name, source in (shares | {"inside_energy": energies}).items()
        },
        "cell": [CELLS[int(each["cell"])] if each["cell"] >= 0 else None for each in numbers],
    }


def _number(value: float) -> float | None:
    return None if isnan(value) else round(value, 4)
