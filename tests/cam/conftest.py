"""Small networks, the whole-graph reference in float64, and a photograph of everything that must not change."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from camtrain.cam import find_logits


class Whole:
    """Activations and gradients of a layer by autograd on the whole graph, in float64: the truth to compare with.

    The gradient is that of a zero added to the layer's output in place, so that nothing about the memory of the net
    changes.
    """

    def __init__(
        self, model: nn.Module, images: Any, layer: str, score: Callable[[Tensor], Tensor], dtype=torch.float64
    ):
        model = copy.deepcopy(model).to(dtype).eval()
        added: list[Tensor] = []

        def add(module: nn.Module, inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            self.activations = first.detach().clone()
            added.append(torch.zeros_like(first).requires_grad_())
            first.add_(added[-1])

        with torch.enable_grad(), saved_tensors_hooks(lambda saved: saved.detach().clone(), lambda saved: saved):
            handle = model.get_submodule(layer).register_forward_hook(add)
            self.logits = find_logits(model(images.detach().to(dtype)))
            handle.remove()
            (self.gradients,) = torch.autograd.grad(score(self.logits).sum(), [added[-1]])


@pytest.fixture
def whole() -> type[Whole]:
    """`whole(model, images, layer, score).activations, .gradients` in float64."""
    return Whole


def small_net(classes: int = 5, *, norm: bool = True, inplace: bool = True) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6) if norm else nn.Identity(),
        nn.ReLU(inplace=inplace),
        nn.Conv2d(6, 8, 3, stride=2),
        nn.ReLU(inplace=inplace),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, classes),
    )


@pytest.fixture
def make_net() -> Callable[..., nn.Sequential]:
    """`make_net(classes)`: convolution, norm, in-place ReLU twice, dropout, pooling, a linear head."""
    return small_net


@pytest.fixture
def photograph() -> Callable[[nn.Module], dict[str, Any]]:
    """Everything about a model and the process that an explanation must leave as it was, compared by `==`."""

    def take(model: nn.Module) -> dict[str, Any]:
        modules = dict(model.named_modules())
        return {
            "values": {name: tensor.tolist() for name, tensor in model.state_dict().items()},
            "versions": {name: p._version for name, p in model.named_parameters()},
            "grads": {name: None if p.grad is None else p.grad.tolist() for name, p in model.named_parameters()},
            "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
            "modes": {name: module.training for name, module in modules.items()},
            "inplace": {name: getattr(module, "inplace", None) for name, module in modules.items()},
            "hooks": {
                name: (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
                for name, m in modules.items()
            },
            "rng": torch.get_rng_state().tolist(),
            "grad_mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
            "autocast": (torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled()),
        }

    return take
