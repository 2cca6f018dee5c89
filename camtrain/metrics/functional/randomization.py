"""The sanity check: a heatmap that stays while the model's weights are randomized does not show what it learned."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from camtrain.cam import predicted_class, settled, unwrap
from camtrain.cam.hooks import hooked
from camtrain.cam.layers import LayerSpec
from camtrain.cam.ownership import call
from camtrain.cam.passes import image_of, undisturbed, with_images
from camtrain.cam.targets import Target
from camtrain.errors import ConfigurationError
from camtrain.explanation import DEFAULT_METHODS, MethodSpec, explain
from camtrain.metrics.functional.faithfulness import rank_correlation

__all__ = ["Sanity", "cascading_randomization"]

CHANGED_BELOW = 0.5


@dataclass(frozen=True, eq=False)
class Sanity:
    """How much each method's heatmaps stay as they were, while the weights are randomized from the output down.

    `stages` names the modules whose weights each stage randomized beside those before it; `similarity` holds the rank
    correlations with the heatmaps of the trained model `(stages, B)`, NaN where a map of either is empty or constant.
    """

    stages: tuple[tuple[str, ...], ...]
    similarity: Mapping[str, Float[Tensor, "L B"]]

    def at_last(self, method: str) -> float:
        """The mean similarity once all weights are random; NaN where no image has both maps."""
        return float(self.similarity[method][-1].nanmean())

    def flagged(self, *, changed_below: float = CHANGED_BELOW) -> list[str]:
        """The methods whose maps have not changed: their last similarity is at or above the limit."""
        return [method for method in self.similarity if self.at_last(method) >= changed_below]


def cascading_randomization(
    model: nn.Module,
    images: Any,
    *,
    layers: LayerSpec = "auto",
    methods: MethodSpec = DEFAULT_METHODS,
    target: Target = predicted_class,
    labels: Tensor | None = None,
    stages: int = 5,
    seed: int = 0,
) -> Sanity:
    """Randomize a copy of the model from its last module to its first in stages, and compare the heatmaps.

    The first stage is the last module alone. Matrices and kernels are drawn anew from a normal distribution of their
    own standard deviation; vectors (biases, scales) are shuffled. The explained class stays the one that the trained
    model predicted. The model itself is left as it was, and so is the random state. Costs one more explanation for each
    stage. Source: Adebayo et al. 2018, the cascading randomization.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    >>> sanity = cascading_randomization(net, torch.rand(5, 1, 4, 4), methods="grad_cam")
    >>> sanity.stages, sanity.similarity["grad_cam"].shape
    ((('3',), ('0',)), torch.Size([2, 5]))
    """
    if stages < 1:
        raise ConfigurationError(f"Weights are randomized in one stage at least, not stages={stages}.")
    trained = explain(model, images, layers=layers, methods=methods, target=target, labels=labels)
    fixed = target if getattr(target, "wants_output", False) else settled(target, trained.logits, labels)
    copied = copy.deepcopy(unwrap(model))
    groups = _in_stages(_from_output_to_input(copied, images), stages)
    generator = torch.Generator().manual_seed(seed)
    names = [layer.name for layer in trained.layers]
    similarities: dict[str, list[Tensor]] = {method: [] for method in trained.heatmaps}
    for group in groups:
        for name in group:
            _randomize(copied.get_submodule(name), generator)
        random = explain(copied, images, layers=names, methods=methods, target=fixed, labels=labels)
        for method, heat in trained.heatmaps.items():
            similarities[method].append(rank_correlation(random.heatmaps[method], heat))
    return Sanity(tuple(map(tuple, groups)), {method: torch.stack(values) for method, values in similarities.items()})


def _from_output_to_input(model: nn.Module, images: Any) -> list[str]:
    """The names of the modules with parameters of their own, in the reverse order of their first call.

    One that is never called itself (a projection within an attention module) counts where what holds it is called.
    """
    calls: dict[nn.Module, int] = {}

    def note(module: nn.Module, inputs: Any) -> None:
        calls.setdefault(module, len(calls))

    with undisturbed(model, images) as (net, inputs), torch.no_grad():
        one = with_images(inputs, image_of(inputs)[:1], torch.zeros(1, dtype=torch.long))
        with hooked(module.register_forward_pre_hook(note) for module in net.modules()):
            call(net, one)
    places: dict[str, int] = {}
    for name, module in model.named_modules():
        above = places.get(name.rpartition(".")[0], 0)
        places[name] = calls.get(module, above)
    own = [name for name, module in model.named_modules() if any(True for _ in module.parameters(recurse=False))]
    return sorted(own, key=places.__getitem__)[::-1]


def _in_stages(names: Sequence[str], stages: int) -> list[list[str]]:
    """The last module alone, then the others in equal parts.

    >>> _in_stages(["d", "c", "b", "a"], 3)
    [['d'], ['c', 'b'], ['a']]
    """
    if not names:
        raise ConfigurationError("The model has no parameters to randomize.")
    first, rest = [list(names[:1])], list(names[1:])
    parts = min(stages - 1, len(rest))
    if parts <= 0:
        return first if not rest else [list(names)]
    ends = [-(-len(rest) * part // parts) for part in range(parts + 1)]
    return first + [rest[a:b] for a, b in pairwise(ends)]


@torch.no_grad()
def _randomize(module: nn.Module, generator: torch.Generator) -> None:
    for parameter in module.parameters(recurse=False):
        flat = parameter.detach().flatten().float().cpu()
        if parameter.ndim >= 2:
            spread = flat.std(correction=0)
            drawn = torch.randn(flat.shape, generator=generator) * spread
        else:
            drawn = flat[torch.randperm(len(flat), generator=generator)]
        parameter.copy_(drawn.view(parameter.shape).to(parameter))
