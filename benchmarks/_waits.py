"""How often a piece of code waits for the device: each wait empties a GPU's queue, and no CPU second shows it."""

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "equal")


class Waits(TorchDispatchMode):
    """Counts the operations that read a value back, by name; on a GPU these are the ones that wait.

    >>> with Waits() as waits:
    ...     _ = torch.ones(3)[torch.tensor([True, False, True])].sum().item()
    >>> sorted(waits.counts)
    ['_local_scalar_dense', 'index']
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masked = name in ("index", "index_put_", "index_put") and any(
            each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1]
        )
        if name in WAITING or masked:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def counted_waits(device: str) -> Iterator[Counter[str]]:
    """Waits of what runs inside: on a GPU what CUDA's own debug mode reports, on a CPU what would wait there."""
    if not device.startswith("cuda"):
        with Waits() as waits:
            yield waits.counts
        return
    counts: Counter[str] = Counter()
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield counts
        finally:
            torch.cuda.set_sync_debug_mode(before)
    synchronizing = [each for each in caught if "synchroniz" in str(each.message)]
    counts.update(f"{each.filename.rpartition('/')[2]}:{each.lineno}" for each in synchronizing)
