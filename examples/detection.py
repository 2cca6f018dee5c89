"""Object detection: what did the detector look at for this box?

python examples/detection.py [--quick] [--out FOLDER]
"""

from collections.abc import Sequence

import torch
from _common import (
    SHAPES,
    SIZE,
    Picture,
    Pictures,
    arguments,
    draw_pictures,
    encoder,
    report,
    save_figure,
    share_inside,
    train,
)
from torch import Tensor, nn

from camtrain import explain
from camtrain.cam import detection_box

STRIDE, GRID = 4, SIZE // 4


class Detector(nn.Module):
    """One box for each cell of a 12x12 grid, with a logit for each shape."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = encoder()
        self.neck = nn.Sequential(nn.Conv2d(32, 48, 5, padding=2), nn.ReLU())
        self.classes = nn.Conv2d(48, len(SHAPES), 1)
        self.sides = nn.Conv2d(48, 4, 1)
        nn.init.constant_(self.classes.bias, -3.0)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """`boxes` `(B, 144, 4)` in pixels and `logits` `(B, 144, 4)`."""
        features = self.neck(self.encoder(images))
        left, top, right, bottom = (4 * self.sides(features)).exp().clamp(max=SIZE).flatten(2).unbind(1)
        cells = torch.arange(GRID * GRID)
        x, y = (cells % GRID + 0.5) * STRIDE, (cells // GRID + 0.5) * STRIDE
        boxes = torch.stack([x - left, y - top, x + right, y + bottom], dim=2)
        return {"boxes": boxes, "logits": self.classes(features).flatten(2).transpose(1, 2)}


def loss_of(net: Detector, data: Pictures, rows: Tensor) -> Tensor:
    """Binary cross-entropy of every cell, and the distance of the boxes at the objects' centers."""
    found = net(data.images[rows])
    cells = (data.centers[rows] / STRIDE).long().clamp(0, GRID - 1)
    index = cells[..., 1] * GRID + cells[..., 0]  # (B, k)
    wanted = torch.zeros_like(found["logits"])
    batch = torch.arange(len(rows)).unsqueeze(1)
    wanted[batch, index, data.shapes[rows]] = 1
    existence = nn.functional.binary_cross_entropy_with_logits(found["logits"], wanted, reduction="sum") / len(rows)
    distance = nn.functional.smooth_l1_loss(found["boxes"][batch, index], data.boxes[rows])
    return existence + distance


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Train, explain, draw; returns the shares of energy on the box's object and on the other one."""
    args = arguments(argv, "detection")
    data = draw_pictures(1500, 2, seed=args.seed)
    net = Detector()
    train(net, lambda rows: loss_of(net, data, rows), len(data.images), steps=150 if args.quick else 400, batch=32)

    test = draw_pictures(48, 2, seed=args.seed + 1)
    targets = [detection_box(test.boxes[:, k]) for k in range(2)]
    found = explain(net, test.images, layers="encoder", methods="hires_cam", target=targets)
    maps = [each.heatmaps["hires_cam"] for each in found]
    right = [_is_right(net, test, k) for k in range(2)]
    save_figure(
        [
            [Picture(test.images[i], title="the picture")]
            + [
                Picture(
                    test.images[i],
                    maps[k][i],
                    _outline(test.boxes[i, k]),
                    f"the box of the {SHAPES[test.shapes[i, k]]}",
                )
                for k in range(2)
            ]
            for i in range(5)
        ],
        args.out / "detection.png",
        "HiResCAM of one detected box (outlined)",
    )
    return report(
        "Share of a box's energy",
        right_class_at_the_center=sum(right) / 2,
        chance=float(test.masks.mean()),
        on_its_object=sum(share_inside(maps[k], test.masks[:, k]) for k in range(2)) / 2,
        on_the_other=sum(share_inside(maps[k], test.masks[:, 1 - k]) for k in range(2)) / 2,
    )


@torch.no_grad()
def _is_right(net: Detector, test: Pictures, k: int) -> float:
    cells = (test.centers[:, k] / STRIDE).long().clamp(0, GRID - 1)
    logits = net(test.images)["logits"][torch.arange(len(cells)), cells[:, 1] * GRID + cells[:, 0]]
    return float((logits.argmax(1) == test.shapes[:, k]).float().mean())


def _outline(box: Tensor) -> Tensor:
    x1, y1, x2, y2 = box.round().int().clamp(0, SIZE).tolist()
    mask = torch.zeros(SIZE, SIZE)
    mask[y1:y2, x1:x2] = 1
    return mask


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
