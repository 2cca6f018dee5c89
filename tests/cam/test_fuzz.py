"""Random networks, layers, targets and precisions: the engine against autograd on the whole graph in float64.

`CAMTRAIN_FUZZ=20000 pytest tests/cam/test_fuzz.py` runs that many cases, drawn anew.
"""

import os
from dataclasses import dataclass
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import nn

from camtrain.cam import capture, class_index, grad_cam, log_probability, margin, predicted_class, true_class

CASES = int(os.environ.get("CAMTRAIN_FUZZ", "0"))
CLASSES = 4


class Skip(nn.Module):
    """`x + f(x)`, added in place or not, then perhaps an in-place ReLU."""

    def __init__(self, inner: nn.Module, inplace: bool, relu: bool) -> None:
        super().__init__()
        self.inner, self.inplace, self.relu = inner, inplace, relu

    def forward(self, x):
        y = self.inner(x)
        y = y.add_(x) if self.inplace else y + x
        return nn.functional.relu(y, inplace=self.inplace) if self.relu else y


class Concat(nn.Module):
    """Two branches side by side, joined over channels."""

    def __init__(self, left: nn.Module, right: nn.Module) -> None:
        super().__init__()
        self.left, self.right = left, right

    def forward(self, x):
        return torch.cat([self.left(x), self.right(x)], dim=1)


class Twice(nn.Module):
    """One module used twice."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(self.inner(x))


@dataclass(frozen=True)
class Case:
    net: nn.Module
    layer: str
    target: Any
    labels: torch.Tensor
    images: torch.Tensor
    frozen: bool


@st.composite
def blocks(draw, channels: int, depth: int) -> tuple[nn.Module, int]:
    """A block that keeps the size of the map, and how many channels it gives."""
    kinds = ["conv", "norm", "relu", "pool", "depthwise", "dropout"] + (["skip", "concat", "twice"] if depth else [])
    kind = draw(st.sampled_from(kinds))
    wide, inplace = draw(st.integers(1, 4)), draw(st.booleans())
    if kind == "conv":
        size = draw(st.sampled_from([1, 3]))
        return nn.Conv2d(channels, wide, size, padding=size // 2, bias=draw(st.booleans())), wide
    if kind in ("skip", "twice"):
        inner, last = draw(bodies(channels, depth - 1))
        inner = nn.Sequential(inner, nn.Conv2d(last, channels, 1))
        return (Skip(inner, inplace, draw(st.booleans())) if kind == "skip" else Twice(inner)), channels
    if kind == "concat":
        (left, a), (right, b) = draw(bodies(channels, depth - 1)), draw(bodies(channels, depth - 1))
        # A branch begins with a convolution: two in-place branches on one input would be an error in the net itself.
        head = [nn.Conv2d(channels, channels, 1) for _ in range(2)]
        return Concat(nn.Sequential(head[0], left), nn.Sequential(head[1], right)), a + b
    simple = {
        "norm": draw(
            st.sampled_from([nn.BatchNorm2d(channels), nn.GroupNorm(1, channels), nn.InstanceNorm2d(channels)])
        ),
        "relu": draw(st.sampled_from([nn.ReLU(inplace), nn.LeakyReLU(0.1, inplace), nn.Hardswish(inplace), nn.GELU()])),
        "pool": draw(st.sampled_from([nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1)])),
        "depthwise": nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
        "dropout": nn.Dropout(0.5),
    }
    return simple[kind], channels


@st.composite
def bodies(draw, channels: int, depth: int) -> tuple[nn.Module, int]:
    parts = []
    for _ in range(draw(st.integers(1, 3))):
        part, channels = draw(blocks(channels, depth))
        parts.append(part)
    return nn.Sequential(*parts), channels


@st.composite
def cases(draw) -> Case:
    torch.manual_seed(draw(st.integers(0, 2**31)))
    start = draw(st.integers(1, 3))
    body, channels = draw(bodies(start, 2))
    height, width, count = draw(st.integers(4, 8)), draw(st.integers(4, 8)), draw(st.integers(1, 3))
    tail = [nn.Flatten(), nn.Linear(channels * height * width, CLASSES)]
    if draw(st.booleans()):
        tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)]
    # In-place first layers may write into their input, as into that of any net: the stem keeps the images whole.
    net = nn.Sequential(nn.Conv2d(2, start, 1), body, *tail).eval()
    for buffer in net.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    dtype = draw(st.sampled_from([torch.float64, torch.float64, torch.float32]))
    inner = [name for name, module in net.named_modules() if name == "1" or name.startswith("1.")]
    target = draw(st.sampled_from([predicted_class, true_class, log_probability, class_index(2), margin(0, 3)]))
    return Case(
        net.to(dtype),
        draw(st.sampled_from(["0", *inner])),
        target,
        torch.randint(CLASSES, (count,)),
        torch.randn(count, 2, height, width, dtype=dtype),
        draw(st.booleans()),
    )


def agrees(found: torch.Tensor, truth: torch.Tensor, error: float) -> bool:
    return bool((found.double() - truth.double()).abs().max() <= error * truth.abs().max() + 1e-300 + error * 1e-6)


@pytest.mark.slow
@settings(
    max_examples=CASES or 500,
    deadline=None,
    derandomize=not CASES,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(case=cases())
def test_capture__of_any_network_equals_the_whole_graph(case, whole):
    check(case, whole)


test_capture__of_any_network_equals_the_whole_graph = pytest.mark.timeout(7200 if CASES else 240)(
    test_capture__of_any_network_equals_the_whole_graph
)


def check(case: Case, whole: Any) -> None:
    case.net.requires_grad_(not case.frozen)
    captured = capture(case.net, case.images, case.layer, case.target, labels=case.labels)
    predicted = captured.logits.argmax(dim=1)
    score = (
        (lambda z: z.gather(1, predicted[:, None]))
        if case.target is predicted_class
        else (lambda z: case.target(z, case.labels))
    )
    truth = whole(case.net, case.images, case.layer, score)
    error = 1e-9 if case.images.dtype == torch.float64 else 2e-3
    pairs = (
        (captured.logits, truth.logits),
        (captured.activations[0], truth.activations),
        (captured.gradients[0], truth.gradients),
        (grad_cam(captured.activations[0], captured.gradients[0]), grad_cam(truth.activations, truth.gradients)),
    )
    if not all(agrees(found, expected, error) for found, expected in pairs):
        # In float32 a value next to a kink may fall on its other side; the whole graph in float32 then does the same.
        assert case.images.dtype == torch.float32, describe(pairs)
        single = whole(case.net, case.images, case.layer, score, torch.float32)
        assert agrees(captured.gradients[0], single.gradients, 1e-4), describe(pairs)


def describe(pairs: Any) -> str:
    return "; ".join(f"{(a.double() - b).abs().max():.3g} of {b.abs().max():.3g}" for a, b in pairs)
