"""Last-layer retraining on intervened images: the features stay, the head learns to do without the cue."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from camtrain.cam import evaluating
from camtrain.cam.hooks import hooked
from camtrain.errors import ConfigurationError
from camtrain.reliance.intervene import Swap, choose_donors, intervene
from camtrain.reliance.records import Design, Effects, Pace, Pool
from camtrain.swaps.looks import LOOKS, look_of
from camtrain.tasks import SingleLabel

__all__ = ["Retrained", "find_head", "fit_logistic", "retrain_last_layer"]

STRENGTHS = (1.0, 0.1, 0.01, 0.001, 0.0001)


@dataclass(frozen=True)
class Retrained:
    """What a retraining did: which layer, on how many intervened images, how strongly regularized.

    ``worst_before`` and ``worst_after`` are accuracies of the worst pair of a class and a donor's class on images that
    the measured fit has not seen, with the layer as it was and refitted; the layer that is left is fitted to all.
    """

    head: str
    images: int
    strength: float
    worst_before: float
    worst_after: float


@dataclass(frozen=True)
class Swapped:
    """The head's inputs on intervened images, the images' labels, their pair of classes, and which image each is of."""

    features: Float[Tensor, "N K"]
    labels: Int[Tensor, " N"]
    groups: Int[Tensor, " N"]
    rows: Int[Tensor, " N"]


def retrain_last_layer(
    model: nn.Module,
    pool: Pool,
    *,
    lenders: Pool | None = None,
    cues: Sequence[str] = ("background",),
    head: str | None = None,
    arms: int = 8,
    margin: int = 0,
    strengths: Sequence[float] = STRENGTHS,
    pace: Pace = Pace(),  # noqa: B008  frozen
    seed: int = 0,
) -> Retrained:
    """Fit the last layer anew, in place, on images whose cue says nothing of their class; nothing else changes.

    Every image of the pool gets the cue of an image of each class (of up to ``arms`` classes) in turn, and of every
    pair of classes equally many are kept. The layer is a logistic regression on its inputs with an L2 penalty, whose
    strength is chosen for the worst pair on held-out images. Source: Kirichenko et al. 2023, "Last layer re-training
    is sufficient for robustness to spurious correlations", with interventions in place of group labels.

    ``model`` maps images to logits (B, classes) through a linear layer, ``head`` by name, or the last one. ``cues`` are
    "background", "tint", "brightness" or "sharpness", or what verdicts call them. Annotated images of every class are
    needed, at least two of each. Masks are grown by ``margin`` pixels; a rim of its own background around the object
    would tell its class, and the layer would read that. Costs ``arms`` forwards an image and cue.

    Raises ConfigurationError for a head that is no linear layer or not the last, or a pool that lacks classes.
    """
    name, layer = find_head(model, head)
    classes = _every_class(pool, layer.out_features, name)
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for cue in cues:
        lent = None if lenders is None else lenders.labels
        design = choose_donors(pool.labels, classes, lenders=lent, arms=arms, generator=generator)
        run = partial(intervene, pool=pool, swap=_swap(cue, margin), lenders=lenders, pace=pace)
        parts.append(_swapped(model, layer, run, design))
    return _refit(name, layer, _joined(parts), strengths, generator)


def find_head(model: nn.Module, name: str | None = None) -> tuple[str, nn.Linear]:
    """The linear layer of that name, or the last one that the model holds.

    >>> find_head(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Linear(3, 2)))
    ('2', Linear(in_features=3, out_features=2, bias=True))
    """
    layers = {key: module for key, module in model.named_modules() if isinstance(module, nn.Linear)}
    if not layers:
        raise ConfigurationError(f"{type(model).__name__} has no linear layer to retrain.")
    if name is None:
        name = list(layers)[-1]
    if name not in layers:
        known = ", ".join(list(layers)[-4:])
        raise ConfigurationError(f"No linear layer {name!r} in {type(model).__name__}; among them are {known}.")
    if layers[name].out_features < 2:
        raise ConfigurationError(f"{name} gives one logit; retraining needs one for each class.")
    return name, layers[name]


def _every_class(pool: Pool, outputs: int, name: str) -> range:
    counts = pool.labels.bincount(minlength=outputs)
    if len(counts) > outputs or int(counts.min()) < 2:
        few = [c for c, count in enumerate(counts.tolist()) if count < 2 or c >= outputs]
        raise ConfigurationError(
            f"{name} tells {outputs} classes, and retraining needs annotated images of each, at least two, with some "
            f"background beside the object; too few or beyond it: {few[:5]}."
        )
    return range(outputs)


def _swap(cue: str, margin: int) -> Swap:
    look = LOOKS.get(cue) or look_of(cue)
    if look is None and cue != "background":
        raise ConfigurationError(f"cues are some of background, {', '.join(LOOKS)}; got {cue!r}.")
    return Swap("background" if look is None else look.name, margin)


def _swapped(model: nn.Module, layer: nn.Linear, run: Callable[..., Effects], design: Design) -> Swapped:
    """Run the design and keep what the head is given, in the order in which `intervene` goes through the pairs."""
    given: list[Tensor] = []
    kept: list[Tensor] = []

    def predict(images: Tensor) -> Tensor:
        given.clear()
        logits = SingleLabel().read(model(images))
        if not given or not torch.allclose(F.linear(given[-1], layer.weight, layer.bias).to(logits), logits):
            raise ConfigurationError("The model's answer is not what the head gives: name its last layer with head=.")
        kept.append(given[-1].double().cpu())
        return logits

    hook = layer.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    with hooked([hook]), evaluating(model), torch.no_grad():
        run(predict, design=design, before=torch.full(design.classes.shape, torch.nan))
    rows, arms = (design.donors >= 0).nonzero().unbind(dim=1)
    labels, lent = design.labels[rows], design.classes[rows, arms]
    return Swapped(torch.cat(kept), labels, labels * layer.out_features + lent, rows)


def _joined(parts: Sequence[Swapped]) -> Swapped:
    """The cues' images as one, their pairs of classes apart."""
    step = 1 + max(int(part.groups.max()) for part in parts)
    return Swapped(
        torch.cat([part.features for part in parts]),
        torch.cat([part.labels for part in parts]),
        torch.cat([part.groups + index * step for index, part in enumerate(parts)]),
        torch.cat([part.rows for part in parts]),
    )


def _refit(
    name: str, layer: nn.Linear, swapped: Swapped, strengths: Sequence[float], generator: torch.Generator
) -> Retrained:
    mean, std = swapped.features.mean(dim=0), swapped.features.std(dim=0).clamp(min=1e-6)
    scaled = (swapped.features - mean) / std
    fit = partial(fit_logistic, outputs=layer.out_features)
    held_out = _half_of_each(swapped, generator)
    seen = _balanced(swapped.groups, ~held_out, generator)
    fits = [fit(scaled[seen], swapped.labels[seen], strength=strength) for strength in strengths]
    worst = [_worst(scaled @ weight.T + bias, swapped, held_out) for weight, bias in fits]
    best = max(range(len(fits)), key=worst.__getitem__)
    before = _worst(copy.deepcopy(layer).double().cpu()(swapped.features), swapped, held_out)
    used = _balanced(swapped.groups, torch.ones_like(held_out), generator)
    weight, bias = fit(scaled[used], swapped.labels[used], strength=strengths[best])
    weight = weight / std
    _write(layer, weight, bias - weight @ mean)
    return Retrained(name, len(used), strengths[best], before, worst[best])


def _write(layer: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    with torch.no_grad():
        layer.weight.copy_(weight)
        if layer.bias is None:
            layer.bias = nn.Parameter(bias.to(layer.weight))
        else:
            layer.bias.copy_(bias)


def _half_of_each(swapped: Swapped, generator: torch.Generator) -> Tensor:
    """Which intervened images are held out: all of every second image of each class."""
    rows = _distinct(swapped.rows)
    labels = torch.zeros(int(rows.max()) + 1, dtype=torch.int64).index_put((swapped.rows,), swapped.labels)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for c in _distinct(labels[rows]):
        own = rows[labels[rows] == c]
        chosen[own[torch.randperm(len(own), generator=generator)[::2]]] = True
    return chosen[swapped.rows]


def _balanced(groups: Tensor, allowed: Tensor, generator: torch.Generator) -> Tensor:
    """As many random indices of every group as the smallest has of those allowed."""
    members = [(allowed & (groups == group)).nonzero().flatten() for group in _distinct(groups)]
    least = max(1, min(map(len, members)))
    return torch.cat([some[torch.randperm(len(some), generator=generator)[:least]] for some in members])


def _distinct(values: Tensor) -> Tensor:
    return torch.tensor(sorted(set(values.tolist())), dtype=torch.int64)


def fit_logistic(
    features: Float[Tensor, "N K"], labels: Int[Tensor, " N"], *, outputs: int, strength: float
) -> tuple[Float[Tensor, "C K"], Float[Tensor, " C"]]:
    """Weight and bias of a multinomial logistic regression with an L2 penalty on the weight, by L-BFGS.

    >>> weight, bias = fit_logistic(torch.tensor([[-1.0], [1.0]]), torch.tensor([0, 1]), outputs=2, strength=0.1)
    >>> bool(weight[1, 0] > weight[0, 0])
    True
    """
    weight = features.new_zeros(outputs, features.shape[1], requires_grad=True)
    bias = features.new_zeros(outputs, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(features @ weight.T + bias, labels) + strength * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()


def _worst(logits: Tensor, swapped: Swapped, among: Tensor) -> float:
    """The accuracy of the worst pair of classes among these images; NaN where there are none."""
    right = (logits.argmax(dim=1) == swapped.labels).double()
    pairs = (among & (swapped.groups == group) for group in _distinct(swapped.groups))
    return min((float(right[pair].mean()) for pair in pairs if bool(pair.any())), default=torch.nan)
