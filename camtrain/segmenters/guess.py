"""Where the object may be, for images that nobody annotated: GrabCut from the border, doubted by a second opinion.

A guess is worth something only where it misses no part of the object: what is missed is exchanged with the background
and looks like reliance. So images on which the two opinions differ are left out.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from camtrain.swaps.compositing import dilate

__all__ = ["guess_masks", "overhang"]


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
    from camtrain.segmenters.grabcut import cut_out  # OpenCV is loaded where a mask is guessed

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
