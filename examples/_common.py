"""What the examples share: pictures of drawn shapes with exact masks, a small encoder, a training loop, a figure."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import torch
from torch import Tensor, nn

from camtrain.cam import resize
from camtrain.metrics import inside_energy
from camtrain.render import colorize, draw_contours, overlay, to_uint8

mpl.use("Agg")
import matplotlib.pyplot as plt

SIZE = 48
SHAPES = ("circle", "square", "triangle", "cross")
COLORS = ("red", "green", "blue", "yellow")
RGB = torch.tensor([[0.9, 0.2, 0.2], [0.2, 0.8, 0.3], [0.25, 0.4, 0.95], [0.95, 0.85, 0.2]])


@dataclass(frozen=True)
class Pictures:
    """`n` pictures of `k` objects each, none overlapping another."""

    images: Tensor  # (n, 3, SIZE, SIZE) in [0, 1]
    shapes: Tensor  # (n, k) index into SHAPES
    colors: Tensor  # (n, k) index into COLORS
    masks: Tensor  # (n, k, SIZE, SIZE) 1 on the object
    centers: Tensor  # (n, k, 2) column and row
    radii: Tensor  # (n, k) in pixels

    @property
    def boxes(self) -> Tensor:
        """`(n, k, 4)` as (x1, y1, x2, y2) in pixels."""
        return torch.cat([self.centers - self.radii.unsqueeze(2), self.centers + self.radii.unsqueeze(2)], dim=2)


def draw_pictures(count: int, objects: int, *, seed: int, radius: tuple[float, float] = (8.0, 11.0)) -> Pictures:
    """Objects of different shape and different color, each in a quarter of its own, on smooth colored noise."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    shapes, colors, quarters = (uniform(count, 4).argsort(dim=1)[:, :objects] for _ in range(3))
    radii = radius[0] + (radius[1] - radius[0]) * uniform(count, objects)
    room = SIZE / 2 - 2 * radii.unsqueeze(2)
    corner = torch.stack([quarters % 2, quarters // 2], dim=2) * SIZE / 2
    centers = corner + radii.unsqueeze(2) + room * uniform(count, objects, 2)
    masks = shape_masks(shapes, centers, radii)
    images = _background(uniform(count, 3, 6, 6), uniform(count, 3, SIZE, SIZE))
    shaded = RGB[colors] * (0.75 + 0.35 * uniform(count, objects, 3))
    for k in range(objects):
        images = torch.where(masks[:, k, None] > 0, shaded[:, k, :, None, None], images)
    return Pictures(images.clamp(0, 1), shapes, colors, masks, centers, radii)


def shape_masks(shapes: Tensor, centers: Tensor, radii: Tensor, size: int = SIZE) -> Tensor:
    """`(..., size, size)` 1 on each shape."""
    axis = torch.arange(size) + 0.5
    x = (axis - centers[..., 0, None, None]) / radii[..., None, None]
    y = (axis.unsqueeze(1) - centers[..., 1, None, None]) / radii[..., None, None]
    forms = [
        x**2 + y**2 <= 1,
        (x.abs() <= 0.85) & (y.abs() <= 0.85),
        (y <= 0.9) & (x.abs() <= (y + 1) / 2),
        ((x.abs() <= 0.33) & (y.abs() <= 1)) | ((y.abs() <= 0.33) & (x.abs() <= 1)),
    ]
    stacked = torch.stack([form.expand(*shapes.shape, size, size) for form in forms])
    return stacked.gather(0, shapes[None, ..., None, None].expand(1, *shapes.shape, size, size))[0].float()


def _background(coarse: Tensor, fine: Tensor) -> Tensor:
    smooth = nn.functional.interpolate(coarse, size=fine.shape[2:], mode="bilinear", align_corners=False)
    return 0.25 + 0.35 * smooth + 0.12 * (fine - 0.5)


def encoder(channels: int = 32, *, inputs: int = 3) -> nn.Sequential:
    """Images `(B, 3, 48, 48)` to maps `(B, channels, 12, 12)`; each cell sees 27 pixels around it."""

    def block(before: int, after: int, kernel: int, stride: int) -> list[nn.Module]:
        conv = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)
        return [conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]

    return nn.Sequential(
        *block(inputs, 16, 5, 2),
        *block(16, channels, 3, 2),
        *block(channels, channels, 3, 1),
        *block(channels, channels, 3, 1),
    )


def train(
    net: nn.Module, loss_of: Callable[[Tensor], Tensor], count: int, *, steps: int, batch: int = 40, rate: float = 3e-3
) -> None:
    """AdamW with one cycle of the rate; `loss_of` takes the indices of a batch. Leaves the net in evaluation mode."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps)
    net.train()
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(torch.randint(count, (batch,))).backward()
        optimizer.step()
        schedule.step()
    net.eval()


@dataclass(frozen=True)
class Picture:
    """One cell of the figure: an image, a heatmap over it, the outline of a mask, a title.

    The heatmap is painted on a scale of its own, or on a given one from 0 to `full`.
    """

    image: Tensor
    heatmap: Tensor | None = None
    mask: Tensor | None = None
    title: str = ""
    full: float | None = None


def save_figure(rows: Sequence[Sequence[Picture]], path: Path, headline: str) -> Path:
    """The pictures as a grid in one PNG."""
    columns = max(len(row) for row in rows)
    figure, axes = plt.subplots(len(rows), columns, figsize=(1.7 * columns, 1.9 * len(rows) + 0.4), squeeze=False)
    for cells, row in zip(axes, rows, strict=True):
        for axis in cells:
            axis.axis("off")
        for axis, picture in zip(cells, row, strict=False):
            axis.imshow(_pixels(picture).permute(1, 2, 0).numpy())
            axis.set_title(picture.title, fontsize=8)
    figure.suptitle(headline, fontsize=10)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _pixels(picture: Picture, scale: int = 4) -> Tensor:
    image = nn.functional.interpolate(picture.image[None], scale_factor=scale, mode="nearest")
    if picture.heatmap is None:
        pixels = to_uint8(image)
    elif picture.full is None:
        pixels = overlay(image, picture.heatmap[None], alpha=0.5)
    else:
        heat = resize(picture.heatmap[None], image.shape[2:]) / picture.full
        pixels = (0.5 * to_uint8(image) + 0.5 * colorize(heat)).to(torch.uint8)
    if picture.mask is not None:
        pixels = draw_contours(pixels, nn.functional.interpolate(picture.mask[None, None], scale_factor=scale)[0])
    return pixels[0]


def share_inside(heatmaps: Tensor, masks: Tensor) -> float:
    """The mean share of heatmap energy inside the masks, heatmaps resized to the masks first."""
    return float(inside_energy(resize(heatmaps, masks.shape[1:]), masks).nanmean())


def arguments(argv: Sequence[str] | None, name: str) -> argparse.Namespace:
    """`--quick`, `--out FOLDER`, `--seed N`; seeds torch and takes one thread."""
    parser = argparse.ArgumentParser(prog=f"{name}.py")
    parser.add_argument("--quick", action="store_true", help="train for less long")
    parser.add_argument("--out", type=Path, default=Path("runs/examples"), help="folder for the picture")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    torch.manual_seed(given.seed)
    return given


def report(headline: str, **numbers: float) -> dict[str, float]:
    """Print the numbers that say whether the heatmaps make sense, and return them."""
    print(headline)
    for name, number in numbers.items():
        print(f"  {name.replace('_', ' ')}: {number:.3f}")
    return numbers
