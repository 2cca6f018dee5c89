"""Two small networks for machines without a GPU."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

Images = Float[Tensor, "B C H W"]
Logits = Float[Tensor, "B K"]


class DecoyNet(nn.Sequential):
    """The network of the decoy benchmarks: conv 20@5x5, pool, conv 50@5x5, pool, fc 256, fc 10.

    Takes 28x28 images; the last map, after the second convolution's ReLU, is 8x8.

    >>> DecoyNet()(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__(
            nn.Conv2d(in_channels, 20, kernel_size=5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(20, 50, kernel_size=5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(50 * 4 * 4, 256),
            nn.ReLU(),
            nn.Linear(256, num_classes),
        )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm beside a shortcut, as in ResNet (He 2016).

    >>> ResidualBlock(8, 16, stride=2)(torch.zeros(1, 8, 6, 6)).shape
    torch.Size([1, 16, 3, 3])
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(out_channels))

    def forward(self, maps: Float[Tensor, "B K H W"]) -> Float[Tensor, "B L h w"]:
        """Maps in, maps out; `stride` divides their size."""
        return torch.relu(self.body(maps) + self.shortcut(maps))


class SmallResNet(nn.Module):
    """A residual network that trains on two CPU cores: a map of an eighth of the image, then a linear head.

    96-pixel images give a last map (`blocks`) of 12x12 with `4 * width` channels.

    >>> SmallResNet(num_classes=2)(torch.zeros(1, 3, 96, 96)).shape
    torch.Size([1, 2])
    """

    def __init__(self, num_classes: int, in_channels: int = 3, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.blocks = nn.Sequential(
            ResidualBlock(width, 2 * width, stride=2),
            ResidualBlock(2 * width, 4 * width, stride=2),
            ResidualBlock(4 * width, 4 * width),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(4 * width, num_classes)

    def forward(self, images: Images) -> Logits:
        """Logits of images of any size from 8x8."""
        logits: Tensor = self.head(self.pool(self.blocks(self.stem(images))).flatten(1))
        return logits
