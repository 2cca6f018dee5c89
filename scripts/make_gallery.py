"""Write docs/gallery.md and its pictures from real photographs and pretrained weights.

python scripts/make_gallery.py [--data ../shared/data] [--out docs]
"""

import argparse
import csv
import functools
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from camtrain import explain
from camtrain.cam import finer, normalize, resize, score_cam, top_k
from camtrain.metrics import inside_energy, pointing_game
from camtrain.render import colorize, draw_contours, overlay

SIDE, CELL = 224, 128
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
GRADIENT = (
    "grad_cam", "grad_cam_plus_plus", "hires_cam", "layer_cam", "xgrad_cam", "elementwise_cam", "contribution_cam",
)  # fmt: skip
SQUEEZED = (
    "grad_cam",
    "grad_cam_plus_plus",
    "layer_cam",
    "xgrad_cam",
    "contribution_cam",
    "eigen_cam",
    "counterfactual_cam",
)
RUNNING = (
    "smooth_grad_cam_plus_plus",
    "ablation_cam",
    "score_cam",
    "occlusion_map",
    "guided_backpropagation",
    "guided_grad_cam",
)
OPTIONS = {"score_cam": functools.partial(score_cam, max_batch=16)}
PHOTOS = ("n02391049", "n02510455", "n02123597", "n03063599", "n04562935")


@dataclass(frozen=True)
class Photos:
    """Photographs as a network takes them, with masks where there are any."""

    inputs: Tensor  # (B, 3, 224, 224) normalized
    labels: Tensor  # (B,) ImageNet class
    names: list[str]
    masks: Tensor | None = None

    @property
    def images(self) -> Tensor:
        """In [0, 1]."""
        return (self.inputs * STD + MEAN).clamp(0, 1)


def read_picture(path: Path, flag: int = cv2.IMREAD_COLOR) -> Tensor:
    """A picture as `(C, H, W)` in [0, 1], RGB."""
    pixels = cv2.imread(str(path), flag)
    if pixels is None:
        raise SystemExit(f"No picture at {path}: pass --data, the folder that holds imagenet_photos and weights.")
    if pixels.ndim == 2:
        return torch.from_numpy(pixels).unsqueeze(0) / 255
    return torch.from_numpy(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)).permute(2, 0, 1) / 255


def square(picture: Tensor, mode: str = "bilinear") -> Tensor:
    """The middle of a picture at 224 px: short side to 224, then cropped."""
    scale = SIDE / min(picture.shape[1:])
    size = [max(SIDE, round(side * scale)) for side in picture.shape[1:]]
    options = {"align_corners": False, "antialias": True} if mode == "bilinear" else {}
    resized = F.interpolate(picture[None], size=size, mode=mode, **options)[0]
    top, left = ((side - SIDE) // 2 for side in size)
    return resized[:, top : top + SIDE, left : left + SIDE]


def read_photos(data: Path, wnids: Sequence[str]) -> Photos:
    """ImageNet photographs by their class."""
    with (data / "imagenet_photos" / "index.csv").open() as file:
        rows = {row["wnid"]: row for row in csv.DictReader(file)}
    chosen = [rows[wnid] for wnid in wnids]
    images = torch.stack([square(read_picture(data / "imagenet_photos" / row["file"])) for row in chosen])
    labels = torch.tensor([int(row["imagenet_idx"]) for row in chosen])
    return Photos((images - MEAN) / STD, labels, [row["label"] for row in chosen])


def read_masked(data: Path, count: int) -> Photos:
    """`count` photographs with hand-drawn masks, every so many of the folder, with one object each."""
    folder = data / "sysu_shapes"
    with (folder / "index.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["n_objects"] == "1"]
    rows = rows[:: len(rows) // count][:count]
    images = torch.stack([square(read_picture(folder / "images" / row["file"])) for row in rows])
    masks = [
        read_picture(folder / "masks" / Path(row["file"]).with_suffix(".png"), cv2.IMREAD_GRAYSCALE) for row in rows
    ]
    cut = torch.stack([square((mask > 0).float(), "nearest")[0] for mask in masks])
    labels = torch.tensor([int(row["imagenet_idx"].split(";")[0]) for row in rows])
    return Photos((images - MEAN) / STD, labels, [row["label"] for row in rows], cut)


def mobilenet(data: Path) -> nn.Module:
    """MobileNetV2 with ImageNet weights."""
    net = torchvision.models.mobilenet_v2(weights=None)
    net.load_state_dict(torch.load(data / "weights" / "mobilenet_v2-b0353104.pth", weights_only=True))
    return net.eval()


def squeezenet(data: Path) -> nn.Module:
    """SqueezeNet 1.1 with ImageNet weights."""
    net = torchvision.models.squeezenet1_1(weights=None)
    net.load_state_dict(torch.load(data / "weights" / "squeezenet1_1-caffe-tvnorm.pth", weights_only=True))
    return net.eval()


def i3d(data: Path) -> tuple[nn.Module, list[str]]:
    """Inception-I3D with Kinetics-400 weights, and the names of its classes."""
    path = data / "weights" / "i3d_rgb.py"
    spec = importlib.util.spec_from_file_location("i3d_rgb", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"No network at {path}.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    net = next(value for name, value in vars(module).items() if isinstance(value, type) and "I3D" in name.upper())()
    state = torch.load(data / "weights" / "i3d_rgb_kinetics400_fp16.pth", weights_only=True)
    net.load_state_dict({name: value.float() if value.is_floating_point() else value for name, value in state.items()})
    return net.eval(), (data / "weights" / "kinetics400_classes.txt").read_text().splitlines()


def read_clip(path: Path, frames: int) -> Tensor:
    """The middle frames of a video, `(3, T, 224, 224)` in [0, 1]."""
    video = cv2.VideoCapture(str(path))
    kept = []
    while (read := video.read())[0]:
        kept.append(torch.from_numpy(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB)).permute(2, 0, 1) / 255)
    start = max(0, (len(kept) - frames) // 2)
    return torch.stack([square(frame) for frame in kept[start : start + frames]], dim=1)


def write_grid(rows: Sequence[Sequence[Tensor]], titles: Sequence[str], path: Path, quality: int = 82) -> None:
    """Rows of `(3, H, W)` uint8 pictures below their titles, as one JPEG."""
    cells = [torch.cat([F.pad(small(cell), (2, 2, 2, 2), value=255) for cell in row], dim=2) for row in rows]
    sheet = torch.cat(cells, dim=1).permute(1, 2, 0).contiguous().numpy()
    sheet = cv2.copyMakeBorder(sheet, 20, 0, 0, 0, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    for i, title in enumerate(titles):
        cv2.putText(sheet, title, (4 + i * (CELL + 4), 14), cv2.FONT_HERSHEY_SIMPLEX, 0.36, (0, 0, 0), 1, cv2.LINE_AA)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])


def small(picture: Tensor) -> Tensor:
    """A picture at the size of one cell."""
    resized = F.interpolate(picture[None].float(), size=(CELL, CELL), mode="bilinear", antialias=True)[0]
    return resized.round().clamp(0, 255).to(torch.uint8)


def plain(images: Tensor) -> Tensor:
    """Images in [0, 1] as uint8."""
    return (images * 255).round().to(torch.uint8)


def short(name: str) -> str:
    """A method's name that fits over a cell."""
    shorter = {"smooth_grad_cam_plus_plus": "smooth++", "guided_backpropagation": "guided backprop"}
    return shorter.get(name, name.replace("_cam_plus_plus", "-cam++").replace("_", "-"))


def show_methods(net: nn.Module, photos: Photos, methods: Sequence[str], path: Path) -> None:
    """One row for each photograph, one column for each method."""
    found = explain(net, photos.inputs, methods=[OPTIONS.get(name, name) for name in methods])
    painted = [overlay(photos.images, without_outliers(found.heatmaps[name]), alpha=0.5) for name in methods]
    rows = [[plain(photos.images)[i]] + [column[i] for column in painted] for i in range(len(photos.names))]
    write_grid(rows, ["photograph", *map(short, methods)], path)


def without_outliers(heatmaps: Tensor) -> Tensor:
    """Heatmaps as fine as the image, cut off at their 99th percentile so that single pixels do not set the scale."""
    if heatmaps.shape[1] < SIDE:
        return heatmaps
    return heatmaps.minimum(heatmaps.flatten(1).quantile(0.99, dim=1).view(-1, 1, 1))


def show_classes(net: nn.Module, photos: Photos, path: Path) -> list[list[str]]:
    """The three likeliest classes, and what tells the first from the next ones."""
    found = explain(net, photos.inputs, methods="grad_cam", target=(*top_k(3), finer()))
    maps = [each.heatmaps["grad_cam"] for each in found]
    painted = [overlay(photos.images, heat, alpha=0.5) for heat in maps]
    rows = [[plain(photos.images)[i]] + [column[i] for column in painted] for i in range(len(photos.names))]
    write_grid(rows, ["photograph", "1st class", "2nd class", "3rd class", "finer"], path)
    names = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"]
    return [[names[i] for i in row] for row in found[0].logits.topk(3).indices]


def show_masked(net: nn.Module, photos: Photos, path: Path) -> None:
    """Grad-CAM and Grad-CAM++ over outlines."""
    found = explain(net, photos.inputs)
    masks = photos.masks if photos.masks is not None else torch.zeros(len(photos.names), SIDE, SIDE)
    rows = [
        draw_contours(overlay(photos.images, found.heatmaps[name], alpha=0.5), masks, width=2)
        for name in ("grad_cam", "grad_cam_plus_plus")
    ]
    write_grid([list(plain(photos.images)), *map(list, rows)], photos.names, path)


def measure(net: nn.Module, photos: Photos, methods: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Inside energy and pointing game of each method, over all photographs."""
    sums: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in methods}
    for inputs, masks in zip(photos.inputs.split(20), photos.masks.split(20), strict=True):
        found = explain(net, inputs, methods=list(methods))
        for name in methods:
            heat = resize(found.heatmaps[name], (SIDE, SIDE))
            sums[name].append((inside_energy(heat, masks), pointing_game(heat, masks)))
    columns = {name: [torch.cat(column) for column in zip(*parts, strict=True)] for name, parts in sums.items()}
    return {name: tuple(float(column.nanmean()) for column in both) for name, both in columns.items()}


def show_clip(data: Path, name: str, path: Path, frames: int = 64, shown: int = 8) -> str:
    """Frames of a clip with their heatmaps on one scale; what the network saw in it."""
    net, classes = i3d(data)
    clip = read_clip(data / "videos" / name, frames)
    found = explain(net, clip[None] * 2 - 1, layers="Mixed_5c", methods="grad_cam")
    heat = resize(normalize(found.heatmaps["grad_cam"]), clip.shape[1:])[0]
    every = range(frames // shown // 2, frames, frames // shown)
    painted = [(0.5 * plain(clip[:, t]) + 0.5 * colorize(heat[t : t + 1])[0]).to(torch.uint8) for t in every]
    rank = found.heatmaps["grad_cam"][0].sum((1, 2)).argsort(descending=True).argsort()
    titles = [f"frame {t}, rank {int(rank[t * len(rank) // frames]) + 1}" for t in every]
    write_grid([[plain(clip[:, t]) for t in every], painted], titles, path)
    probability, index = found.logits.softmax(1)[0].max(0)
    return f"{classes[int(index)]}, p = {float(probability):.2f}"


PAGE = """# Gallery

Real photographs, pretrained networks. This page is made by `python scripts/make_gallery.py --data DIR`; the heatmaps
are raw energy at the size of the feature map, resized bilinearly, each painted on a scale of its own.

## Methods from one forward and one partial backward

MobileNetV2, `layers="auto"` (a 7x7 map), the predicted class. All columns come from the same pass.

![gradient methods]({folder}/gradient.jpg)

With global average pooling right after the layer, as here, the gradient is the same at every cell: Grad-CAM, HiResCAM
and XGrad-CAM agree.

## Another network

SqueezeNet 1.1, a 13x13 map. Eigen-CAM knows no class. The last column is the counterfactual: what lowers the predicted
class; a hatched frame marks an empty map, where nothing does.

![SqueezeNet]({folder}/squeezenet.jpg)

## Methods that run the model

SqueezeNet 1.1. Ablation-CAM, Score-CAM and occlusion need no gradient. Guided backpropagation is at the resolution of
the image (cut off at the 99th percentile for display).

![methods that run the model]({folder}/running.jpg)

## Several classes from one forward

Grad-CAM of the three likeliest classes, and of `finer()`: what tells the first from the three closest to it.

![classes]({folder}/classes.jpg)

{classes}

## Against hand-drawn outlines

MobileNetV2's Grad-CAM (second row) and Grad-CAM++ (third row).

![outlines]({folder}/outlines.jpg)

Over {count} photographs of one object each: the share of a heatmap's energy on the object (chance: {chance:.2f}, the
object's share of the image), and how often its maximum is on it.

| method | inside energy | pointing game |
|---|---|---|
{table}

## Video

Inception-I3D, Grad-CAM at `Mixed_5c`, one scale for the clip ({clip}). Frames are ranked by their energy.

![video]({folder}/video.jpg)
"""


def main() -> None:
    """Make every picture and the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--masked", type=int, default=100, help="photographs to measure on")
    args = parser.parse_args()
    folder = args.out / "gallery"
    torch.manual_seed(0)

    photos, net = read_photos(args.data, PHOTOS), mobilenet(args.data)
    show_methods(net, photos, GRADIENT, folder / "gradient.jpg")
    show_methods(squeezenet(args.data), photos, SQUEEZED, folder / "squeezenet.jpg")
    show_methods(squeezenet(args.data), photos, RUNNING, folder / "running.jpg")
    classes = show_classes(net, photos, folder / "classes.jpg")
    masked = read_masked(args.data, args.masked)
    few = torch.arange(0, len(masked.names), len(masked.names) // 8)[:8]
    shown = Photos(masked.inputs[few], masked.labels[few], [masked.names[i] for i in few], masked.masks[few])
    show_masked(net, shown, folder / "outlines.jpg")
    measured = measure(net, masked, (*GRADIENT, "eigen_cam", "guided_grad_cam"))
    clip = show_clip(args.data, "v_SoccerJuggling_g23_c01.avi", folder / "video.jpg")
    page = PAGE.format(
        folder=folder.name,
        classes="\n".join(f"* {name}: {', '.join(row)}" for name, row in zip(photos.names, classes, strict=True)),
        count=len(masked.names),
        chance=float(masked.masks.mean()),
        table="\n".join(f"| `{name}` | {inside:.2f} | {hits:.2f} |" for name, (inside, hits) in measured.items()),
        clip=clip,
    )
    (args.out / "gallery.md").write_text(page)
    total = sum(file.stat().st_size for file in folder.glob("*.jpg"))
    sys.stdout.write(f"{args.out / 'gallery.md'}: {total / 2**20:.2f} MiB of pictures\n")


if __name__ == "__main__":
    main()
