"""Where the object may be, for images that nobody annotated: GrabCut from the border, doubted by a second opinion.

A guess is worth something only where it misses no part of the object: what is missed is exchanged with the background
and looks like reliance. So images on which the two opinions differ are left out.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from camtrain.errors import MaskError
from camtrain.reliance.pool import key_of, usable
from camtrain.reliance.records import Pool, Progress
from camtrain.swaps.compositing import dilate

__all__ = ["Guesser", "guess_masks", "overhang"]

Segmenter = Callable[[Tensor], Tensor]


class Guesser:
    """Masks for pools that have none, by ``segmenter`` or `guess_masks`; an image is not segmented twice.

    A segmenter takes images (B, C, H, W), as the model does and on its device, and returns masks (B, H, W) in [0, 1];
    one that is -1 everywhere says that it cannot tell. MaskError for anything else.

    >>> guesser = Guesser(lambda images: (images[:, 0] > 0.5).float())
    >>> images = torch.zeros(1, 3, 4, 4)
    >>> images[..., 1:3, 1:3] = 1
    >>> guesser(Pool(images, torch.tensor([0]), torch.full((1, 4, 4), -1.0))).masks.sum().item()
    4.0
    """

    def __init__(self, segmenter: Segmenter | None = None) -> None:
        self.is_given = segmenter is not None  # by the user
        self.segmenter = segmenter or guess_masks
        self._known: dict[bytes, Tensor] = {}
        self._used: set[bytes] = set()

    def __call__(
        self,
        pool: Pool,
        *,
        batch_size: int = 64,
        device: torch.device | str = "cpu",
        progress: Progress = lambda what, done, total: None,
    ) -> Pool:
        """The pool with masks, without the images of which nothing usable was found."""
        keys = [key_of(image) for image in pool.images]
        missing = [row for row, key in enumerate(keys) if key not in self._known]
        for start in range(0, len(missing), batch_size):
            rows = missing[start : start + batch_size]
            masks = self.segment(pool.images[rows].to(device)).cpu()
            self._known.update((keys[row], mask.half()) for row, mask in zip(rows, masks, strict=True))
            progress("guessing masks", len(rows), len(missing))
        if not keys:
            return pool
        self._used.update(keys)
        found = torch.stack([self._known[key] for key in keys]).float()
        fit = usable(found)
        return Pool(pool.images[fit], pool.labels[fit], found[fit])

    def forget(self) -> None:
        """Drop what was not asked for since the last time."""
        self._known = {key: mask for key, mask in self._known.items() if key in self._used}
        self._used = set()

    def segment(self, images: Tensor) -> Tensor:
        """The segmenter's masks, checked."""
        masks = self.segmenter(images)
        wanted = (len(images), *images.shape[2:])
        if not isinstance(masks, Tensor) or tuple(masks.shape) != wanted:
            got = tuple(masks.shape) if isinstance(masks, Tensor) else type(masks).__name__
            raise MaskError(
                f"A segmenter returns masks (B, H, W), here {wanted}; got {got}: drop a channel axis of one."
            )
        masks = masks.detach().float()
        if not bool((((masks >= 0) & (masks <= 1)) | (masks == -1)).all()):
            low, high = float(masks.min()), float(masks.max())
            raise MaskError(
                f"A segmenter's masks hold values in [0, 1], or are -1 where it cannot tell; got {low:g} to {high:g}: "
                "take the sigmoid of logits, divide 8-bit masks by 255."
            )
        return masks


def guess_masks(images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B H W"]:
    """A mask of what stands out from the border, 1 on it; all -1 where that cannot be told.

    GrabCut (Rother et al. 2004) is started twice: from a rectangle just inside the border, and from where the minimum
    barrier distance to the border is large; the two results are joined. A plain frame is taken off first. An image is
    given up where the result is next to nothing, or leaves out half of what has a large barrier distance: a small
    striking thing was taken for the object then. Images may have any range and number of channels. The same image
    gets the same mask; random states of PyTorch, NumPy and of OpenCV in this thread stay as they are.

    >>> image = torch.full((1, 3, 32, 32), 0.25)
    >>> image[:, 0, 8:24, 10:22] = 1.0
    >>> mask = guess_masks(image)
    >>> bool(mask[0, 16, 16] == 1), bool(mask[0, 0, 0] == 0)
    (True, True)
    """
    if len(images) == 0:
        return images.new_zeros(0, *images.shape[2:])
    from camtrain.reliance.grabcut import cut_out  # OpenCV is loaded where a mask is guessed

    return cut_out(images)


def overhang(
    images: Float[Tensor, "B C H W"], masks: Float[Tensor, "B H W"], *, margin: int = 1
) -> Float[Tensor, " B"]:
    """The share of the rim around the mask that belongs to what stands out from the border: is a mask too small.

    The rim is ``margin`` pixels wide and ``margin`` pixels off: what lies nearer is kept with the object in every swap.
    A shadow or a patch of grass covers a part of it, an object that the mask cuts off most. NaN where nothing can be
    guessed, or the guess covers less than half of the mask and is something else.

    >>> image = torch.full((1, 3, 32, 32), 0.25)
    >>> image[:, 0, 8:24, 10:22] = 1.0
    >>> whole, part = torch.zeros(2, 1, 32, 32)
    >>> whole[:, 8:24, 10:22] = part[:, 12:20, 13:19] = 1
    >>> [overhang(image, masks).item() for masks in (whole, part)]
    [0.0, 1.0]
    """
    guesses, marked = guess_masks(images), (masks > 0.5).float()
    rim = dilate(marked, 2 * margin) - dilate(marked, margin)
    known, size = guesses.clamp(min=0), marked.sum(dim=(1, 2))
    same = (known * marked).sum(dim=(1, 2)) > size / 2
    return torch.where(same, (known * rim).sum(dim=(1, 2)) / rim.sum(dim=(1, 2)), torch.nan)
