"""Pictures that a round composes, kept for the next: the same images and the same seed make the same pictures."""

import hashlib
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from camtrain.reliance.records import Pool

__all__ = ["Album"]

_FEW = 4096  # numbers that are no pictures, and kept as they are


class Album:
    """What was made of some pools, in half precision on the CPU, up to so many bytes; what does not fit is made anew.

    >>> album = Album()
    >>> [album.get("one", lambda: torch.ones(1)).item() for _ in range(2)], album.bytes
    ([1.0, 1.0], 4)
    """

    def __init__(self, budget: int = 2**29) -> None:
        self.budget, self.bytes = budget, 0
        self._kept: dict[Hashable, Tensor] = {}
        self._of = b""

    def __getstate__(self) -> dict[str, object]:
        """Another process, or a copy, makes its own."""
        return {"budget": self.budget, "bytes": 0, "_kept": {}, "_of": b""}

    def open(self, *pools: Pool | None) -> None:
        """Forget what was made of other pools."""
        if not self.budget:
            return
        digest = hashlib.blake2b(digest_size=16)
        for pool in pools:
            for part in () if pool is None else (pool.images, pool.labels, pool.masks):
                digest.update(part.contiguous().numpy().tobytes())
            digest.update(b"|")
        if digest.digest() != self._of:
            self.forget()
            self._of = digest.digest()

    def forget(self) -> None:
        """Hold nothing."""
        self._of, self._kept, self.bytes = b"", {}, 0

    def get(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """What was made under this key, in single precision on the CPU; else it is made, and kept if there is room."""
        if key in self._kept:
            return self._kept[key].float()
        made = make()
        dtype = torch.float16 if made.numel() > _FEW else torch.float32
        size = dtype.itemsize * made.numel()
        if self.bytes + size <= self.budget:
            self._kept[key] = made.detach().to("cpu", dtype)
            self.bytes += size
        return made
