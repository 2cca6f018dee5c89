"""Counterfactual twins: the annotated object in front of another background, to be answered alike."""

from dataclasses import dataclass
from numbers import Integral, Real

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from camtrain.cam import ownership
from camtrain.errors import BatchError, ConfigurationError, MaskError
from camtrain.swaps.compositing import composite, dilate, fill_with_texture, read_masks, solid
from camtrain.swaps.infills import INFILLS, made_background


@dataclass(frozen=True)
class Blend:
    """What becomes of the background, and of the seam; the fields are arguments of `make_twins`.

    Raises ConfigurationError for an infill that is not known, a jitter off [0, 1], a feather or growth below 0.
    """

    infill: str = "swap"
    feather: int = 1
    grow: int = 1
    jitter: float = 0.0
    fill_donors: bool = True

    def __post_init__(self) -> None:
        if self.infill not in INFILLS:
            raise ConfigurationError(f"infill is one of {', '.join(INFILLS)}; got {self.infill!r}.")
        if not (isinstance(self.jitter, Real) and 0 <= self.jitter <= 1):
            raise ConfigurationError(f"jitter is a fraction in [0, 1]; got {self.jitter!r}.")
        for name, pixels in (("feather", self.feather), ("grow", self.grow)):
            if not (isinstance(pixels, Integral) and pixels >= 0):
                raise ConfigurationError(f"{name} counts pixels and is a whole number of at least 0; got {pixels!r}.")

    def changes(self, masks: Tensor, lent: Tensor) -> Tensor:
        """`(B,)`: whether a twin before the background of a donor with such a mask differs from its image anywhere."""
        return self._kept(masks, lent).flatten(1).amin(dim=1) < 1

    def _kept(self, masks: Tensor, lent: Tensor) -> Tensor:
        """What stays of each image: its object; or, without one, what neither image leaves out."""
        if self.fill_donors or self.infill != "swap":
            return masks
        return torch.minimum(masks, torch.where(lent < 0, 1, lent))

    def __call__(
        self, images: Tensor, masks: Tensor, index: Tensor, donors: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """The objects at `index` before the backgrounds of `donors`, or others by `infill`: twins, and their masks."""
        kept = self._kept(masks[index], masks[donors])
        if self.infill == "swap":
            lent = masks[donors] if self.fill_donors else torch.zeros_like(masks[donors])
            backgrounds = fill_with_texture(images[donors], dilate(lent, self.grow))
        else:
            own = masks[index] if self.infill == "inpaint" else dilate(masks[index], self.grow)  # no rim of what goes
            backgrounds = made_background(images[index], own, self.infill, generator)
        objects, shapes = move_objects(images[index], kept, self.jitter, generator=generator)
        return composite(objects, shapes, backgrounds, feather=self.feather), shapes


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
    dtype = torch.promote_types(images.dtype, torch.float32)  # a grid in half precision misses pixels by whole ones
    with torch.autocast(images.device.type, enabled=False):
        moved, shapes = _moved(images.to(dtype), masks.to(dtype), jitter, generator)
    return moved.to(images.dtype), shapes.to(masks.dtype)


def _moved(images: Tensor, masks: Tensor, jitter: float, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
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
    shapes = F.grid_sample(masks.clamp(min=0).unsqueeze(1), grid, align_corners=False)
    return moved, shapes.squeeze(1).clamp(0, 1)


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


def make_twins(
    images: Shaped[Tensor, "B C *S"],
    masks: Shaped[Tensor, "B *M"],
    labels: Int[Tensor, " B"] | None = None,
    *,
    infill: str = "swap",
    generator: torch.Generator | None = None,
    feather: int = 1,
    grow: int = 1,
    jitter: float = 0.0,
    fill_donors: bool = True,
    limit: int | None = None,
) -> tuple[Float[Tensor, "N C *S"], Int[Tensor, " N"]]:
    """Each annotated object in front of another background, made on the images' device.

    The background, by `infill`:

    * `"swap"`: another image's, from `choose_donors`. Where the donor is annotated, its own object is grown by `grow`
      pixels and filled in from its surroundings first (unless `fill_donors=False`).
    * `"inpaint"`: the object's own colors, continued outward.
    * `"noise"`: Gaussian noise with the mean and the deviation of the image's own background, by channel.
    * `"shuffle"`: the image's own background without the object, cut into 8x8 patches that change places.

    Images without an annotation, with an empty or a full mask, or (for a swap) without anybody to lend a background
    get no twin; nor does one whose only donor is all object.

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
        fill_donors: False where a mask marks not an object but all that may matter. Then what it leaves out, of either
            image, is the donor's in the twin: a watermark is exchanged for another or for none, and put where none was.
        limit: at most this many twins, chosen at random.

    Returns:
        The twins, and the index of the image that each was made of, in order. Both may be empty.

    Raises:
        ConfigurationError: for an infill that is not known, or numbers that cannot be meant.
        BatchError: for images that are not in floating point.
        MaskError: for masks of another size, or with values outside {-1} and [0, 1].

    >>> twins, index = make_twins(torch.rand(2, 3, 8, 8), torch.eye(8).expand(2, 8, 8))
    >>> twins.shape, index.tolist()
    (torch.Size([2, 3, 8, 8]), [0, 1])
    """
    blend = Blend(infill, feather, grow, jitter, fill_donors)
    masks = _beside(images, masks)
    twins, _, index = make_masked_twins(images, masks, labels, blend, generator=generator, limit=limit)
    return twins, index


def make_masked_twins(
    images: Float[Tensor, "B C *S"],
    masks: Float[Tensor, "B *S"],
    labels: Int[Tensor, " B"] | None,
    blend: Blend,
    *,
    generator: torch.Generator | None = None,
    limit: int | None = None,
) -> tuple[Float[Tensor, "N C *S"], Float[Tensor, "N *S"], Int[Tensor, " N"]]:
    """`make_twins` with the masks of the twins, which move with their objects: twins, masks, index.

    Unknown pixels stay with the object, and stay unknown where it is not moved.
    """
    limit = len(images) if limit is None else min(limit, len(images))
    index, donors, counted = choose_twins(masks, labels, blend, limit=limit, generator=generator)
    index, donors = index[counted], donors[counted]
    return *blend_twins(images, masks, index, donors, blend, generator), index


def blend_twins(
    images: Float[Tensor, "B C *S"],
    masks: Float[Tensor, "B *S"],
    index: Int[Tensor, " N"],
    donors: Int[Tensor, " N"],
    blend: Blend,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "N C *S"], Float[Tensor, "N *S"]]:
    """Twins and their masks, whose unknown pixels are unknown again where the objects stayed in their place.

    Of clips `(B, C, T, H, W)` each frame is put before the donor's frame of that time.
    """
    if images.ndim == 5:
        length, frames = torch.arange(images.shape[2], device=images.device), images.transpose(1, 2)
        rows, lent = ((each.unsqueeze(1) * len(length) + length).flatten() for each in (index, donors))
        twins, shapes = blend_twins(frames.flatten(0, 1), masks.flatten(0, 1), rows, lent, blend, generator)
        return twins.view(-1, *frames.shape[1:]).transpose(1, 2), shapes.view(-1, *masks.shape[1:])
    twins, shapes = blend(images, solid(masks), index, donors, generator)
    return twins, shapes if blend.jitter else torch.where(masks[index] < 0, masks[index], shapes)


def choose_twins(
    masks: Float[Tensor, "B *S"],
    labels: Int[Tensor, " B"] | None,
    blend: Blend,
    *,
    limit: int,
    candidates: Bool[Tensor, " B"] | None = None,
    lenders: Bool[Tensor, " B"] | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"], Bool[Tensor, " N"]]:
    """Which images get a twin, and whose background, without a look at values: `limit` rows, not all of which count.

    Args:
        masks: all -1 without an annotation.
        labels: with them, a background from another class is preferred.
        blend: how twins are put together.
        limit: how many rows, at most as many as there are images.
        candidates: of which images twins may be made; by default of all that can have one.
        lenders: who may lend a background; by default everybody.
        generator: on the CPU; the global one if None.

    Returns:
        The images, in order; the donors; and which of these rows are twins.
    """
    masks = solid(masks)
    able = can_have_twin(masks, fill_donors=blend.fill_donors)
    candidates = able if candidates is None else able & candidates
    keys = torch.rand(len(masks), generator=generator).to(masks.device, non_blocking=True)
    index = torch.where(candidates, keys, -1.0).topk(limit).indices.sort().values
    if blend.infill != "swap":
        return index, index, candidates[index] & blend.changes(masks[index], masks[index])
    if len(masks) < 2:
        return index, index, torch.zeros_like(candidates[index])
    donors = choose_donors(masks, labels, fill_donors=blend.fill_donors, lenders=lenders, generator=generator)[index]
    counted = candidates[index] & (donors != index)
    if lenders is not None:
        counted &= lenders[donors]
    if not blend.fill_donors:
        return index, donors, counted & blend.changes(masks[index], masks[donors])
    return index, donors, counted & (masks[donors].flatten(1).amin(dim=1) < 1)  # who is all object lends nothing


def deal_backgrounds(
    images: Shaped[Tensor, "B C *S"],
    masks: Shaped[Tensor, "B *M"],
    labels: Int[Tensor, "B *L"] | None = None,
    *,
    infill: str = "swap",
    generator: torch.Generator | None = None,
    feather: int = 1,
    grow: int = 1,
    jitter: float = 0.0,
    fill_donors: bool = True,
    share: float = 1.0,
) -> tuple[Float[Tensor, "B C *S"], Float[Tensor, "B *S"], Int[Tensor, " N"]]:
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
        fill_donors: False where a mask marks not an object but all that may matter; see `make_twins`.
        share: of those that would become twins only so many do, at random, in [0, 1].

    Returns:
        Images and masks of the whole batch, and the index of the twins among them, in order. Fewer than two annotated
        images come back as they are.

    Raises:
        ConfigurationError: for an infill that is not known, or numbers that cannot be meant.
        BatchError: for images that are not in floating point.
        MaskError: for masks of another size, or with values outside {-1} and [0, 1].

    >>> images, masks = torch.rand(2, 3, 8, 8), torch.eye(8).expand(2, 8, 8)
    >>> dealt, _, index = deal_backgrounds(images, masks, torch.tensor([1, 1]))
    >>> bool((dealt == images).all()), len(index)
    (True, 0)
    """
    if not 0 <= share <= 1:
        raise ConfigurationError(f"share is a part of the twins in [0, 1]; got {share}.")
    blend = Blend(infill, feather, grow, jitter, fill_donors)
    masks = _beside(images, masks)
    mixed, masks, index, counted = deal(images, masks, labels, blend, share=share, generator=generator)
    return mixed, masks, index[counted]


def deal(
    images: Float[Tensor, "B C *S"],
    masks: Float[Tensor, "B *S"],
    labels: Int[Tensor, "B *L"] | None,
    blend: Blend,
    *,
    share: float = 1.0,
    rows: int | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "B C *S"], Float[Tensor, "B *S"], Int[Tensor, " N"], Bool[Tensor, " N"]]:
    """`deal_backgrounds` without a look at values: images, masks, the index of `rows` images, and which are twins.

    `rows` is how many are composed at most, by default all; who is beyond stays as it is.
    """
    rows = len(images) if rows is None else min(rows, len(images))
    able = can_have_twin(masks, fill_donors=blend.fill_donors)
    keys = torch.rand(len(images), generator=generator).to(masks.device, non_blocking=True)
    index = (~able).byte().argsort(stable=True)[:rows]  # those that are able, in order, then the others
    donors = torch.where(able, keys, 2.0).argsort(stable=True)[:rows]  # those that are able, shuffled
    whole = solid(masks)
    counted = able[index] & able[donors] & (index != donors) & blend.changes(whole[index], whole[donors])
    if labels is not None:
        differ = labels[index] != labels[donors]
        counted &= differ if differ.ndim == 1 else differ.any(dim=1)
    if share < 1:
        counted &= (torch.rand(rows, generator=generator) < share).to(masks.device, non_blocking=True)
    if ownership.are_at_hand(counted):  # then what does not count need not be composed
        index, donors, counted = index[counted], donors[counted], counted[counted]
    twins, shapes = blend_twins(images, masks, index, donors, blend, generator)
    twins = torch.where(counted.view(-1, *[1] * (images.ndim - 1)), twins.to(images.dtype), images[index])
    shapes = torch.where(counted.view(-1, *[1] * (masks.ndim - 1)), shapes, masks[index])
    return images.index_copy(0, index, twins), masks.index_copy(0, index, shapes), index, counted


def _beside(images: Tensor, masks: Tensor) -> Float[Tensor, "B *S"]:
    """The masks of these images, in floating point and without a channel; refused where they cannot be meant."""
    if not images.is_floating_point():
        raise BatchError(
            f"Twins are blended from images in floating point; got {images.dtype}: convert and scale them."
        )
    read, _ = read_masks(masks, images.ndim - 1)
    if read.shape != (len(images), *images.shape[2:]):
        raise MaskError(f"Masks {tuple(masks.shape)} are not of the size of the images {tuple(images.shape)}.")
    return read


def same_class_share(labels: Int[Tensor, "B *L"]) -> Float[Tensor, ""]:
    """How likely two images drawn from a batch are of one class, `sum p^2` of its frequencies; multi-hot: alike.

    >>> same_class_share(torch.tensor([0, 0, 1, 1]))
    tensor(0.5000)
    """
    if len(labels) == 0:
        return torch.ones((), device=labels.device)
    same = labels.unsqueeze(0) == labels.unsqueeze(1)
    return same.flatten(2).all(dim=2).float().mean() if same.ndim > 2 else same.float().mean()


def can_have_twin(masks: Float[Tensor, "B *S"], *, fill_donors: bool = True) -> Bool[Tensor, " B"]:
    """Which images have an object and a background: annotated, neither empty nor full.

    With `fill_donors=False` (see `make_twins`) also those that are full: theirs may be what another leaves out.

    >>> can_have_twin(torch.tensor([[[0.0, 1.0]], [[1.0, 1.0]], [[0.0, 0.0]], [[-1.0, -1.0]]]))
    tensor([ True, False, False, False])
    """
    flat = masks.flatten(1)
    high = flat.amax(dim=1)
    return (high > 0) & (torch.where(flat < 0, 1, flat).amin(dim=1) < 1) if fill_donors else high > 0


def choose_donors(
    masks: Float[Tensor, "B *S"],
    labels: Int[Tensor, " B"] | None = None,
    *,
    fill_donors: bool = True,
    lenders: Bool[Tensor, " B"] | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, " B"]:
    """For each image, whose background it gets: another image, at random among the best there are.

    An image of another class comes before one of the same (its background may be the very shortcut), and then one whose
    object can be removed before one without an annotation; one that is all object comes last. With `fill_donors=False`
    (see `make_twins`) there is no object to remove: all that are annotated are alike. With `lenders` nobody else is
    asked. A single image: itself.

    >>> choose_donors(torch.eye(4).expand(3, 4, 4), torch.tensor([0, 0, 1]))[:2].tolist()
    [2, 2]
    """
    count = len(masks)
    score = torch.rand(count, count, generator=generator).to(masks.device, non_blocking=True)
    score = score + can_have_twin(masks, fill_donors=fill_donors).float()
    if labels is not None:
        score = score + 2 * (labels.unsqueeze(0) != labels.unsqueeze(1)).float()
    if fill_donors:
        score = score - 3 * (masks.flatten(1).amin(dim=1) == 1).float()  # all object: no background to lend
    if lenders is not None:
        score = score.masked_fill(~lenders, -torch.inf)
    return score.fill_diagonal_(-torch.inf).argmax(dim=1)
