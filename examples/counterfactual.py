"""Counterfactual explanations: what would have to go for the network to be surer of this class?

python examples/counterfactual.py [--quick] [--out FOLDER]
"""

from collections.abc import Sequence

import torch
from _common import SHAPES, Picture, arguments, draw_pictures, encoder, report, save_figure, share_inside, train
from torch import Tensor, nn

from camtrain import explain
from camtrain.cam import class_index, resize


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Train to name the largest object, explain it, cover what speaks against it; returns the changes."""
    args = arguments(argv, "counterfactual")
    data = draw_pictures(3000, 2, seed=args.seed, radius=(6.0, 11.5))
    labels = data.shapes.gather(1, data.radii.argmax(1, keepdim=True))[:, 0]
    net = nn.Sequential(encoder(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, len(SHAPES)))
    train(
        net,
        lambda rows: nn.functional.cross_entropy(net(data.images[rows]), labels[rows]),
        len(labels),
        steps=160 if args.quick else 400,
        batch=40,
    )

    test = draw_pictures(48, 2, seed=args.seed + 1, radius=(6.0, 11.5))
    order = test.radii.argsort(dim=1, descending=True)
    masks = test.masks.gather(1, order[..., None, None].expand_as(test.masks))
    labels = test.shapes.gather(1, order)[:, 0]
    found = explain(net, test.images, methods=("grad_cam", "counterfactual_cam"), target=class_index(labels))
    pro, contra = found.heatmaps["grad_cam"], found.heatmaps["counterfactual_cam"]
    before = found.logits.softmax(1).gather(1, labels[:, None])[:, 0]
    covered, elsewhere = (cover(test.images, heat) for heat in (contra, contra.flip(1, 2)))
    with torch.no_grad():
        after, placebo = (net(images).softmax(1).gather(1, labels[:, None])[:, 0] for images in (covered, elsewhere))
    unsure = before < 0.99  # where there is something to gain
    right = found.logits.argmax(1) == labels
    chosen = torch.where(right, before, 2).argsort()[:5]  # right, but least sure
    save_figure(
        [
            [
                Picture(test.images[i], title=f"{SHAPES[labels[i]]}: {before[i]:.2f}"),
                Picture(test.images[i], pro[i], masks[i, 0], "speaks for it"),
                Picture(test.images[i], contra[i], masks[i, 1], "speaks against it"),
                Picture(covered[i], title=f"that covered: {after[i]:.2f}"),
            ]
            for i in chosen
        ],
        args.out / "counterfactual.png",
        "Which is larger? For the larger one's class",
    )
    return report(
        "Counterfactual",
        accuracy=float(right.float().mean()),
        chance=float(masks.mean()),
        counterfactual_on_the_rival=share_inside(contra, masks[:, 1]),
        counterfactual_on_the_object=share_inside(contra, masks[:, 0]),
        probability_before=float(before[unsure].mean()),
        probability_with_the_rival_covered=float(after[unsure].mean()),
        probability_with_another_place_covered=float(placebo[unsure].mean()),
    )


def cover(images: Tensor, heatmaps: Tensor, area: float = 0.12) -> Tensor:
    """The images with the hottest part replaced by their mean color."""
    heat = resize(heatmaps, images.shape[2:]).unsqueeze(1)
    threshold = heat.flatten(1).quantile(1 - area, dim=1).view(-1, 1, 1, 1)
    return torch.where(heat > threshold, images.mean((2, 3), keepdim=True), images)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
