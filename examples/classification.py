"""Classification: which shape is it? One pass gives every gradient method; their energy lies on the object.

python examples/classification.py [--quick] [--out FOLDER]
"""

from collections.abc import Sequence

import torch
from _common import SHAPES, Picture, arguments, draw_pictures, encoder, report, save_figure, share_inside, train
from torch import nn

from camtrain import explain

METHODS = ("grad_cam", "grad_cam_plus_plus", "layer_cam", "hires_cam", "contribution_cam", "score_cam")


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Train, explain, draw; returns each method's share of energy on the object, and the object's of the image."""
    args = arguments(argv, "classification")
    data = draw_pictures(2000, 1, seed=args.seed)
    labels = data.shapes[:, 0]
    net = nn.Sequential(encoder(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, len(SHAPES)))
    train(
        net,
        lambda rows: nn.functional.cross_entropy(net(data.images[rows]), labels[rows]),
        len(labels),
        steps=130 if args.quick else 350,
    )

    test = draw_pictures(64, 1, seed=args.seed + 1)
    masks = test.masks[:, 0]
    found = explain(net, test.images, methods=METHODS)
    accuracy = (found.logits.argmax(1) == test.shapes[:, 0]).float().mean()
    rows = [
        [Picture(test.images[i], mask=masks[i], title=SHAPES[test.shapes[i, 0]])]
        + [Picture(test.images[i], found.heatmaps[name][i], masks[i], name) for name in METHODS]
        for i in range(5)
    ]
    save_figure(rows, args.out / "classification.png", "Which shape is it?")
    inside = {name: share_inside(found.heatmaps[name], masks) for name in METHODS}
    return report("Share of energy on the object", accuracy=float(accuracy), chance=float(masks.mean()), **inside)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
