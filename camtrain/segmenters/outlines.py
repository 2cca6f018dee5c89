"""The masks that a segmenter gives, each image's once: checked, and kept on the host."""

import hashlib
import zlib
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from camtrain.errors import MaskError
from camtrain.swaps.compositing import dilate

Segmenter = Callable[[Tensor], Tensor]


def segmented(segmenter: Segmenter, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B H W"]:
    """The segmenter's masks of these images. MaskError for what are none.

    >>> segmented(lambda images: (images[:, 0] > 0.5).float(), torch.ones(1, 3, 1, 2))
    tensor([[[1., 1.]]])
    """
    masks = segmenter(images)
    wanted = (len(images), *images.shape[2:])
    if not isinstance(masks, Tensor) or tuple(masks.shape) != wanted:
        got = tuple(masks.shape) if isinstance(masks, Tensor) else type(masks).__name__
        raise MaskError(f"A segmenter returns masks (B, H, W), here {wanted}; got {got}: drop a channel axis of one.")
    masks = masks.detach().float()
    if not bool((((masks >= 0) & (masks <= 1)) | (masks == -1)).all()):
        low, high = float(masks.min()), float(masks.max())
        raise MaskError(
            f"A segmenter's masks hold values in [0, 1], or are -1 where it cannot tell; got {low:g} to {high:g}: "
            "take the sigmoid of logits, divide 8-bit masks by 255."
        )
    return masks


class Outlines:
    """Masks by a segmenter, or by `guess_masks`: an image is not segmented twice, and its mirror image not at all.

    A segmenter takes images (B, C, H, W), as the model does and on its device, and returns masks (B, H, W) in [0, 1];
    one that is -1 everywhere says that it cannot tell. MaskError for anything else. Images are known by their content,
    so that what a data set crops or colors anew in every epoch is segmented anew. Masks are kept packed, at most so
    many bytes of them; then they are made anew.

    >>> outlines = Outlines(lambda images: (images[:, 0] > 0.5).float())
    >>> images = torch.tensor([[[[0.0, 1.0]]]])
    >>> outlines.of(images), outlines.of(images.flip(3)), outlines.asked
    (tensor([[[0., 1.]]]), tensor([[[1., 0.]]]), 1)
    """

    def __init__(self, segmenter: Segmenter | None = None, *, budget: int = 2**30) -> None:
        self.segmenter = segmenter or guess_masks
        self.budget = budget
        self.asked = 0  # how many images the segmenter was asked about
        self._size = 0
        self._packed: dict[bytes, bytes] = {}
        self._used: set[bytes] = set()

    def of(
        self,
        images: Float[Tensor, "B C H W"],
        *,
        batch_size: int = 64,
        device: torch.device | str | None = None,
        progress: Callable[[str, int, int], object] = lambda what, done, total: None,
    ) -> Float[Tensor, "B H W"]:
        """The masks of these images, on their device; the segmenter sees them on `device`, so many at a time."""
        if not len(images):
            return images.new_zeros(0, *images.shape[2:], dtype=torch.float32)
        host = images.detach().cpu()
        keys = [key_of(image) for image in host]
        masks = [self._kept(key, image) for key, image in zip(keys, host, strict=True)]
        missing = [row for row, mask in enumerate(masks) if mask is None]
        for start in range(0, len(missing), batch_size):
            rows = missing[start : start + batch_size]
            made = segmented(self.segmenter, images[rows].to(device or images.device)).half().cpu()
            for row, mask in zip(rows, made, strict=True):
                masks[row] = mask
                self._keep(keys[row], mask)
            self.asked += len(rows)
            progress("guessing masks", len(rows), len(missing))
        return torch.stack([mask for mask in masks if mask is not None]).float().to(images.device)

    def forget(self) -> None:
        """Drop what was not asked for since the last time."""
        self._packed = {key: mask for key, mask in self._packed.items() if key in self._used}
        self._size, self._used = sum(map(len, self._packed.values())), set()

    def _kept(self, key: bytes, image: Tensor) -> Tensor | None:
        mirrored = key not in self._packed
        if mirrored:
            key = key_of(image.flip(-1))
        if key not in self._packed:
            return None
        self._used.add(key)
        values = np.frombuffer(bytearray(zlib.decompress(self._packed[key])), np.float16)
        mask = torch.from_numpy(values).view(image.shape[1:])
        return mask.flip(-1) if mirrored else mask

    def _keep(self, key: bytes, mask: Tensor) -> None:
        packed = zlib.compress(mask.contiguous().numpy().tobytes(), 1)
        self._used.add(key)
        if key not in self._packed and self._size + len(packed) <= self.budget:
            self._packed[key] = packed
            self._size += len(packed)


def key_of(image: Tensor) -> bytes:
    """What an image is known by: its content."""
    return hashlib.blake2b(image.contiguous().view(torch.uint8).numpy().tobytes(), digest_size=16).digest()


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
