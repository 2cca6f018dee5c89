"""Regression: how large is the red object? The heatmap shows what the number comes from, and not the other objects.

python examples/regression.py [--quick] [--out FOLDER]
"""

from collections.abc import Sequence

import torch
from _common import Picture, Pictures, arguments, draw_pictures, encoder, report, save_figure, share_inside, train
from torch import Tensor, nn

from camtrain import explain
from camtrain.cam import regression_output

RED = 0


def pictures(count: int, seed: int) -> tuple[Pictures, Tensor, Tensor]:
    """Pictures with a red object among three, its area in pixels over 100, and its mask."""
    drawn = draw_pictures(4 * count, 3, seed=seed, radius=(5.0, 11.5))
    rows = (drawn.colors == RED).any(1).nonzero()[:count, 0]
    kept = Pictures(*(getattr(drawn, name)[rows] for name in Pictures.__dataclass_fields__))
    red = kept.masks[torch.arange(len(rows)), (kept.colors == RED).int().argmax(1)]
    return kept, red.sum((1, 2)) / 100, red


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Train, explain, draw; returns the error in hundreds of pixels and the shares of energy."""
    args = arguments(argv, "regression")
    data, areas, _ = pictures(1500, args.seed)
    net = nn.Sequential(encoder(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 1))
    train(
        net,
        lambda rows: nn.functional.mse_loss(net(data.images[rows])[:, 0], areas[rows]),
        len(areas),
        steps=100 if args.quick else 300,
    )

    test, areas, red = pictures(64, args.seed + 1)
    found = explain(net, test.images, methods=("grad_cam", "elementwise_cam"), target=regression_output())
    others = (test.masks.sum(1) - red).clamp(0, 1)
    maps = found.heatmaps["grad_cam"]
    save_figure(
        [
            [
                Picture(test.images[i], title=f"true {100 * areas[i]:.0f} px"),
                Picture(test.images[i], maps[i], red[i], f"Grad-CAM of {100 * found.scores[i]:.0f} px"),
                Picture(test.images[i], found.heatmaps["elementwise_cam"][i], red[i], "elementwise"),
            ]
            for i in range(5)
        ],
        args.out / "regression.png",
        "How large is the red object?",
    )
    return report(
        "Share of energy",
        error=float((found.scores - areas).abs().mean()),
        error_of_the_mean=float((areas - areas.mean()).abs().mean()),
        chance=float(red.mean()),
        on_the_red_object=share_inside(maps, red),
        on_the_other_two=share_inside(maps, others),
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
