"""Masks for images that came to alignment without one: made by a segmenter, guessed, or of where something was found.

A made mask says how sure it is: soft values count by their value, unknown pixels (-1) stay with the object and
are not penalized, and an image of which nothing can be told is left out, as one without an annotation.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from camtrain.data.batches import Batch
from camtrain.errors import ConfigurationError
from camtrain.segmenters import Outlines, guess_masks
from camtrain.swaps.compositing import dilate

Box = tuple[float, float, float, float]  # left, top, width and height in fractions of the frame
SHOWN = 24  # images on the sheet, as they come
MOST = 0.9  # of the frame: a mask of more outlines nothing
GROWN = (-2, -1, 0, 1, 2, 3)  # 64ths of the side by which made masks are tried to be grown
ENOUGH = 8  # annotated images to calibrate by
TRUSTED = 0.4  # the overlap with annotated masks, below which made ones are not used
PATIENCE = 2  # rounds in which a way of making masks may not have helped yet
_WAYS = {"found": "of the places that were found", "guess": "by guess", "segmenter": "by the segmenter"}
_NO_PLACE = (
    "is told to correct what was found, and what {name} leans on ({cue}) has no place: it does nothing. With "
    "segmenter='auto' objects are guessed instead"
)
_CHANGES = "makes masks {now} from here on: {name} still leans on its cue after rounds of those {before}"
_AROUND = 1 / 16  # of the side, that a place which was found is grown by


@dataclass(frozen=True)
class Sheet:
    """Some images whose masks were to be made, for a person to look at: all -1 where nothing could be told."""

    images: Float[Tensor, "N C H W"]
    masks: Float[Tensor, "N H W"]
    labels: Sequence[int]
    remark: str = ""


class MaskMaker:
    """Completes batches: an image without an annotation gets a mask that is made.

    Masks that are given stay as they are. Where there are `ENOUGH` of them, made ones are compared with them: they are
    grown or shrunk to fit these best, and not used where even so they overlap by less than `TRUSTED`.

    Args:
        segmenter: from images (B, C, H, W), as the model takes them, to masks (B, H, W) in [0, 1], -1 where it cannot
            tell; asked once per image. "guess": `guess_masks`. "found": no object, but all that lies off the places
            where a detector found what a class leans on (`places`). "auto": those, where they are known; else guesses.
        mask_kind: what a mask is of; of what must not matter only a segmenter of one's own can make any.

    >>> maker = MaskMaker(lambda images: (images[:, 0] > 0.5).float())
    >>> images = torch.zeros(1, 1, 1, 2)
    >>> images[..., 1] = 1
    >>> maker.complete(Batch(images)).masks
    tensor([[[0., 1.]]])
    """

    def __init__(
        self,
        segmenter: str | Callable[..., Any],
        *,
        mask_kind: Literal["object", "forbidden"] = "object",
    ) -> None:
        if isinstance(segmenter, str) and segmenter not in ("guess", "found", "auto"):
            raise ConfigurationError(
                f"segmenter is 'guess', 'found', 'auto', None, or a function from images to masks; got {segmenter!r}."
            )
        if isinstance(segmenter, str) and mask_kind == "forbidden":
            raise ConfigurationError(
                f"segmenter={segmenter!r} makes masks of objects, and mask_kind='forbidden' reads masks of what must "
                "not matter: leave mask_kind, or give a function that makes such masks."
            )
        self.segmenter = segmenter
        self.outlines = Outlines(guess_masks if isinstance(segmenter, str) else segmenter)
        self.fit = Fit()
        self.begin_anew()

    def begin_anew(self) -> None:
        """As if no detector had said anything yet; what was segmented stays known."""
        self.places: tuple[Box, ...] = ()
        self.by_place = self.segmenter == "found"  # whether masks are of where something was found, not of objects
        self._verdicts: Sequence[Any] = ()  # that were looked at
        self._rounds = 0  # that found something in spite of what was made
        self._used = False
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        self.given = self.made = self.left_out = 0
        self._shown: list[tuple[Tensor, Tensor, int]] = []

    @property
    def way(self) -> str:
        """How masks are made now."""
        if self.by_place:
            return "found"
        return "guess" if isinstance(self.segmenter, str) else "segmenter"

    def look_at(self, verdicts: Sequence[Any]) -> str:
        """Learn of a detector's round where a cue lies, and change the way that did not help; what there is to say.

        Places are added to what is known, since what is corrected is not found again. "auto" begins with them if every
        class that is reliant has one, else with guesses, and takes the other way where two rounds say that the one has
        not helped. "found" takes the places of suspects as well, where nothing is sure.
        """
        if not verdicts or verdicts is self._verdicts or self.segmenter not in ("found", "auto"):
            return ""
        self._verdicts = verdicts
        rows = [row for row in verdicts if row.verdict == "reliant"]
        if self.segmenter == "found":
            rows = rows or [row for row in verdicts if row.verdict == "suspect"]
        placed = bool(rows) and all(row.box is not None for row in rows)
        self.places = tuple(dict.fromkeys([*self.places, *(row.box for row in rows if row.box is not None)]))
        if self.segmenter == "found":
            return "" if self.places or not rows else _NO_PLACE.format(name=rows[0].class_name, cue=rows[0].cue)
        if not self._used:
            self.by_place = placed
            return ""
        self._rounds = self._rounds + 1 if rows else 0
        if self._rounds < PATIENCE or not (self.by_place or placed):
            return ""
        before, self.by_place, self._rounds = self.way, not self.by_place, 0
        return _CHANGES.format(name=rows[0].class_name, before=_WAYS[before], now=_WAYS[self.way])

    def state(self) -> dict[str, Any]:
        """For a checkpoint: where something was found, and how masks are made."""
        return {"places": [list(place) for place in self.places], "by_place": self.by_place, "used": self._used}

    def restore(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint."""
        self.places = tuple((left, top, wide, tall) for left, top, wide, tall in state["places"])
        self.by_place, self._used = state["by_place"], state["used"]

    def complete(self, batch: Batch) -> Batch:
        """The batch with a mask for every image of which one can be told; images are (B, C, H, W).

        Where masks are given one for each label, it stays as it is.
        """
        if batch.images.ndim != 4:
            raise ConfigurationError(
                f"Masks are made for images (B, C, H, W); got {tuple(batch.images.shape)}. Give masks of your own."
            )
        masks = batch.masks
        if masks is not None and masks.ndim == batch.images.ndim:  # one for each label
            return batch
        if masks is None:
            masks = batch.images.new_full((len(batch), *batch.images.shape[2:]), -1, dtype=torch.float32)
        self._used = True
        bare = (masks < 0).flatten(1).all(dim=1)
        if self.by_place:  # the object of a mask that is given would be lent with its background
            bare = torch.ones_like(bare)
        made = self._made(batch.images, masks, bare)
        done = torch.where(bare.view(-1, 1, 1), made.to(masks), masks)
        known = (done >= 0).flatten(1).any(dim=1)
        self._count(batch, done, bare, known)
        return replace(batch, masks=done)

    def end_epoch(self) -> Sheet | None:
        """Some of the images whose masks were to be made in the epoch, and what there is to say; None for none."""
        shown, total = self._shown, self.given + self.made + self.left_out
        remark = (
            f"{self.given} masks given and {self.made} made {_WAYS[self.way]}, of {total} images in an epoch; of "
            f"{self.left_out} nothing can be told{self.fit.remark()}"
        )
        self._begin_epoch()
        if not shown:
            return None
        images, masks, labels = zip(*shown, strict=True)
        return Sheet(torch.stack(images), torch.stack(masks), labels, remark)

    def _made(self, images: Tensor, masks: Tensor, bare: Bool[Tensor, " B"]) -> Tensor:
        if self.by_place:
            return forbidden(self.places, masks) if self.places else torch.full_like(masks, -1)
        made = torch.full_like(masks, -1, dtype=torch.float32)
        asked = bare | torch.full_like(bare, not self.fit.is_settled)
        rows = asked.nonzero().flatten()
        found = self.outlines.of(images[rows])
        made[rows] = torch.where(_outlines_something(found).view(-1, 1, 1), found, -1)
        if not self.fit.is_settled:
            self.fit.see(masks[~bare], made[~bare])
        return self.fit(made)

    def _count(self, batch: Batch, masks: Tensor, bare: Tensor, known: Tensor) -> None:
        given, made = int((~bare).sum()), int((bare & known).sum())
        self.given, self.made = self.given + given, self.made + made
        self.left_out += len(batch) - given - made
        for row in bare.nonzero().flatten()[: SHOWN - len(self._shown)].tolist():
            label = -1 if batch.labels is None or batch.labels.ndim > 1 else int(batch.labels[row])
            self._shown.append((batch.images[row].detach().cpu(), masks[row].cpu(), label))


class Fit:
    """How made masks fit the annotated ones: by how much they should be grown, and whether they can be trusted.

    >>> fit = Fit()
    >>> truth = torch.zeros(8, 64, 64)
    >>> truth[:, 20:40, 20:40] = 1
    >>> small = torch.zeros(8, 64, 64)
    >>> small[:, 22:38, 22:38] = 1
    >>> fit.see(truth, small)
    >>> fit.grown, round(fit.overlap, 2), torch.equal(fit(small), truth)
    (2, 1.0, True)
    """

    most = 64  # annotated images to look at

    def __init__(self) -> None:
        self.images = 0
        self._overlaps = torch.zeros(len(GROWN))

    @property
    def is_settled(self) -> bool:
        """Whether enough was seen."""
        return self.images >= self.most

    @property
    def is_known(self) -> bool:
        """Whether anything can be said."""
        return self.images >= ENOUGH

    @property
    def grown(self) -> int:
        """The 64ths of the side by which made masks are grown."""
        return GROWN[int(self._overlaps.argmax())] if self.is_known else 0

    @property
    def overlap(self) -> float:
        """The mean over images of intersection over union, as grown; NaN where nothing is known."""
        return float(self._overlaps.max()) / self.images if self.is_known else float("nan")

    def see(self, masks: Float[Tensor, "B H W"], made: Float[Tensor, "B H W"]) -> None:
        """Compare made masks with given ones; where none could be made there is nothing to compare."""
        told = (made >= 0).flatten(1).any(dim=1)
        truth, made = masks[told].clamp(min=0).cpu(), made[told].clamp(min=0).cpu()
        if len(truth):
            self.images += len(truth)
            self._overlaps += torch.stack([_overlap(truth, grow(made, by)).sum() for by in GROWN])

    def __call__(self, made: Float[Tensor, "B H W"]) -> Float[Tensor, "B H W"]:
        """Made masks as they fit best; all -1 where they do not."""
        if not self.is_known:
            return made
        if self.overlap < TRUSTED:
            return torch.full_like(made, -1)
        return torch.where(made < 0, made, grow(made.clamp(min=0), self.grown))

    def remark(self) -> str:
        """In words."""
        if not self.is_known:
            return ""
        used = "they are not used" if self.overlap < TRUSTED else f"they are grown by {self.grown}/64 of the side"
        return f"; beside {self.images} given ones they overlap by {self.overlap:.0%}, and {used}"


def grow(masks: Float[Tensor, "B H W"], by: int) -> Float[Tensor, "B H W"]:
    """The masks grown by so many 64ths of the side, or shrunk, by one pixel at the least; 0 leaves them.

    >>> grow(torch.tensor([[[0.0, 1.0, 1.0, 1.0, 0.0]]]), -1)
    tensor([[[0., 0., 1., 0., 0.]]])
    """
    if by == 0:
        return masks
    pixels = max(1, round(abs(by) * min(masks.shape[1:]) / 64))
    return dilate(masks, pixels) if by > 0 else 1 - dilate(1 - masks, pixels)


def forbidden(places: Sequence[Box], like: Float[Tensor, "B H W"]) -> Float[Tensor, "B H W"]:
    """Masks of all that lies off these places, which are grown a little: 0 there, 1 elsewhere.

    >>> forbidden([(0.0, 0.0, 0.5, 1.0)], torch.zeros(1, 1, 8))
    tensor([[[0., 0., 0., 0., 0., 1., 1., 1.]]])
    """
    height, width = like.shape[1:]
    masks = torch.ones_like(like, dtype=torch.float32)
    for left, top, wide, tall in places:
        down, right = max(1, round(_AROUND * height)), max(1, round(_AROUND * width))
        rows = slice(max(0, round(top * height) - down), round((top + tall) * height) + down)
        columns = slice(max(0, round(left * width) - right), round((left + wide) * width) + right)
        masks[:, rows, columns] = 0
    return masks


def _outlines_something(masks: Tensor) -> Bool[Tensor, " B"]:
    share = masks.clamp(min=0).mean(dim=(1, 2))
    return (masks >= 0).flatten(1).any(dim=1) & (share > 0) & (share <= MOST)


def _overlap(first: Tensor, second: Tensor) -> Float[Tensor, " B"]:
    both, either = torch.minimum(first, second).sum(dim=(1, 2)), torch.maximum(first, second).sum(dim=(1, 2))
    return both / either.clamp(min=1e-6)
