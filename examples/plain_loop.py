"""Alignment in a plain PyTorch loop, without a Trainer: bars, upright or lying, whose ground tells which they are.

python examples/plain_loop.py
"""

import argparse
import json

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from camtrain.alignment import Alignment, Penalty, Twins
from camtrain.data import Batch


def draw(count: int, *, biased: bool) -> Batch:
    labels, ground = torch.randint(2, (2, count))
    masks = torch.zeros(count, 16, 16)
    for mask, label, (row, column) in zip(masks, labels, torch.randint(2, 9, (count, 2)).tolist(), strict=True):
        height, width = (6, 2) if label else (2, 6)
        mask[row : row + height, column : column + width] = 1
    color = (labels if biased else ground).float().view(-1, 1, 1) * 0.6
    images = torch.where(masks > 0, 0.8, color) + 0.1 * torch.rand(count, 16, 16)
    return Batch(images.unsqueeze(1), labels, masks)


def train(batches: list[Batch], alignment: Alignment) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.AdaptiveMaxPool2d(2), nn.Flatten()
    net = nn.Sequential(*layers, nn.Linear(64, 2))
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    alignment.attach(net)
    for batch in batches:
        with alignment.step(batch) as step:  # its hooks stay until the backward pass is over
            loss = F.cross_entropy(net(batch.images), batch.labels)
            optimizer.zero_grad()
            step.add(loss).backward()
            optimizer.step()
    alignment.detach()
    return net


def accuracy(net: nn.Module, batch: Batch) -> float:
    answers: Tensor = net(batch.images).argmax(dim=1)
    return (answers == batch.labels).float().mean().item()


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args(arguments).steps
    torch.manual_seed(0)
    batches, test = [draw(64, biased=True) for _ in range(steps)], draw(1000, biased=False)
    ways = {"plain": Alignment(), "both": Alignment(Penalty(), Twins())}
    ways |= {"penalty": Alignment(Penalty()), "twins": Alignment(twins=Twins())}
    return {name: accuracy(train(batches, alignment), test) for name, alignment in ways.items()}


if __name__ == "__main__":
    print(json.dumps(main(), indent=2))
