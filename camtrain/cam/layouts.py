"""How the output of a layer is read as a map `(B, K, *S)`: by its shape against the image and the grids seen before it.

A reading is taken only where the shape allows it. Where two readings are possible both are returned, and the caller
looks at where the output changes when a part of the image does.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from torch import Tensor

Size = tuple[int, ...]
MOST_OTHER_TOKENS = 32  # class, distillation and register tokens before those of the patches


@dataclass(frozen=True)
class Layout:
    """A reading of a layer's output: its name, its grid, and the function to `(B, K, *S)`."""

    name: str
    grid: Size
    to_map: Callable[[Tensor], Tensor] = field(repr=False, compare=False)

    @property
    def any_size(self) -> bool:
        """Whether the reading holds for images of every size."""
        return self.name in ("channels first", "channels last")


def channels_first(shape: Size) -> Layout:
    """`(B, K, *S)` as it is."""
    return Layout("channels first", shape[2:], _as_it_is)


def channels_last(shape: Size) -> Layout:
    """`(B, *S, K)`, as in Swin."""
    return Layout("channels last", shape[1:-1], _channels_to_front)


def tokens(grid: Size, others: int) -> Layout:
    """`(B, others + prod(grid), K)`, as in ViT: the tokens that are not patches come first and are left out."""
    name = f"tokens after {others} others" if others else "tokens"
    return Layout(name, grid, functools.partial(_tokens_to_map, grid=grid, others=others))


def flattened(grid: Size) -> Layout:
    """`(B, K, prod(grid))`."""
    return Layout("flattened space", grid, functools.partial(_unflatten, grid=grid))


@functools.lru_cache(maxsize=1024)
def readings(shape: Size, frame: Size | None, grids: tuple[Size, ...] = ()) -> tuple[Layout, ...]:
    """Every way to read an output of this shape as a map of more than one cell; none where there is no way.

    `frame` is the size of the image as the network sees it, `(H, W)`, `(T, H, W)` or `(L,)`, None where it is not
    known; `grids` are the sizes of the maps seen earlier in the forward pass.

    >>> [layout.name for layout in readings((2, 7, 7, 768), (224, 224))]
    ['channels last']
    >>> [layout.name for layout in readings((2, 197, 768), (224, 224), ((14, 14),))]
    ['tokens after 1 others']
    >>> readings((2, 10), (224, 224))
    ()
    """
    if len(shape) == 3 and (frame is None or len(frame) > 1):
        return tuple(_token_readings(shape, frame, grids))[:1]
    if not 3 <= len(shape) <= 5 or (len(shape) > 3 and math.prod(shape[2:]) == 1):  # (B, C, 1, 1) is no map of classes
        return ()
    both = [layout for layout in (channels_first(shape), channels_last(shape)) if _cells_of_a_frame(layout.grid) > 1]
    if frame is None or len(shape) == 3:
        return tuple(both[:1])
    for fits in (_one_stride, _one_stride_and_margin, _inside):
        found = tuple(layout for layout in both if fits(layout.grid, frame[-len(layout.grid) :]))
        exact = tuple(layout for layout in found if _same_shape(layout.grid, frame[-len(layout.grid) :]))
        if found:
            return exact if len(exact) == 1 else found
    return ()


def _cells_of_a_frame(grid: Size) -> int:
    return math.prod(grid[-2:])


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _channels_to_front(tensor: Tensor) -> Tensor:
    return tensor.movedim(-1, 1)


def _tokens_to_map(tensor: Tensor, *, grid: Size, others: int) -> Tensor:
    return tensor[:, others:].transpose(1, 2).reshape(tensor.shape[0], tensor.shape[2], *grid)


def _unflatten(tensor: Tensor, *, grid: Size) -> Tensor:
    return tensor.reshape(*tensor.shape[:2], *grid)


def _token_readings(shape: Size, frame: Size | None, grids: Sequence[Size]) -> Iterator[Layout]:
    seen = [grid for grid in grids if _cells_of_a_frame(grid) > 1]
    for grids_of in (seen, _strided_grids(frame)):
        fitting = [(shape[1] - math.prod(grid), grid) for grid in grids_of]
        fitting = [(others, grid) for others, grid in fitting if 0 <= others <= MOST_OTHER_TOKENS]
        if fitting:
            others, grid = min(fitting, key=lambda fit: fit[0])
            yield tokens(grid, others)
        yield from (flattened(grid) for grid in grids_of if math.prod(grid) == shape[2])


@functools.lru_cache(maxsize=64)
def _strided_grids(frame: Size | None) -> list[Size]:
    """The grids of every stride on an image, coarse ones first; of one frame only where the image is a video."""
    if frame is None or len(frame) != 2:
        return []
    grids = {tuple(-(-side // stride) for side in frame): None for stride in range(max(frame) // 2, 0, -1)}
    return [grid for grid in grids if math.prod(grid) > 1]


def _same_shape(grid: Size, frame: Size) -> bool:
    return len(grid) < 2 or grid[-2] * frame[-1] == grid[-1] * frame[-2]


def _one_stride(grid: Size, frame: Size) -> bool:
    """Whether height and width shrank by the same factor, up to rounding. Time has a stride of its own."""
    if len(grid) != len(frame) or any(cells > 2 * side for cells, side in zip(grid, frame, strict=True)):
        return False
    spans = [(side / (cells + 1.5), side / max(cells - 1, 1e-9)) for cells, side in zip(grid, frame, strict=True)][-2:]
    return max(low for low, _ in spans) <= min(high for _, high in spans)


def _one_stride_and_margin(grid: Size, frame: Size) -> bool:
    """The same for convolutions without padding: `side = stride * cells + margin` with one stride and one margin."""
    if len(grid) != len(frame) or len(grid) < 2 or grid[-1] == grid[-2]:
        return False
    stride = (frame[-1] - frame[-2]) / (grid[-1] - grid[-2])
    return stride >= 1 and frame[-1] - stride * grid[-1] >= 0


def _inside(grid: Size, frame: Size) -> bool:
    """Whether the grid is no finer than the image: maps pooled to a fixed size, whose channels come first."""
    return (
        len(grid) == len(frame)
        and min(grid) > 1
        and all(cells <= side for cells, side in zip(grid, frame, strict=True))
    )
