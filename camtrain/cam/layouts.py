"""How the output of a layer is read as a map `(B, K, *S)`: by its shape against the image and the grids seen before it.

A reading is taken only where the shape allows it. Where the shape does not settle it, `camtrain.cam.looking` looks at
where the output changes when a part of the image does.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from camtrain.errors import LayerError

Size = tuple[int, ...]
MOST_OTHER_TOKENS = 32  # class, distillation and register tokens before those of the patches


@dataclass(frozen=True)
class Layout:
    """A reading of a layer's output: its name, its grid, the function to `(B, K, *S)`, whether the shape settles it.

    Where the shape does not, as it never does for tokens, somebody must look: see `camtrain.cam.looking`.
    """

    name: str
    grid: Size
    to_map: Callable[[Tensor], Tensor] = field(repr=False, compare=False)
    sure: bool = field(default=True, repr=False, compare=False)

    @property
    def cells(self) -> int:
        """How many cells the map has."""
        return math.prod(self.grid)

    @property
    def any_size(self) -> bool:
        """Whether the reading holds for images of every size."""
        return self.sure and self.name in ("channels first", "channels last")


def channels_first(shape: Size) -> Layout:
    """`(B, K, *S)` as it is."""
    return Layout("channels first", shape[2:], _as_it_is)


def channels_last(shape: Size) -> Layout:
    """`(B, *S, K)`, as in Swin."""
    return Layout("channels last", shape[1:-1], _channels_to_front)


def tokens(grid: Size, others: int, behind: int = 0, *, inner: int = 0) -> Layout:
    """`(B, others + prod(grid) + behind, K)`, as in ViT; the tokens that are not patches are left out.

    The last axis of the grid runs fastest; with `inner` the one that many axes before it, as time in a video whose
    tokens go through all frames of a place before the next place.
    """
    words = [f"tokens after {others} others" if others else "tokens", f"before {behind} others" if behind else ""]
    words = [word for word in words if word]
    name = " and ".join(words) if others or len(words) < 2 else "tokens before " + str(behind) + " others"
    order = "" if not inner else ", column by column" if len(grid) == 2 else ", place by place"
    arrange = functools.partial(_tokens_to_map, grid=grid, others=others, behind=behind, inner=inner)
    return Layout(name + order, grid, arrange, sure=False)


def flattened(grid: Size) -> Layout:
    """`(B, K, prod(grid))`."""
    return Layout("flattened space", grid, functools.partial(_unflatten, grid=grid), sure=False)


def batch_second(layout: Layout) -> Layout:
    """The same with the batch as the second axis, `(N, B, K)`."""
    return Layout(f"{layout.name}, batch second", layout.grid, functools.partial(_second_first, layout), sure=False)


def folded(layout: Layout, frames: int) -> Layout:
    """The same for frames, or several pictures of one object, folded into the batch: `(B * frames, ...)`."""
    grid = (frames, *layout.grid)
    return Layout(
        f"{layout.name}, frames in the batch", grid, functools.partial(_unfolded, layout, frames), sure=layout.sure
    )


@functools.lru_cache(maxsize=1024)
def readings(
    shape: Size, frame: Size | None, grids: tuple[Size, ...] = (), batch: int | None = None
) -> tuple[Layout, ...]:
    """The ways to read an output of this shape as a map of more than one cell; none where there is no way.

    `frame` is the size of the image as the network sees it, `(H, W)`, `(T, H, W)` or `(L,)`, None where it is not
    known; `grids` are the sizes of the maps seen earlier in the forward pass, `batch` is the number of images.

    >>> [layout.name for layout in readings((2, 7, 7, 768), (224, 224))]
    ['channels last']
    >>> [layout.name for layout in readings((2, 197, 768), (224, 224), ((14, 14),))]
    ['tokens after 1 others']
    >>> readings((2, 10), (224, 224))
    ()
    """
    if batch is not None and len(shape) > 1 and shape[0] != batch:
        return tuple(_with_batch_elsewhere(shape, frame, grids, batch))
    if len(shape) == 3 and (frame is None or len(frame) > 1):
        return tuple(_token_readings(shape, frame, grids))[:1]
    if not 3 <= len(shape) <= 5 or (len(shape) > 3 and math.prod(shape[2:]) == 1):  # (B, C, 1, 1) is no map of classes
        return ()
    both = [layout for layout in (channels_first(shape), channels_last(shape)) if _cells_of_a_frame(layout.grid) > 1]
    if frame is None or len(shape) == 3:
        both.sort(key=lambda layout: layout.grid not in grids)
        return tuple(dataclasses.replace(layout, sure=frame is None) for layout in both[:1])
    for fits in (_one_stride, _one_stride_and_margin, _inside):
        found = tuple(layout for layout in both if fits(layout.grid, frame[-len(layout.grid) :]))
        exact = tuple(layout for layout in found if _same_shape(layout.grid, frame[-len(layout.grid) :]))
        if found:
            chosen = exact if len(exact) == 1 else found
            settled = len(chosen) == 1 and fits is _one_stride
            return tuple(dataclasses.replace(layout, sure=settled) for layout in chosen)
    return ()


@functools.lru_cache(maxsize=1024)
def other_readings(
    shape: Size, frame: Size | None, grids: tuple[Size, ...] = (), batch: int | None = None
) -> tuple[Layout, ...]:
    """The less likely ways to read three axes: other grids, tokens behind, another order. One must look for them.

    >>> [layout.name for layout in other_readings((2, 17, 8), (64, 64), ((4, 4),))][:2]
    ['tokens before 1 others', 'tokens after 1 others, column by column']
    """
    if len(shape) != 3:
        return ()
    if batch is not None and shape[0] != batch:
        turned = other_readings((shape[1], shape[0], shape[2]), frame, grids) if shape[1] == batch else ()
        return tuple(batch_second(layout) for layout in turned)
    if frame is not None and len(frame) == 1:
        first = readings(shape, frame, grids)
        both = (channels_first(shape), channels_last(shape))
        return tuple(dataclasses.replace(layout, sure=False) for layout in both if layout not in first)
    fits = _fitting(shape[1], [*[grid for grid in grids if _cells_of_a_frame(grid) > 1], *_strided_grids(frame)])
    first = readings(shape, frame, grids)[:1]
    variants = [
        tokens(grid, ahead, others - ahead, inner=inner)
        for rank, (others, grid) in enumerate(fits[:_GRIDS_TRIED])
        for inner in range(2 if len(grid) > 1 else 1)
        for ahead in (range(others, -1, -1) if rank == 0 else (others,))
    ]
    flat = [flattened(grid) for grid in grids if math.prod(grid) == shape[2] and _cells_of_a_frame(grid) > 1]
    return tuple(layout for layout in dict.fromkeys([*variants, *flat]) if layout not in first)


_GRIDS_TRIED = 3


def _with_batch_elsewhere(shape: Size, frame: Size | None, grids: tuple[Size, ...], batch: int) -> Iterator[Layout]:
    """Readings of `(N, B, K)`, and of `(B * T, ...)` where the images have T frames."""
    if len(shape) == 3 and shape[1] == batch:
        turned = readings((shape[1], shape[0], shape[2]), frame, grids)
        yield from (batch_second(layout) for layout in turned)
    elif frame is not None and len(frame) == 3 and batch and shape[0] % batch == 0:
        frames = shape[0] // batch
        if frames > 1 and frame[0] % frames == 0:
            inner = readings((batch, *shape[1:]), frame[1:], tuple(grid[-2:] for grid in grids))
            yield from (folded(layout, frames) for layout in inner)


def _cells_of_a_frame(grid: Size) -> int:
    return math.prod(grid[-2:])


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _channels_to_front(tensor: Tensor) -> Tensor:
    return tensor.movedim(-1, 1)


def _tokens_to_map(tensor: Tensor, *, grid: Size, others: int, behind: int = 0, inner: int = 0) -> Tensor:
    count = math.prod(grid)
    if tensor.ndim != 3 or tensor.shape[1] != others + count + behind:
        raise LayerError(
            f"An output of shape {tuple(tensor.shape)} was read as {others + count + behind} tokens before: the number "
            "of tokens depends on the input. Name another layer."
        )
    flat = tensor[:, others : others + count].transpose(1, 2)
    if not inner:
        return flat.reshape(tensor.shape[0], tensor.shape[2], *grid)
    return flat.reshape(tensor.shape[0], tensor.shape[2], *grid[1:], grid[0]).movedim(-1, 2)


def _second_first(layout: Layout, tensor: Tensor) -> Tensor:
    return layout.to_map(tensor.transpose(0, 1))


def _unfolded(layout: Layout, frames: int, tensor: Tensor) -> Tensor:
    maps = layout.to_map(tensor)  # (B * T, K, *s)
    return maps.reshape(-1, frames, *maps.shape[1:]).transpose(1, 2)


def _unflatten(tensor: Tensor, *, grid: Size) -> Tensor:
    return tensor.reshape(*tensor.shape[:2], *grid)


def _token_readings(shape: Size, frame: Size | None, grids: Sequence[Size]) -> Iterator[Layout]:
    seen = [grid for grid in grids if _cells_of_a_frame(grid) > 1]
    for grids_of in (seen, _strided_grids(frame)):
        fits = _fitting(shape[1], grids_of)
        if fits:
            others, grid = fits[0]
            yield tokens(grid, others)
        yield from (flattened(grid) for grid in grids_of if math.prod(grid) == shape[2])


def _fitting(count: int, grids: Sequence[Size]) -> list[tuple[int, Size]]:
    """The grids that so many tokens can be on, with the number of tokens left over, fewest first."""
    fits = {grid: count - math.prod(grid) for grid in grids}
    found = [(others, grid) for grid, others in fits.items() if 0 <= others <= MOST_OTHER_TOKENS]
    return sorted(found, key=lambda fit: fit[0])


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
    if len(grid) != len(frame) or len(grid) < 2 or grid[-1] == grid[-2] or min(grid[-2:]) == 1:
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
