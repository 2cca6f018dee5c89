"""Multi-label classification: which shapes are in the picture? One forward pass, a heatmap for each label.

python examples/multi_label.py [--quick] [--out FOLDER]
"""

from collections.abc import Sequence

import torch
from _common import SHAPES, Picture, arguments, draw_pictures, encoder, report, save_figure, share_inside, train
from torch import nn

from camtrain import explain
from camtrain.cam import class_index, multi_label


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Train, explain, draw; returns the share of a label's energy on its own object and on the other two."""
    args = arguments(argv, "multi_label")
    data = draw_pictures(1500, 3, seed=args.seed)
    present = nn.functional.one_hot(data.shapes, len(SHAPES)).sum(1).float()
    net = nn.Sequential(encoder(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(32, len(SHAPES)))
    train(
        net,
        lambda rows: nn.functional.binary_cross_entropy_with_logits(net(data.images[rows]), present[rows]),
        len(present),
        steps=120 if args.quick else 300,
    )

    test = draw_pictures(64, 3, seed=args.seed + 1)
    labels = nn.functional.one_hot(test.shapes, len(SHAPES)).sum(1)
    targets = [class_index(i) for i in range(len(SHAPES))] + [multi_label]
    *each, every = explain(net, test.images, methods="layer_cam", target=targets, labels=labels)
    heatmaps = torch.stack([found.heatmaps["layer_cam"] for found in each], dim=1)  # (B, class, h, w)
    rows = torch.arange(len(labels))
    own = [share_inside(heatmaps[rows, test.shapes[:, k]], test.masks[:, k]) for k in range(3)]
    other = [share_inside(heatmaps[rows, test.shapes[:, k]], test.masks[:, k - 1]) for k in range(3)]
    save_figure(
        [
            [Picture(test.images[i], title="the picture")]
            + [
                Picture(test.images[i], heatmaps[i, s], test.masks[i, k], SHAPES[s])
                for k, s in enumerate(test.shapes[i])
            ]
            + [Picture(test.images[i], every.heatmaps["layer_cam"][i], test.masks[i].sum(0), "all of them")]
            for i in range(5)
        ],
        args.out / "multi_label.png",
        "LayerCAM for each label that is present",
    )
    accuracy = ((every.logits > 0) == labels).float().mean()
    return report(
        "Share of a label's energy",
        accuracy=float(accuracy),
        chance=float(test.masks.mean()),
        on_its_object=sum(own) / 3,
        on_another_object=sum(other) / 3,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
