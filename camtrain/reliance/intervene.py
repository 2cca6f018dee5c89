"""Which image meets whose background, and the network asked: the same objects on many backgrounds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from camtrain.errors import BatchError
from camtrain.reliance.history import Album
from camtrain.reliance.records import Design, Effects, Pace, Pool, Predict
from camtrain.swaps.compositing import blend, cutout, fill_with_texture
from camtrain.swaps.looks import Look, look_of
from camtrain.tasks.answers import log_odds, probabilities

__all__ = [
    "FRAME",
    "NEAR_OBJECT",
    "Swap",
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


@dataclass(frozen=True)
class Swap:
    """A cue's exchange: masks are grown by ``margin`` pixels around the object that is kept, and by ``lent_margin``
    (None: twice as much) around the donor's object that is filled in, or off which a look is measured.
    """

    cue: str = "background"
    margin: int = 1
    lent_margin: int | None = None
    infill: "Infill" = fill_with_texture

    @property
    def look(self) -> Look | None:
        """What of the picture is exchanged where it is not the background."""
        return look_of(self.cue)

    @property
    def lent(self) -> int:
        """By how much the donor's mask grows."""
        return 2 * self.margin if self.lent_margin is None else self.lent_margin

    @property
    def name(self) -> str:
        """The look, or how holes are filled."""
        if self.look is not None:
            return self.look.name
        function = getattr(self.infill, "func", self.infill)
        name = getattr(function, "__name__", type(function).__name__).replace("_", " ")
        return f"{name}, masks grown by {self.margin} px"


Infill = Callable[[Tensor, Tensor], Tensor]  # donors' images and masks -> backgrounds without objects
Mix = Callable[[Tensor, Tensor], Tensor]  # rows of the pool, rows of the lenders


def predict_before(
    predict: Predict,
    pool: Pool,
    design: Design,
    *,
    pace: Pace = Pace(),  # noqa: B008  frozen
) -> Float[Tensor, "N D"]:
    """The probability that each untouched image gets for each class it will meet."""
    before = torch.full(design.classes.shape, torch.nan, dtype=torch.float32)
    for rows in _chunks(len(pool.labels), pace.batch_size):
        before[rows], _ = _read(predict, pool.images[rows].to(pace.device), design.classes[rows])
    return before


def intervene(
    predict: Predict,
    pool: Pool,
    design: Design,
    swap: Swap = Swap(),
    *,
    before: Float[Tensor, "N D"],
    lenders: Pool | None = None,
    pace: Pace = Pace(),  # noqa: B008  frozen
    album: Album | None = None,
) -> Effects:
    """Every image of the pool on every background of its design, or with the look of the donors'.

    ``lenders`` is the pool that the design's donors index, the images' own by default. ``predict`` maps images
    (B, C, H, W) on the pace's device to logits (B, classes). An ``album`` keeps what is composed for rounds of the same
    pools. Costs ``design.forwards`` image forwards.
    """

    @cache  # an album may hold all of the pictures
    def mix() -> Mix:
        return _mix(pool, lenders or pool, swap, pace)

    album = Album(budget=0) if album is None else album
    after = torch.full((*design.classes.shape, design.classes.shape[1]), torch.nan, dtype=torch.float32)
    answers = torch.full_like(design.donors, -1)
    pairs = (design.donors >= 0).nonzero()
    for chunk in _chunks(len(pairs), pace.batch_size):
        rows, arms = pairs[chunk].unbind(dim=1)
        donors = design.donors[rows, arms]
        key = swap.name, swap.cue, swap.margin, swap.lent_margin, *rows.tolist(), *donors.tolist()
        pictures = album.get(key, lambda: mix()(rows, donors)).to(pace.device)  # noqa: B023  called at once
        after[rows, arms], answers[rows, arms] = _read(predict, pictures, design.classes[rows])
        pace.progress(swap.name, len(rows), design.forwards)
    exchanged = 1 - pool.grown(swap.margin).clamp(min=0).mean(dim=(1, 2))
    parts = design.labels, design.classes, design.donors, before, after
    return Effects(swap.name, *parts, swap.cue, answers, exchanged)


def intervened(
    pool: Pool,
    image: int,
    lenders: Pool,
    donor: int,
    swap: Swap = Swap(),
) -> Float[Tensor, "C H W"]:
    """One image of the pool on one lender's background, or with its look, as `intervene` shows it to the model."""
    one, lent = (
        Pool(of.images[[row]], of.labels[[row]], of.masks[[row]]) for of, row in ((pool, image), (lenders, donor))
    )
    first = torch.zeros(1, dtype=torch.int64)
    return _mix(one, lent, swap, Pace(1, pool.images.device))(first, first)[0]


def bordered(pool: Pool) -> Pool:
    """The pool with masks that leave out a ring along the edge, a twelfth of the side wide, and nothing else.

    >>> bordered(Pool(torch.zeros(1, 1, 3, 3), torch.tensor([0]), torch.ones(1, 3, 3))).masks[0, 1].tolist()
    [0.0, 1.0, 0.0]
    """
    width = max(1, round(_RING * min(pool.images.shape[-2:])))
    masks = torch.zeros_like(pool.masks)
    masks[:, width:-width, width:-width] = 1
    return replace(pool, masks=masks)


def _mix(pool: Pool, lenders: Pool, swap: Swap, pace: Pace) -> Mix:
    """Images of the pool on lenders' backgrounds, or with their looks."""
    return _onto_backgrounds(pool, lenders, swap, pace) if swap.look is None else _with_looks(pool, lenders, swap, pace)


def _onto_backgrounds(pool: Pool, lenders: Pool, swap: Swap, pace: Pace) -> Mix:
    masks, device = lenders.grown(swap.lent), pace.device
    parts = [
        swap.infill(lenders.images[rows].to(device), masks[rows].to(device)).to(lenders.images.device)
        for rows in _chunks(len(masks), pace.batch_size)
    ]
    backgrounds = torch.cat(parts) if parts else lenders.images
    kept = cutout(pool.grown(swap.margin), feather=min(swap.margin, 1))

    def mix(rows: Tensor, donors: Tensor) -> Tensor:
        return blend(pool.images[rows].to(device), kept[rows].to(device), backgrounds[donors].to(device))

    return mix


def _with_looks(pool: Pool, lenders: Pool, swap: Swap, pace: Pace) -> Mix:
    look, device = swap.look, pace.device
    assert look is not None

    def measured(of: Pool) -> Tensor:
        masks, size = of.grown(swap.lent), pace.batch_size
        parts = [look.measure(of.images[r].to(device), masks[r].to(device)) for r in _chunks(len(masks), size)]
        return torch.cat(parts) if parts else of.images.new_zeros(0, 1)

    own = measured(pool)
    lent = own if lenders is pool else measured(lenders)
    kept = cutout(pool.grown(swap.margin), feather=min(swap.margin, 1))

    def mix(rows: Tensor, donors: Tensor) -> Tensor:
        images = pool.images[rows].to(device)
        changed = look.give(images, own[rows.to(own.device)], lent[donors.to(lent.device)])
        return changed if look.whole else blend(images, kept[rows].to(device), changed)

    return mix


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
