"""Which image meets whose background, and the network asked: the same objects on many backgrounds."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from camtrain.errors import BatchError
from camtrain.reliance.history import Album
from camtrain.reliance.records import Design, Effects, Pool, Predict, Progress
from camtrain.swaps.compositing import blend, cutout, fill_with_texture
from camtrain.swaps.looks import Look
from camtrain.tasks.answers import log_odds, probabilities

__all__ = [
    "FRAME",
    "NEAR_OBJECT",
    "bordered",
    "choose_donors",
    "intervene",
    "intervened",
    "log_odds",
    "predict_before",
    "probabilities",
    "restrict",
]

FRAME = "frame"  # a ring along the border of the picture
NEAR_OBJECT = "background close to the object"
_RING = 1 / 12  # of the side

Infill = Callable[[Tensor, Tensor], Tensor]  # donors' images and masks -> backgrounds without objects
Mix = Callable[[Tensor, Tensor], Tensor]  # rows of the pool, rows of the lenders


def predict_before(
    predict: Predict, pool: Pool, design: Design, *, batch_size: int = 64, device: torch.device | str = "cpu"
) -> Float[Tensor, "N D"]:
    """The probability that each untouched image gets for each class it will meet."""
    before = torch.full(design.classes.shape, torch.nan, dtype=torch.float32)
    for rows in _chunks(len(pool.labels), batch_size):
        before[rows], _ = _read(predict, pool.images[rows].to(device), design.classes[rows])
    return before


def intervene(
    predict: Predict,
    pool: Pool,
    design: Design,
    *,
    before: Float[Tensor, "N D"],
    lenders: Pool | None = None,
    infill: Infill = fill_with_texture,
    look: Look | None = None,
    margin: int = 1,
    lent_margin: int | None = None,
    cue: str | None = None,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    progress: Progress = lambda what, done, total: None,
    album: Album | None = None,
) -> Effects:
    """Every image of the pool on every background of its design, at most ``batch_size`` images at a time.

    ``lenders`` is the pool that the design's donors index, the images' own by default. With a ``look`` images keep
    their background, and it gets the look of the donors'.

    ``predict`` maps images (B, C, H, W) on ``device`` to logits (B, classes). Masks are grown by ``margin``
    pixels around the object that is kept, and by ``lent_margin`` (twice as much) around the donor's object that is
    filled in, or off which a look is measured. ``cue`` names what is exchanged; by default it is the look's name, or
    "background". ``progress`` hears of every forward. An ``album`` keeps what is composed for rounds of the same pools.
    Costs ``design.forwards`` image forwards.
    """
    name = _name(infill, margin) if look is None else look.name

    @cache  # an album may hold all of the pictures
    def mix() -> Mix:
        if look is None:
            return _onto_backgrounds(pool, lenders or pool, infill, margin, lent_margin, batch_size, device)
        return _with_looks(pool, lenders or pool, look, margin, lent_margin, batch_size, device)

    album = Album(budget=0) if album is None else album
    named = cue or ("background" if look is None else look.name)
    arms_met = design.classes.shape[1]
    after = torch.full((*design.classes.shape, arms_met), torch.nan, dtype=torch.float32)
    answers = torch.full_like(design.donors, -1)
    pairs = (design.donors >= 0).nonzero()
    for chunk in _chunks(len(pairs), batch_size):
        rows, arms = pairs[chunk].unbind(dim=1)
        donors = design.donors[rows, arms]
        key = name, named, margin, lent_margin, *rows.tolist(), *donors.tolist()
        pictures = album.get(key, lambda: mix()(rows, donors)).to(device)  # noqa: B023  called at once
        after[rows, arms], answers[rows, arms] = _read(predict, pictures, design.classes[rows])
        progress(name, len(rows), design.forwards)
    exchanged = 1 - pool.grown(margin).clamp(min=0).mean(dim=(1, 2))
    return Effects(name, design.labels, design.classes, design.donors, before, after, named, answers, exchanged)


def intervened(
    pool: Pool,
    image: int,
    lenders: Pool,
    donor: int,
    *,
    infill: Infill = fill_with_texture,
    look: Look | None = None,
    margin: int = 1,
    lent_margin: int | None = None,
) -> Float[Tensor, "C H W"]:
    """One image of the pool on one lender's background, or with its look, as `intervene` shows it to the model."""
    one, lent = (
        Pool(of.images[[row]], of.labels[[row]], of.masks[[row]]) for of, row in ((pool, image), (lenders, donor))
    )
    device = pool.images.device
    if look is None:
        mix = _onto_backgrounds(one, lent, infill, margin, lent_margin, 1, device)
    else:
        mix = _with_looks(one, lent, look, margin, lent_margin, 1, device)
    first = torch.zeros(1, dtype=torch.int64)
    return mix(first, first)[0]


def bordered(pool: Pool) -> Pool:
    """The pool with masks that leave out a ring along the edge, a twelfth of the side wide, and nothing else.

    >>> bordered(Pool(torch.zeros(1, 1, 3, 3), torch.tensor([0]), torch.ones(1, 3, 3))).masks[0, 1].tolist()
    [0.0, 1.0, 0.0]
    """
    width = max(1, round(_RING * min(pool.images.shape[-2:])))
    masks = torch.zeros_like(pool.masks)
    masks[:, width:-width, width:-width] = 1
    return replace(pool, masks=masks)


def _name(infill: Infill, margin: int) -> str:
    function = getattr(infill, "func", infill)
    name = getattr(function, "__name__", type(function).__name__).replace("_", " ")
    return f"{name}, masks grown by {margin} px"


def _onto_backgrounds(
    pool: Pool,
    lenders: Pool,
    infill: Infill,
    margin: int,
    lent_margin: int | None,
    batch_size: int,
    device: torch.device | str,
) -> Mix:
    """Images of the pool on lenders' backgrounds."""
    grown = 2 * margin if lent_margin is None else lent_margin
    backgrounds = _backgrounds(lenders, infill, grown, batch_size, device)
    kept = cutout(pool.grown(margin), feather=min(margin, 1))

    def mix(rows: Tensor, donors: Tensor) -> Tensor:
        return blend(pool.images[rows].to(device), kept[rows].to(device), backgrounds[donors].to(device))

    return mix


def _with_looks(
    pool: Pool,
    lenders: Pool,
    look: Look,
    margin: int,
    lent_margin: int | None,
    batch_size: int,
    device: torch.device | str,
) -> Mix:
    """Images of the pool with lenders' looks."""

    def measured(of: Pool) -> Tensor:
        masks = of.grown(2 * margin if lent_margin is None else lent_margin)
        parts = [look.measure(of.images[r].to(device), masks[r].to(device)) for r in _chunks(len(masks), batch_size)]
        return torch.cat(parts) if parts else of.images.new_zeros(0, 1)

    own = measured(pool)
    lent = own if lenders is pool else measured(lenders)
    kept = cutout(pool.grown(margin), feather=min(margin, 1))

    def mix(rows: Tensor, donors: Tensor) -> Tensor:
        images = pool.images[rows].to(device)
        changed = look.give(images, own[rows.to(own.device)], lent[donors.to(lent.device)])
        return changed if look.whole else blend(images, kept[rows].to(device), changed)

    return mix


def _backgrounds(pool: Pool, infill: Infill, margin: int, batch_size: int, device: torch.device | str) -> Tensor:
    if len(pool.images) == 0:
        return pool.images
    home = pool.images.device
    masks = pool.grown(margin)
    return torch.cat(
        [
            infill(pool.images[rows].to(device), masks[rows].to(device)).to(home)
            for rows in _chunks(len(masks), batch_size)
        ]
    )


def _chunks(length: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, length, size)]


def _read(predict: Predict, images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """The probability of each image's classes, and the class that it is taken for."""
    found = probabilities(predict(images)).cpu()
    if found.shape[0] != len(images) or int(classes.max()) >= found.shape[1]:
        raise BatchError(
            f"predict must return logits for {len(images)} images and class {int(classes.max())}; got shape"
            f" {tuple(found.shape)}: return (B, classes) logits, or name the classes to examine"
        )
    return found.gather(1, classes), found.argmax(dim=1)


def choose_donors(
    labels: Int[Tensor, " N"],
    classes: Sequence[int],
    *,
    lenders: Int[Tensor, " M"] | None = None,
    arms: int = 8,
    generator: torch.Generator,
) -> Design:
    """One donor of its own class and one of each of up to ``arms - 1`` other classes for every image.

    ``lenders`` are the labels of the images that lend; without them the images lend to each other, never to
    themselves. Of more than ``arms`` classes each meets the ones at the same random distances in ``classes``, so that
    all lend and borrow equally often. Within a pair of classes every donor serves at most once (images that find none
    left get -1). The same generator state gives the same design.

    >>> design = choose_donors(torch.tensor([0, 0, 1, 1]), (0, 1), generator=torch.Generator().manual_seed(0))
    >>> design.classes.tolist()
    [[0, 1], [0, 1], [1, 0], [1, 0]]
    >>> design.donors[:, 0].tolist()
    [1, 0, 3, 2]
    """
    order = sorted(classes)
    shifts = torch.randperm(len(order) - 1, generator=generator)[: arms - 1].sort().values + 1
    distances = [0, *shifts.tolist()]
    donors = torch.full((len(labels), len(distances)), -1)
    met = torch.full((len(labels), len(distances)), -1)
    for place, c in enumerate(order):
        own = _shuffled(labels == c, generator)
        for arm, distance in enumerate(distances):
            other = order[(place + distance) % len(order)]
            if lenders is None and other == c:
                lending = own.roll(1)[: len(own) if len(own) > 1 else 0]
            else:
                lending = _shuffled((labels if lenders is None else lenders) == other, generator)
            # the same images come first in every arm, so that few donors leave whole rows
            pairs = min(len(own), len(lending))
            donors[own[:pairs], arm] = lending[:pairs]
            met[own, arm] = other
    return Design(labels, met, donors)


def restrict(design: Design, arms: int, most: int | None = None) -> Design:
    """The first ``arms`` arms of a design; with donors for the first ``most`` images of a class alone.

    >>> design = Design(torch.tensor([0]), torch.tensor([[0, 1, 2]]), torch.tensor([[-1, 4, 7]]))
    >>> restrict(design, 2).classes.tolist()
    [[0, 1]]
    """
    donors = design.donors[:, :arms]
    if most is not None:
        same = design.labels.unsqueeze(1) == design.labels
        earlier = same.tril(-1).sum(dim=1)  # images of its class before it
        donors = torch.where((earlier < most).unsqueeze(1), donors, -1)
    return replace(design, classes=design.classes[:, :arms], donors=donors)


def _shuffled(chosen: Bool[Tensor, " N"], generator: torch.Generator) -> Int[Tensor, " n"]:
    indices = chosen.nonzero().flatten()
    return indices[torch.randperm(len(indices), generator=generator)]
