"""Semantic segmentation: what did the network look at to call this region a square?

python examples/segmentation.py [--quick] [--out FOLDER]
"""

from collections.abc import Sequence

import torch
from _common import SHAPES, Picture, arguments, draw_pictures, encoder, report, save_figure, share_inside, train
from torch import Tensor, nn

from camtrain import explain
from camtrain.cam import segmentation_region


class Segmenter(nn.Module):
    """An encoder, a context block and logits for background and each shape at a quarter of the image's size."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = encoder()
        self.context = nn.Sequential(nn.Conv2d(32, 32, 5, padding=2), nn.ReLU())
        self.head = nn.Conv2d(32, 1 + len(SHAPES), 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits `(B, 5, 48, 48)` under "out", as torchvision's segmentation models."""
        logits = self.head(self.context(self.encoder(images)))
        return {"out": nn.functional.interpolate(logits, size=images.shape[2:], mode="bilinear", align_corners=False)}


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Train, explain, draw; returns the shares of energy on the region's object and on the other one."""
    args = arguments(argv, "segmentation")
    data = draw_pictures(1500, 2, seed=args.seed)
    classes = ((data.shapes[..., None, None] + 1) * data.masks).sum(1).long()
    net = Segmenter()
    train(
        net,
        lambda rows: nn.functional.cross_entropy(net(data.images[rows])["out"], classes[rows]),
        len(classes),
        steps=100 if args.quick else 300,
        batch=32,
    )

    test = draw_pictures(48, 2, seed=args.seed + 1)
    targets = [segmentation_region(index + 1) for index in range(len(SHAPES))]  # where the class is predicted
    found = explain(net, test.images, layers="encoder", methods="grad_cam", target=targets)
    maps = torch.stack([each.heatmaps["grad_cam"] for each in found], dim=1)
    predicted = found[0].logits.argmax(1)
    rows = torch.arange(len(maps))
    truth = ((test.shapes[..., None, None] + 1) * test.masks).sum(1).long()
    save_figure(
        [
            [Picture(test.images[i], title="the picture")]
            + [
                Picture(test.images[i], maps[i, s], (predicted[i] == s + 1).float(), f"the {SHAPES[s]} region")
                for s in test.shapes[i]
            ]
            for i in range(5)
        ],
        args.out / "segmentation.png",
        "Grad-CAM of a predicted region (outlined)",
    )
    return report(
        "Share of a region's energy",
        pixel_accuracy_on_objects=float((predicted == truth)[truth > 0].float().mean()),
        chance=float(test.masks.mean()),
        on_its_object=sum(share_inside(maps[rows, test.shapes[:, k]], test.masks[:, k]) for k in range(2)) / 2,
        on_the_other=sum(share_inside(maps[rows, test.shapes[:, k]], test.masks[:, 1 - k]) for k in range(2)) / 2,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
