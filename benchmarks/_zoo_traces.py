"""What an explanation leaves behind in a network, asked of an untouched twin of it."""

import copy
import io
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from camtrain.cam import find_logits

COMPILED = "resnet18|test_vit|test_convnext|levit_128s|/vit/|/swin/|videomae|efficientnet_b0|DenseNet"  # it takes long


def photograph(net: nn.Module) -> dict[str, Any]:
    """All of a network that an explanation might change, and the random state."""
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    return {
        "state": {name: (tensor._version, tensor.double().sum().item()) for name, tensor in tensors.items()},
        "wanted": [(p.requires_grad, p.grad is None) for p in net.parameters()],
        "modes": [module.training for module in net.modules()],
        "hooks": [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in net.modules()],
        "names": [{name: _entries(value) for name, value in vars(module).items()} for module in net.modules()],
        "rng": torch.get_rng_state().tolist(),
    }


def _entries(value: Any) -> Any:
    return sorted(map(str, value)) if isinstance(value, dict) else value if isinstance(value, (bool, int)) else None


def traces(net: nn.Module, twin: nn.Module, inputs: Tensor, key: str) -> dict[str, bool | None]:
    """Whether the logits are the twin's to the last bit, and whether the network can be copied, saved, averaged and
    compiled as the twin can; None where the twin cannot either, or where it was not asked."""
    asked: dict[str, Callable[[nn.Module], Tensor]] = {
        "logits": lambda model: _logits(model, inputs),
        "copied": lambda model: _logits(copy.deepcopy(model), inputs),
        "saved": lambda model: _logits(_saved(model), inputs),
        "averaged": lambda model: _logits(_averaged(model), inputs),
    }
    if re.search(COMPILED, key):
        asked["compiled"] = lambda model: _logits(torch.compile(model, backend="eager"), inputs)
    found = {name: _same(question, net, twin) for name, question in asked.items()}
    torch.compiler.reset()
    return {"compiled": None, **found}


def _same(question: Callable[[nn.Module], Tensor], net: nn.Module, twin: nn.Module) -> bool | None:
    try:
        expected = question(twin)
    except Exception:  # what a foreign network cannot do untouched says nothing of us
        return None
    try:
        return torch.equal(question(net).nan_to_num(), expected.nan_to_num())
    except Exception:
        return False


@torch.no_grad()
def _logits(model: nn.Module, inputs: Tensor) -> Tensor:
    logits: Tensor = find_logits(model(inputs))
    return logits


def _saved(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded: nn.Module = torch.load(file, weights_only=False)
    return loaded


def _averaged(model: nn.Module) -> nn.Module:
    averaged = AveragedModel(model)
    averaged.update_parameters(model)
    return averaged


def failures(found: dict[str, bool | None]) -> Iterator[str]:
    """In words, what an explanation broke."""
    for name, holds in found.items():
        if holds is False:
            yield "other logits afterwards" if name == "logits" else f"cannot be {name} any more"
