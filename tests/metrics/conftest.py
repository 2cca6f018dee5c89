import pytest
import torch
from torch import nn


class PixelSum(nn.Module):
    """A model whose confidence is the sum of the pixels."""

    def forward(self, images):
        return images.flatten(1).sum(dim=1, keepdim=True)


@pytest.fixture
def pixel_sum():
    return PixelSum(), lambda logits, labels: logits[:, 0]


@pytest.fixture
def net():
    """A small convolutional network with batch normalization that has seen data, in training mode."""
    made = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 5),
    )
    with torch.no_grad():
        for _ in range(20):
            made(2 * torch.randn(16, 3, 12, 12) + 1)
        made[-1].weight *= 6
    return made
