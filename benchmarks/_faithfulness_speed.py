"""Insertion and deletion of the same maps: camtrain beside the fastest peer, one after the other."""

import importlib.util
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from _report import median_and_spread
from torch import Tensor, nn

from camtrain.metrics import insertion_deletion

Areas = tuple[float, float]


def speed(model: nn.Module, images: Tensor, steps: int, rounds: int, max_batch: int) -> dict[str, Any]:
    """Medians over rounds, and the largest difference of the mean areas; without the peer, ours alone.

    Each round runs both, the order reversed every time, after one that warms up. On a CPU its own time is taken, which
    other work on the machine does not lengthen as it does the time on the wall.
    """
    heat = torch.rand(len(images), 7, 7, generator=torch.Generator().manual_seed(0)).to(images.device)
    runs = {"ours": _ours(model, images, heat, steps, max_batch), "torchcam": _torchcam(model, images, heat, steps)}
    entered = [(name, run) for name, run in runs.items() if run is not None]
    spent: dict[str, list[float]] = {name: [] for name, _ in entered}
    areas: dict[str, Areas] = {name: run() for name, run in entered}
    for turn in range(rounds):
        for name, run in entered[:: -1 if turn % 2 else 1]:
            start = clock(images)
            run()
            spent[name].append(clock(images) - start)
    found: dict[str, Any] = {"images": len(images), "steps": steps, "seconds": median_and_spread(spent["ours"])[0]}
    if "torchcam" in spent:
        ratios = [peer / own for own, peer in zip(spent["ours"], spent["torchcam"], strict=True)]
        ratio, spread = median_and_spread(ratios)
        found |= {"torchcam_seconds": median_and_spread(spent["torchcam"])[0], "times_as_fast": ratio, "spread": spread}
        found |= {"least": min(ratios), "most": max(ratios)}
        found["difference"] = max(abs(a - b) for a, b in zip(areas["ours"], areas["torchcam"], strict=True))
    return found


def clock(images: Tensor) -> float:
    """Seconds: of this process on a CPU, on the wall once the work is done on a GPU."""
    if not images.is_cuda:
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def _ours(model: nn.Module, images: Tensor, heat: Tensor, steps: int, max_batch: int) -> Callable[[], Areas]:
    def run() -> Areas:
        curves = insertion_deletion(model, images, {"map": heat}, steps=steps, start=0.0, max_batch=max_batch)["map"]
        return float(curves.deletion_auc.mean()), float(curves.insertion_auc.mean())

    return run


def _torchcam(model: nn.Module, images: Tensor, heat: Tensor, steps: int) -> Callable[[], Areas] | None:
    if not importlib.util.find_spec("torchcam"):
        return None
    from torchcam.metrics import DeletionInsertionMetric

    class Given:
        """Hands out the maps in place of an extractor."""

        def __init__(self) -> None:
            self.model = model

        def __call__(self, *_: Any, **__: Any) -> list[Tensor]:
            return [heat]

        def fuse_cams(self, cams: list[Tensor]) -> Tensor:
            return cams[0]

        def _hooks_off(self) -> AbstractContextManager[None]:
            return nullcontext()

    def run() -> Areas:
        metric = DeletionInsertionMetric(Given(), torch.nn.Softmax(dim=-1), steps=steps)
        metric.update(images)
        found = metric.summary()
        return found["deletion_auc"], found["insertion_auc"]

    return run
