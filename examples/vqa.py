"""Visual question answering: two inputs. Ask another question of the same picture, and the heatmap moves.

python examples/vqa.py [--quick] [--out FOLDER]
"""

from collections.abc import Sequence

import torch
from _common import COLORS, SHAPES, Picture, arguments, draw_pictures, encoder, report, save_figure, share_inside, train
from torch import Tensor, nn

from camtrain import explain
from camtrain.cam import answer_log_probability


class Answerer(nn.Module):
    """What color is the <shape>? The question scales and shifts the picture's features (FiLM) before pooling."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.encoder = encoder(width)
        self.question = nn.Embedding(len(SHAPES), 2 * width)
        self.joint = nn.Sequential(nn.Conv2d(width, width, 1), nn.ReLU())
        self.answer = nn.Linear(width, len(COLORS))

    def forward(self, image: Tensor, question: Tensor) -> Tensor:
        """Logits `(B, colors)` from images and questions `(B,)`, the number of a shape."""
        scale, shift = self.question(question)[..., None, None].chunk(2, dim=1)
        return self.answer(self.joint(self.encoder(image) * (1 + scale) + shift).amax((2, 3)))


def trained(seed: int, *, steps: int) -> Answerer:
    """A network that answers questions about drawn pictures, in evaluation mode."""
    data = draw_pictures(3000, 2, seed=seed)
    net = Answerer()

    def loss_of(rows: Tensor) -> Tensor:
        asked = torch.randint(2, (len(rows),))
        return nn.functional.cross_entropy(net(data.images[rows], data.shapes[rows, asked]), data.colors[rows, asked])

    train(net, loss_of, len(data.images), steps=steps)
    return net


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Train, explain two answers, draw; returns the shares of energy on the object asked about and the other."""
    args = arguments(argv, "vqa")
    net = trained(args.seed, steps=150 if args.quick else 400)

    test = draw_pictures(48, 2, seed=args.seed + 1)
    found = []
    for k in range(2):
        inputs = {"image": test.images, "question": test.shapes[:, k]}
        answers = net(**inputs).argmax(1)
        found.append(explain(net, inputs, methods="elementwise_cam", target=answer_log_probability(answers)))
    maps = [each.heatmaps["elementwise_cam"] for each in found]
    answers = [each.logits.argmax(1) for each in found]
    save_figure(
        [
            [Picture(test.images[i], title="the picture")]
            + [
                Picture(
                    test.images[i],
                    maps[k][i],
                    test.masks[i, k],
                    f"color of the {SHAPES[test.shapes[i, k]]}?\n{COLORS[answers[k][i]]}",
                )
                for k in range(2)
            ]
            for i in range(5)
        ],
        args.out / "vqa.png",
        "Two questions about one picture",
    )
    right = sum(float((answers[k] == test.colors[:, k]).float().mean()) for k in range(2)) / 2
    return report(
        "Share of an answer's energy",
        answers_right=right,
        chance=float(test.masks.mean()),
        on_the_object_asked_about=sum(share_inside(maps[k], test.masks[:, k]) for k in range(2)) / 2,
        on_the_other=sum(share_inside(maps[k], test.masks[:, 1 - k]) for k in range(2)) / 2,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
