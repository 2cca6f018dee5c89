"""Small networks for machines without a GPU: for classes, and for every task of `camtrain.data.worlds`."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import nms

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


class TaskNet(nn.Module):
    """Three convolutions, and a linear head for a task of `camtrain.data.worlds`.

    Args:
        num_classes: how many numbers it answers: of a pixel, of a word, of an image.
        clips: takes clips `(B, 3, T, H, W)`.
        per_pixel: answers `(B, num_classes, H, W)`.
        words: answers `(B, words, num_classes)`.
        questions: takes the number of one of so many questions `(B,)` beside 32-pixel images.

    >>> TaskNet(3)(torch.zeros(2, 3, 32, 32)).shape, TaskNet(6, words=2)(torch.zeros(2, 3, 32, 32)).shape
    (torch.Size([2, 3]), torch.Size([2, 2, 6]))
    """

    def __init__(
        self, num_classes: int, clips: bool = False, per_pixel: bool = False, words: int = 0, questions: int = 0
    ) -> None:
        super().__init__()
        self.words, self.per_pixel = words, per_pixel
        self.features = _three_convolutions(clips)
        outputs = num_classes * max(words, 1)
        self.head: nn.Module = nn.Conv2d(32, outputs, 1) if per_pixel else nn.Linear(32, outputs)
        if questions:
            self.questions = nn.Embedding(questions, 32)
            self.head = nn.Sequential(nn.Linear(32 * 8 * 8, 64), nn.ReLU(), nn.Linear(64, outputs))

    def forward(self, images: Float[Tensor, "B C *S"], questions: Tensor | None = None) -> Tensor:
        """The answers."""
        maps = self.features(images)
        if self.per_pixel:
            return F.interpolate(self.head(maps), images.shape[2:], mode="bilinear", align_corners=False)
        if questions is not None:  # it says which channels count
            gate = self.questions(questions).view(-1, 32, 1, 1).sigmoid()
            return self.head((maps * gate).flatten(1))  # type: ignore[no-any-return]
        answers: Tensor = self.head(maps.flatten(2).mean(dim=2))
        return answers.view(len(images), self.words, -1) if self.words else answers


class BoxNet(nn.Module):
    """A detector without anchors: for each cell of a grid a box and a score by class. It is called as torchvision's.

    In training with targets it returns its losses, else for each image `{"boxes", "scores", "labels"}`, the surest
    boxes after non-maximum suppression. Label 0 is the background, which is never answered.

    Args:
        num_classes: with the background.
        most: boxes of an image.

    >>> sorted(BoxNet(3).eval()([torch.zeros(3, 32, 32)])[0])
    ['boxes', 'labels', 'scores']
    """

    stride = 4

    def __init__(self, num_classes: int, most: int = 3) -> None:
        super().__init__()
        self.most = most
        self.features = _three_convolutions(clips=False)
        self.neck = nn.Sequential(nn.Conv2d(32, 32, 5, padding=2), nn.ReLU())
        self.classes, self.sides = nn.Conv2d(32, num_classes - 1, 1), nn.Conv2d(32, 4, 1)
        nn.init.constant_(self.classes.bias, -3.0)  # type: ignore[arg-type]

    def forward(
        self, images: Sequence[Tensor] | Tensor, targets: Sequence[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses by name, or boxes."""
        pixels = images if isinstance(images, Tensor) else torch.stack(list(images))
        maps = self.neck(self.features(pixels))
        logits, boxes = self.classes(maps).flatten(2).transpose(1, 2), self._boxes(maps)
        if self.training and targets is not None:
            return self._losses(logits, boxes, targets, maps.shape[3])
        return [self._surest(each, of_image) for each, of_image in zip(logits.sigmoid(), boxes, strict=True)]

    def _boxes(self, maps: Tensor) -> Tensor:
        left, top, right, bottom = (3 * self.sides(maps)).exp().clamp(max=64.0).flatten(2).unbind(1)
        cells = torch.arange(maps.shape[2] * maps.shape[3], device=maps.device)
        x, y = ((part + 0.5) * self.stride for part in (cells % maps.shape[3], cells // maps.shape[3]))
        return torch.stack([x - left, y - top, x + right, y + bottom], dim=2)

    def _losses(self, logits: Tensor, boxes: Tensor, targets: Sequence[Any], across: int) -> dict[str, Tensor]:
        wanted, distance = torch.zeros_like(logits), boxes.sum() * 0
        for row, target in enumerate(targets):
            centers = ((target["boxes"][:, :2] + target["boxes"][:, 2:]) / 2 / self.stride).long()
            cells = (centers[:, 1] * across + centers[:, 0]).clamp(0, logits.shape[1] - 1)
            wanted[row, cells, target["labels"] - 1] = 1
            distance = distance + F.smooth_l1_loss(boxes[row, cells], target["boxes"], reduction="sum")
        existence = F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
        return {"existence": existence / len(targets), "distance": 0.1 * distance / len(targets)}

    def _surest(self, scores: Tensor, boxes: Tensor) -> dict[str, Tensor]:
        values, classes = scores.max(dim=1)
        rows = nms(boxes.detach(), values.detach(), 0.3)[: self.most]
        return {"boxes": boxes[rows], "scores": values[rows], "labels": 1 + classes[rows]}


def _three_convolutions(clips: bool) -> nn.Sequential:
    conv, norm = (nn.Conv3d, nn.BatchNorm3d) if clips else (nn.Conv2d, nn.BatchNorm2d)
    layers = []
    for before, after, side in ((3, 16, 2), (16, 32, 2), (32, 32, 1)):
        stride: Any = (1, side, side) if clips else side
        layers.append(nn.Sequential(conv(before, after, 3, stride=stride, padding=1), norm(after), nn.ReLU()))
    return nn.Sequential(*layers)
