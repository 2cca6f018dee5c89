"""Annotated images of earlier batches, so that a handful of masks makes twins in every step."""

import torch
from torch import Tensor

from camtrain.losses import can_have_twin


class Memory:
    """The last `size` images that can have a twin, as the network took them, on their device; a ring.

    It starts anew where images of another size or device come. `fill_donors` is that of `make_twins`.

    >>> memory = Memory(2)
    >>> memory.remember(torch.rand(3, 1, 4, 4), torch.eye(4).expand(3, 4, 4), torch.arange(3))
    >>> len(memory), sorted(memory.recall(5, torch.Generator())[2].tolist())
    (2, [1, 2])
    """

    def __init__(self, size: int, fill_donors: bool = True) -> None:
        self.size, self.fill_donors = size, fill_donors
        self._kept: tuple[Tensor, Tensor, Tensor] | None = None
        self._noted: tuple[Tensor, Tensor, Tensor] | None = None
        self._next = self._filled = 0

    def __len__(self) -> int:
        return self._filled

    def note(self, images: Tensor, masks: Tensor, labels: Tensor) -> None:
        """Remember these once the step is over, and in place of what was noted before."""
        self._noted = images, masks, labels

    def settle(self) -> None:
        """The step is over."""
        if self._noted is not None:
            self.remember(*self._noted)
        self._noted = None

    def remember(self, images: Tensor, masks: Tensor, labels: Tensor) -> None:
        """Keep the rows that can have a twin, in place of the oldest."""
        if not self.size:
            return
        rows = can_have_twin(masks, fill_donors=self.fill_donors).nonzero().flatten()[-self.size :]
        if len(rows) == 0:
            return
        if not self.fits(images):
            self._kept = tuple(part.new_zeros(self.size, *part.shape[1:]) for part in (images, masks, labels))  # type: ignore[assignment]
            self._next = self._filled = 0
        assert self._kept is not None
        slots = (torch.arange(len(rows), device=images.device) + self._next) % self.size
        for kept, part in zip(self._kept, (images, masks, labels), strict=True):
            kept[slots] = part[rows].detach().to(kept.dtype)
        self._next = (self._next + len(rows)) % self.size
        self._filled = min(self._filled + len(rows), self.size)

    def recall(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """At most `count` of the kept images with their masks and labels, at random without repetition."""
        assert self._kept is not None
        chosen = torch.randperm(self._filled, generator=generator)[:count].to(self._kept[0].device)
        images, masks, labels = (part[chosen] for part in self._kept)
        return images, masks, labels

    def fits(self, images: Tensor) -> bool:
        """Whether it keeps images of such a size, on the same device."""
        kept = self._kept
        return kept is not None and kept[0].shape[1:] == images.shape[1:] and kept[0].device == images.device
