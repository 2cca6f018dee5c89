"""The two corrections that are told the group of every training image: GroupDRO and last-layer retraining."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from _composites import CLASSES, GROUPS, Composites, batches
from torch import Tensor, nn
from torch.utils.data import Sampler, WeightedRandomSampler

from camtrain.module import ImageClassifier
from camtrain.reliance.retrain import fit_logistic


class GroupDRO(ImageClassifier):
    """Weighs each group's loss by how bad it is, and sees all groups equally often. Source: Sagawa et al. 2020."""

    step_size = 0.01
    shares: Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("shares", torch.full((GROUPS,), 1 / GROUPS))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        losses = F.cross_entropy(self(batch["image"]), batch["label"], reduction="none")
        members = F.one_hot(batch["group"], GROUPS).to(losses.dtype)  # (B, G)
        means = losses @ members / members.sum(dim=0).clamp(min=1)
        grown = self.shares * (self.step_size * means.detach()).exp()
        self.shares = grown / grown.sum()
        return self.shares @ means


def equally_often(groups: Tensor, generator: torch.Generator) -> Sampler[int]:
    weights = 1 / groups.bincount(minlength=GROUPS)[groups].double()
    return WeightedRandomSampler(weights.tolist(), len(groups), generator=generator)


def retrain_last_layer(network: nn.Module, head_name: str, train: Composites, seed: int) -> None:
    """Fit the head anew on group-balanced subsets of the training images; the mean of ten fits, as DFR does it.

    Source: Kirichenko et al. 2023, with L2 in place of L1; its strength is chosen for the worst group of one more
    subset's other half.
    """
    head = network.get_submodule(head_name)
    assert isinstance(head, nn.Linear)
    features = head_inputs(network, head, train)
    mean, std = features.mean(dim=0), features.std(dim=0).clamp(min=1e-6)
    features = (features - mean) / std
    generator = torch.Generator().manual_seed(seed)
    half, other = balanced_subset(train.groups, generator).chunk(2, dim=1)
    strengths = (1.0, 0.1, 0.01, 0.001, 0.0001)
    fit = partial(fit_logistic, outputs=len(CLASSES))
    fits = [fit(features[half.flatten()], train.labels[half.flatten()], strength=strength) for strength in strengths]
    chosen = max(range(len(fits)), key=lambda i: worst(fits[i], features, train.labels, other))
    found = []
    for _ in range(10):
        subset = balanced_subset(train.groups, generator).flatten()
        found.append(fit(features[subset], train.labels[subset], strength=strengths[chosen]))
    weight = torch.stack([w for w, _ in found]).mean(dim=0) / std
    bias = torch.stack([b for _, b in found]).mean(dim=0) - weight @ mean
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)


def head_inputs(network: nn.Module, head: nn.Module, dataset: Composites) -> Tensor:
    found: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, args: found.append(args[0].cpu()))
    device = next(network.parameters()).device
    with torch.no_grad():
        for batch in batches(dataset):
            network(batch["image"].to(device))
    handle.remove()
    return torch.cat(found)


def balanced_subset(groups: Tensor, generator: torch.Generator) -> Tensor:
    """As many random indices of every group as the smallest has: `(groups, images)`."""
    least = int(groups.bincount(minlength=GROUPS).min())
    members = [(groups == group).nonzero().flatten() for group in range(GROUPS)]
    return torch.stack([some[torch.randperm(len(some), generator=generator)[:least]] for some in members])


def worst(fit: tuple[Tensor, Tensor], features: Tensor, labels: Tensor, subset: Tensor) -> float:
    weight, bias = fit
    index = subset.flatten()
    correct = (features[index] @ weight.T + bias).argmax(dim=1) == labels[index]
    return float(correct.view(subset.shape).float().mean(dim=1).min())
