"""Counterfactual twins: the annotated object in front of another background, to be answered alike."""

from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from camtrain.cam import annotated
from camtrain.compositing import composite, dilate, fill_objects, fill_with_texture
from camtrain.errors import ConfigurationError

Infill = Literal["swap", "inpaint", "noise", "shuffle"]
INFILLS: tuple[str, ...] = get_args(Infill)
_PATCHES = 8  # a shuffled background is cut into so many rows and columns


def make_twins(
    images: Float[Tensor, "B C H W"],
    masks: Float[Tensor, "B H W"],
    labels: Int[Tensor, " B"] | None = None,
    *,
    infill: str = "swap",
    generator: torch.Generator | None = None,
    feather: int = 1,
    grow: int = 1,
    jitter: float = 0.0,
    fill_donors: bool = True,
    limit: int | None = None,
) -> tuple[Float[Tensor, "N C H W"], Int[Tensor, " N"]]:
    """Each annotated object in front of another background, made on the images' device.

    The background, by `infill`:

    * `"swap"`: another image's, from `choose_donors`. Where the donor is annotated, its own object is grown by `grow`
      pixels and filled in from its surroundings first (unless `fill_donors=False`).
    * `"inpaint"`: the object's own colors, continued outward.
    * `"noise"`: Gaussian noise with the mean and the deviation of the image's own background, by channel.
    * `"shuffle"`: the image's own background without the object, cut into 8x8 patches that change places.

    Images without an annotation, with an empty or a full mask, or (for a swap) without anybody to lend a background
    get no twin.

    Args:
        images: as the network takes them; a twin of a swap lies within the range of the two images it is made of.
        masks: 1 on the object, all -1 without an annotation. A box keeps its inside.
        labels: with them, a background from another class is preferred.
        infill: what the background becomes.
        generator: on the CPU; the global one if None.
        feather: width in pixels of the ramp from object to background, around the object and in its own colors.
        grow: pixels around an object that are filled in with it.
        jitter: objects are scaled by up to this fraction and moved by up to this fraction of the free space; 0 leaves
            them where they are. The object's shape goes with it, its background does not.
        fill_donors: False where a mask marks not an object but all that may matter: only what it leaves out is swapped.
        limit: at most this many twins, chosen at random.

    Returns:
        The twins, and the index of the image that each was made of, in order. Both may be empty.

    Raises:
        ConfigurationError: for an infill that is not known.

    >>> twins, index = make_twins(torch.rand(2, 3, 8, 8), torch.eye(8).expand(2, 8, 8))
    >>> twins.shape, index.tolist()
    (torch.Size([2, 3, 8, 8]), [0, 1])
    """
    twins, _, index = make_masked_twins(
        images,
        masks,
        labels,
        infill=infill,
        generator=generator,
        feather=feather,
        grow=grow,
        jitter=jitter,
        fill_donors=fill_donors,
        limit=limit,
    )
    return twins, index


def make_masked_twins(
    images: Float[Tensor, "B C H W"],
    masks: Float[Tensor, "B H W"],
    labels: Int[Tensor, " B"] | None = None,
    *,
    infill: str = "swap",
    generator: torch.Generator | None = None,
    feather: int = 1,
    grow: int = 1,
    jitter: float = 0.0,
    fill_donors: bool = True,
    limit: int | None = None,
) -> tuple[Float[Tensor, "N C H W"], Float[Tensor, "N H W"], Int[Tensor, " N"]]:
    """`make_twins` with the masks of the twins, which move with their objects: twins, masks, index."""
    _check_infill(infill)
    index = _chosen(can_have_twin(masks), limit, generator)
    donors = index
    if infill == "swap":
        donors = choose_donors(masks, labels, generator=generator)[index] if len(images) > 1 else index[:0]
        index = index[: len(donors)]
    how: dict[str, Any] = {
        "infill": infill,
        "feather": feather,
        "grow": grow,
        "jitter": jitter,
        "fill_donors": fill_donors,
    }
    return *_set_before(images, masks, index, donors, generator=generator, **how), index


def deal_backgrounds(
    images: Float[Tensor, "B C H W"],
    masks: Float[Tensor, "B H W"],
    labels: Int[Tensor, "B *L"] | None = None,
    *,
    infill: str = "swap",
    generator: torch.Generator | None = None,
    feather: int = 1,
    grow: int = 1,
    jitter: float = 0.0,
    fill_donors: bool = True,
    share: float = 1.0,
) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B H W"], Int[Tensor, " N"]]:
    """A batch whose backgrounds are dealt anew among its annotated objects, so that they tell nothing of the class.

    The backgrounds of the annotated images are shuffled. Whoever is dealt one of another class becomes a twin before
    it; whoever is dealt one of its own class stays as it is. So in the result every class stands before the backgrounds
    of every class as often as chance has it, whatever the classes' frequencies `p`, and a share `sum p^2` of the images
    stays as it was taken.

    Args:
        images: as the network takes them.
        masks: 1 on the object, all -1 without an annotation.
        labels: class indices `(B,)` or multi-hot `(B, C)`; without them every image that is dealt another's background
            becomes a twin.
        infill: what the background becomes, this and the rest as in `make_twins`.
        generator: on the CPU; the global one if None.
        feather: width in pixels of the ramp from object to background.
        grow: pixels around an object that are filled in with it.
        jitter: objects are scaled and moved by up to this fraction, and their masks with them.
        fill_donors: False where a mask marks not an object but all that may matter.
        share: of those that would become twins only so many do, at random, in [0, 1].

    Returns:
        Images and masks of the whole batch, and the index of the twins among them, in order. Fewer than two annotated
        images come back as they are.

    Raises:
        ConfigurationError: for an infill that is not known.

    >>> images, masks = torch.rand(2, 3, 8, 8), torch.eye(8).expand(2, 8, 8)
    >>> dealt, _, index = deal_backgrounds(images, masks, torch.tensor([1, 1]))
    >>> bool((dealt == images).all()), len(index)
    (True, 0)
    """
    _check_infill(infill)
    rows = can_have_twin(masks).nonzero().flatten()
    donors = rows[torch.randperm(len(rows), generator=generator).to(rows.device)]
    others = rows != donors
    if labels is not None:
        differ = labels[rows] != labels[donors]
        others &= differ if differ.ndim == 1 else differ.any(dim=1)
    if share < 1:
        others &= (torch.rand(len(rows), generator=generator) < share).to(rows.device)
    index, donors = rows[others], donors[others]
    how: dict[str, Any] = {
        "infill": infill,
        "feather": feather,
        "grow": grow,
        "jitter": jitter,
        "fill_donors": fill_donors,
    }
    twins, shapes = _set_before(images, masks, index, donors, generator=generator, **how)
    return images.index_copy(0, index, twins.to(images.dtype)), masks.index_copy(0, index, shapes), index


def same_class_share(labels: Int[Tensor, "B *L"]) -> Float[Tensor, ""]:
    """How likely two images drawn from a batch are of one class, `sum p^2` of its frequencies; multi-hot: alike.

    >>> same_class_share(torch.tensor([0, 0, 1, 1]))
    tensor(0.5000)
    """
    if len(labels) == 0:
        return torch.ones((), device=labels.device)
    counts: Tensor = torch.unique(labels, dim=0, return_counts=True)[1]
    return (counts / len(labels)).square().sum()


def _set_before(
    images: Tensor,
    masks: Tensor,
    index: Tensor,
    donors: Tensor,
    *,
    infill: str,
    generator: torch.Generator | None,
    feather: int,
    grow: int,
    jitter: float,
    fill_donors: bool,
) -> tuple[Tensor, Tensor]:
    """The objects at `index` before the backgrounds of `donors`, or others by `infill`: twins, and their masks."""
    if infill == "swap":
        lent = masks[donors] if fill_donors else torch.zeros_like(masks[donors])
        backgrounds = fill_with_texture(images[donors], dilate(lent, grow))
    else:
        own = masks[index] if infill == "inpaint" else dilate(masks[index], grow)  # no rim of what is to go
        backgrounds = _infilled(images[index], own, infill, generator)
    objects, shapes = move_objects(images[index], masks[index], jitter, generator=generator)
    return composite(objects, shapes, backgrounds, feather=feather), shapes


def _check_infill(infill: str) -> None:
    if infill not in INFILLS:
        raise ConfigurationError(f"infill is one of {', '.join(INFILLS)}; got {infill!r}.")


def can_have_twin(masks: Float[Tensor, "B H W"]) -> Bool[Tensor, " B"]:
    """Which images have an object and a background: annotated, neither empty nor full.

    >>> can_have_twin(torch.tensor([[[0.0, 1.0]], [[1.0, 1.0]], [[0.0, 0.0]], [[-1.0, -1.0]]]))
    tensor([ True, False, False, False])
    """
    flat = masks.flatten(1)
    return annotated(masks) & (flat.amax(dim=1) > 0) & (flat.amin(dim=1) < 1)


def choose_donors(
    masks: Float[Tensor, "B H W"], labels: Int[Tensor, " B"] | None = None, *, generator: torch.Generator | None = None
) -> Int[Tensor, " B"]:
    """For each image, whose background it gets: another image, at random among the best there are.

    An image of another class comes before one of the same (its background may be the very shortcut), and then one whose
    object can be removed before one without an annotation; one that is all object comes last. A single image: itself.

    >>> choose_donors(torch.eye(4).expand(3, 4, 4), torch.tensor([0, 0, 1]))[:2].tolist()
    [2, 2]
    """
    count = len(masks)
    score = torch.rand(count, count, generator=generator).to(masks.device)
    score = score + can_have_twin(masks).float()
    if labels is not None:
        score = score + 2 * (labels.unsqueeze(0) != labels.unsqueeze(1)).float()
    score = score - 3 * (masks.flatten(1).amin(dim=1) == 1).float()  # all object: no background to lend
    return score.fill_diagonal_(-torch.inf).argmax(dim=1)


def move_objects(
    images: Float[Tensor, "B C H W"],
    masks: Float[Tensor, "B H W"],
    jitter: float,
    *,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B H W"]]:
    """Images and masks under one random scaling and shift per image, which keep every object in the frame.

    The scale is log-uniform within a factor of `1 + jitter`, less where the object would not fit; the shift goes
    up to `jitter` of the way to the edge. An image without an annotation moves with an empty mask. A jitter of 0
    returns what was given.

    >>> masks = torch.zeros(1, 8, 8)
    >>> masks[:, 2:4, 2:4] = 1
    >>> _, moved = move_objects(torch.rand(1, 3, 8, 8), masks, 0.5)
    >>> bool(moved.sum() > 0)
    True
    """
    if jitter == 0 or len(images) == 0:
        return images, masks
    draws = torch.rand(3, len(images), generator=generator).to(images.device, torch.float32)
    boxes = _boxes(masks.clamp(min=0))  # (B, 4): left, top, right, bottom in [-1, 1]
    corner, far = boxes[:, :2], boxes[:, 2:]
    widest = (2 / (far - corner).amax(dim=1)).clamp(max=1 + jitter)
    scale = (1 + jitter) ** (2 * draws[0] - 1)
    scale = torch.minimum(scale, widest)
    center, half = (corner + far) / 2, (far - corner) / 2 * scale.unsqueeze(1)
    towards = (2 * draws[1:].T - 1) * jitter
    room = torch.where(towards > 0, 1 - half - center, center + 1 - half).clamp(min=0)
    goal = torch.minimum(torch.maximum(center + towards * room, half - 1), 1 - half)
    theta = torch.zeros(len(images), 2, 3, device=images.device)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / scale
    theta[:, :, 2] = center - goal / scale.unsqueeze(1)
    grid = F.affine_grid(theta, [len(images), 1, *images.shape[2:]], align_corners=False).to(images.dtype)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    shapes = F.grid_sample(masks.clamp(min=0).to(images.dtype).unsqueeze(1), grid, align_corners=False)
    return moved, shapes.squeeze(1).clamp(0, 1).to(masks.dtype)


def _boxes(masks: Tensor) -> Tensor:
    """The bounding box of each mask as left, top, right, bottom in [-1, 1]; the whole frame for an empty one."""
    sides = []
    for dim, length in ((1, masks.shape[2]), (2, masks.shape[1])):
        used = masks.amax(dim=dim) > 0
        cells = torch.arange(length, device=masks.device)
        first = torch.where(used, cells, length).amin(dim=1)
        last = torch.where(used, cells + 1, 0).amax(dim=1)
        empty = last == 0
        sides.append((torch.where(empty, 0, first) * 2 / length - 1, torch.where(empty, length, last) * 2 / length - 1))
    (left, right), (top, bottom) = sides
    return torch.stack([left, top, right, bottom], dim=1)


def _infilled(images: Tensor, masks: Tensor, infill: str, generator: torch.Generator | None) -> Tensor:
    """Backgrounds made of each image itself."""
    if infill == "inpaint":
        return fill_objects(images, 1 - masks)
    if infill == "noise":
        weights = (1 - masks).unsqueeze(1).to(images.dtype)
        total = weights.sum(dim=(2, 3), keepdim=True).clamp(min=1)
        mean = (weights * images).sum(dim=(2, 3), keepdim=True) / total
        deviation = ((weights * (images - mean).square()).sum(dim=(2, 3), keepdim=True) / total).sqrt()
        return mean + deviation * torch.randn(images.shape, generator=generator).to(images)
    return _shuffled(fill_objects(images, masks), generator)


def _shuffled(images: Tensor, generator: torch.Generator | None) -> Tensor:
    """Each image cut into a grid of patches that change places; what does not fit the grid stays."""
    count, channels, height, width = images.shape
    rows, columns = (max(side // _PATCHES, 1) for side in (height, width))
    down, across = height // rows, width // columns
    order = torch.rand(count, down * across, generator=generator).argsort(dim=1).to(images.device)
    whole = images[..., : down * rows, : across * columns]
    patches = whole.reshape(count, channels, down, rows, across, columns).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    patches = patches[torch.arange(count, device=images.device).unsqueeze(1), order]
    patches = patches.view(count, down, across, channels, rows, columns).permute(0, 3, 1, 4, 2, 5)
    shuffled = images.clone()
    shuffled[..., : down * rows, : across * columns] = patches.reshape_as(whole)
    return shuffled


def _chosen(candidates: Tensor, limit: int | None, generator: torch.Generator | None) -> Tensor:
    """The indices of the candidates, in order; a random choice of them where there are more than the limit."""
    index = candidates.nonzero().flatten()
    if limit is None or len(index) <= limit:
        return index
    kept = torch.randperm(len(index), generator=generator)[:limit].sort().values
    return index[kept.to(index.device)]
