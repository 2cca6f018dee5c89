"""Embedding similarity: where is what makes this picture similar to that one? Two queries, two heatmaps.

python examples/embedding_similarity.py [--quick] [--out FOLDER]
"""

from collections.abc import Sequence

import torch
from _common import Picture, Pictures, arguments, draw_pictures, encoder, report, save_figure, share_inside, train
from torch import Tensor, nn

from camtrain import explain
from camtrain.cam import embedding_similarity


def one_of(pictures: Pictures, k: int) -> Tensor:
    """A reference for each picture: its object `k` alone, on a plain ground, in the middle."""
    mask = pictures.masks[:, k, None]
    alone = mask * pictures.images + (1 - mask) * 0.45
    shifts = (24 - pictures.centers[:, k]).round().int()
    return torch.stack([image.roll((int(dy), int(dx)), (1, 2)) for image, (dx, dy) in zip(alone, shifts, strict=True)])


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Train, explain, draw; returns the shares of energy on the object asked for and on the other one."""
    args = arguments(argv, "embedding_similarity")
    data = draw_pictures(1500, 2, seed=args.seed)
    references = torch.stack([one_of(data, 0), one_of(data, 1)], dim=1)
    net = nn.Sequential(encoder(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 32, bias=False))

    def loss_of(rows: Tensor) -> Tensor:
        """A picture is closer to a reference of its own objects than to those of other pictures (InfoNCE)."""
        which = torch.randint(2, (len(rows),))
        pictures, wanted = (
            nn.functional.normalize(net(images), dim=1) for images in (data.images[rows], references[rows, which])
        )
        same = torch.stack(
            [
                (data.shapes[rows, None] == data.shapes[rows, which][None, :, None]).any(2),
                (data.colors[rows, None] == data.colors[rows, which][None, :, None]).any(2),
            ]
        ).all(0)
        likelihood = (10 * pictures @ wanted.T).log_softmax(dim=0)
        return -(likelihood * same).sum() / same.sum()

    train(net, loss_of, len(data.images), steps=100 if args.quick else 300)

    test = draw_pictures(64, 2, seed=args.seed + 1)
    queries = [one_of(test, k) for k in range(2)]
    with torch.no_grad():
        targets = [embedding_similarity(net(query)) for query in queries]
    found = explain(net, test.images, methods="hires_cam", target=targets)
    maps = [each.heatmaps["hires_cam"] for each in found]
    save_figure(
        [
            [Picture(test.images[i], title="the picture")]
            + [
                cell
                for k in range(2)
                for cell in (
                    Picture(queries[k][i], title="similar to this?"),
                    Picture(test.images[i], maps[k][i], test.masks[i, k], f"cosine {found[k].scores[i]:.2f}"),
                )
            ]
            for i in range(5)
        ],
        args.out / "embedding_similarity.png",
        "What makes the picture similar to a reference (HiResCAM of the cosine)",
    )
    return report(
        "Share of energy",
        chance=float(test.masks.mean()),
        on_the_object_asked_for=sum(share_inside(maps[k], test.masks[:, k]) for k in range(2)) / 2,
        on_the_other_object=sum(share_inside(maps[k], test.masks[:, 1 - k]) for k in range(2)) / 2,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
