"""Image captioning: a small encoder-decoder, and a heatmap for each word that it says.

python examples/captioning.py [--quick] [--out FOLDER]
"""

from collections.abc import Sequence

import torch
from _common import (
    COLORS,
    SHAPES,
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
from camtrain.cam import caption_token

WORDS = ("<start>", *COLORS, *SHAPES, "left of")
LENGTH = 5  # color shape "left of" color shape


def captions(pictures: Pictures) -> tuple[Tensor, Tensor]:
    """Words `(n, 5)` that name the left object first, and the order of the two objects `(n, 2)`."""
    order = pictures.centers[:, :, 0].argsort(dim=1)
    colors, shapes = pictures.colors.gather(1, order) + 1, pictures.shapes.gather(1, order) + 1 + len(COLORS)
    between = torch.full_like(colors[:, :1], len(WORDS) - 1)
    return torch.cat([colors[:, :1], shapes[:, :1], between, colors[:, 1:], shapes[:, 1:]], dim=1), order


class Captioner(nn.Module):
    """A convolutional encoder; a recurrent decoder that attends to its map before each word."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.encoder = encoder(width)
        self.column = nn.Parameter(torch.zeros(1, width, 1, 12))  # the decoder must know left from right
        self.words = nn.Embedding(len(WORDS), width)
        self.cell = nn.GRUCell(2 * width, width)
        self.query = nn.Linear(2 * width, width)
        self.out = nn.Linear(2 * width, len(WORDS))

    def forward(self, images: Tensor, said: Tensor) -> Tensor:
        """Logits `(B, T, words)` of the word after each of those said so far `(B, T)`, which begin with <start>."""
        features = self.encoder(images)
        values = features.flatten(2)  # (B, width, cells)
        keys = (features + self.column).flatten(2)
        state, seen, logits = torch.zeros_like(values[:, :, 0]), values.mean(2), []
        for word in self.words(said).unbind(1):
            state = self.cell(torch.cat([word, seen], dim=1), state)
            attention = torch.einsum("bk,bks->bs", self.query(torch.cat([state, word], dim=1)), keys).softmax(dim=1)
            seen = torch.einsum("bs,bks->bk", attention, values)
            logits.append(self.out(torch.cat([state, seen], dim=1)))
        return torch.stack(logits, dim=1)

    @torch.no_grad()
    def say(self, images: Tensor) -> Tensor:
        """The most likely caption `(B, 5)`, word by word."""
        said = torch.zeros(len(images), 1, dtype=torch.long)
        for _ in range(LENGTH):
            said = torch.cat([said, self(images, said)[:, -1:].argmax(dim=2)], dim=1)
        return said[:, 1:]


def trained(seed: int, *, steps: int) -> Captioner:
    """A captioner of drawn pictures, in evaluation mode."""
    data = draw_pictures(2000, 2, seed=seed)
    words, _ = captions(data)
    net = Captioner()
    begun = nn.functional.pad(words, (1, 0))[:, :-1]
    train(
        net,
        lambda rows: nn.functional.cross_entropy(
            net(data.images[rows], begun[rows]).flatten(0, 1), words[rows].flatten()
        ),
        len(words),
        steps=steps,
        batch=48,
    )
    return net


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Train, explain each word, draw; returns the shares of a word's energy on its object and on the other one."""
    args = arguments(argv, "captioning")
    net = trained(args.seed, steps=200 if args.quick else 500)

    test = draw_pictures(48, 2, seed=args.seed + 1)
    truth, order = captions(test)
    masks = test.masks.gather(1, order[..., None, None].expand_as(test.masks))
    said = net.say(test.images)
    inputs = (test.images, nn.functional.pad(said, (1, 0))[:, :-1])
    found = explain(
        net, inputs, layers="encoder", methods="elementwise_cam", target=[caption_token(i) for i in range(LENGTH)]
    )
    maps = [each.heatmaps["elementwise_cam"] for each in found]
    spoken = [(0, 0), (1, 0), (3, 1), (4, 1)]  # position of a word, object it speaks of
    save_figure(
        [
            [Picture(test.images[i], title="the picture")]
            + [
                Picture(test.images[i], maps[t][i], None if t == 2 else masks[i, t // 3], WORDS[said[i, t]])
                for t in range(LENGTH)
            ]
            for i in range(6)
        ],
        args.out / "captioning.png",
        "What each generated word was read from (its object outlined)",
    )
    return report(
        "Share of a word's energy",
        words_right=float((said == truth).float().mean()),
        chance=float(masks.mean()),
        on_its_object=sum(share_inside(maps[t], masks[:, k]) for t, k in spoken) / 4,
        on_the_other=sum(share_inside(maps[t], masks[:, 1 - k]) for t, k in spoken) / 4,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
