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
    """Medians over rounds, and the largest difference of the mean areas; without the peer, ours alone."""
    heat = torch.rand(len(images), 7, 7, generator=torch.Generator().manual_seed(0)).to(images.device)
    ours, theirs = _ours(model, images, heat, steps, max_batch), _torchcam(model, images, heat, steps)
    mine, peer, ratios, difference = [], [], [], 0.0
    for _ in range(rounds):
        seconds, areas = _timed(ours, images)
        mine.append(seconds)
        if theirs is not None:
            other, expected = _timed(theirs, images)
            peer.append(other)
            ratios.append(other / seconds)
            difference = max(difference, *(abs(a - b) for a, b in zip(areas, expected, strict=True)))
    found: dict[str, Any] = {"images": len(images), "steps": steps, "seconds": median_and_spread(mine)[0]}
    if peer:
        ratio, spread = median_and_spread(ratios)
        found |= {"torchcam_seconds": median_and_spread(peer)[0], "times_as_fast": ratio, "spread": spread}
        found["difference"] = difference
    return found


def _timed(run: Callable[[], Areas], images: Tensor) -> tuple[float, Areas]:
    wait = torch.cuda.synchronize if images.is_cuda else (lambda: None)
    wait()
    start = time.perf_counter()
    areas = run()
    wait()
    return time.perf_counter() - start, areas


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
