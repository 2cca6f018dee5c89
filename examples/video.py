"""Action recognition: a heatmap for each frame, and the frames ranked by how much they carried the decision.

python examples/video.py [--quick] [--out FOLDER]
"""

from collections.abc import Sequence

import torch
from _common import RGB, Picture, arguments, report, save_figure, shape_masks, train
from torch import Tensor, nn

from camtrain import explain
from camtrain.cam import resize
from camtrain.metrics import inside_energy

FRAMES, SIDE, EVENT = 12, 32, 3
ACTIONS = ("moves left", "moves right", "moves up", "moves down")
STEPS = torch.tensor([[-1.0, 0], [1, 0], [0, -1], [0, 1]])


def clips(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Videos `(n, 3, 12, 32, 32)`, actions, the event's first frame, and masks `(n, 12, 32, 32)` of the moving object.

    A gray square stays; a red disc stands still, but for `EVENT` frames in which it moves: the action is where to.
    """
    generator = torch.Generator().manual_seed(seed)
    actions = torch.randint(4, (count,), generator=generator)
    start = torch.randint(2, FRAMES - EVENT - 1, (count,), generator=generator)
    moved = (torch.arange(FRAMES) - start.unsqueeze(1) + 1).clamp(0, EVENT)  # (n, frames) steps made so far
    center = 12 + 8 * torch.rand(count, 1, 2, generator=generator)
    path = center + 3.0 * (moved.unsqueeze(2) - EVENT / 2) * STEPS[actions].unsqueeze(1)
    disc = shape_masks(torch.zeros(count, FRAMES).long(), path, torch.full((count, FRAMES), 4.0), SIDE)
    still = 4 + 24 * torch.rand(count, 1, 2, generator=generator).expand(-1, FRAMES, -1)
    square = shape_masks(torch.ones(count, FRAMES).long(), still, torch.full((count, FRAMES), 4.0), SIDE)
    videos = 0.35 + 0.15 * torch.rand(count, 3, FRAMES, SIDE, SIDE, generator=generator)
    for mask, color in ((square, torch.tensor([0.7, 0.7, 0.7])), (disc, RGB[0])):
        videos = torch.where(mask.unsqueeze(1) > 0, color.view(1, 3, 1, 1, 1), videos)
    return videos, actions, start, disc


def network() -> nn.Sequential:
    """3-D convolutions that keep the frames apart in their map `(B, 32, 12, 8, 8)`: each cell sees 5 frames."""

    def block(before: int, after: int, time: int, stride: int) -> list[nn.Module]:
        conv = nn.Conv3d(before, after, (time, 3, 3), (1, stride, stride), (time // 2, 1, 1), bias=False)
        return [conv, nn.BatchNorm3d(after), nn.ReLU(inplace=True)]

    return nn.Sequential(
        *block(3, 12, 1, 2),
        *block(12, 24, 3, 2),
        *block(24, 32, 3, 1),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(32, 4),
    )


def rank_frames(heatmaps: Tensor) -> Tensor:
    """Frames `(B, T)` by the energy of their heatmap `(B, T, h, w)`, the one that carried most first."""
    return heatmaps.sum((2, 3)).argsort(dim=1, descending=True)


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Train, explain, rank the frames, draw; returns how many of the first three belong to the event."""
    args = arguments(argv, "video")
    videos, actions, _, _ = clips(800, args.seed)
    net = network()
    train(
        net,
        lambda rows: nn.functional.cross_entropy(net(videos[rows]), actions[rows]),
        len(videos),
        steps=60 if args.quick else 300,
        batch=32,
    )

    videos, actions, start, discs = clips(48, args.seed + 1)
    found = explain(net, videos, methods="elementwise_cam")
    maps = found.heatmaps["elementwise_cam"]
    ranked = rank_frames(maps)
    offset = ranked[:, :EVENT] - start.unsqueeze(1)
    event = (offset >= -1) & (offset <= EVENT - 1)  # from the frame before the first step to the last one
    resized = resize(maps, discs.shape[1:])
    grown = nn.functional.max_pool3d(discs, (1, 5, 5), 1, (0, 2, 2))
    save_figure(
        [
            [
                Picture(videos[i, :, t], maps[i, t], discs[i, t], title(ranked[i], start[i], t), float(maps[i].max()))
                for t in range(FRAMES)
            ]
            for i in range(5)
        ],
        args.out / "video.png",
        "Each frame's heatmap on one scale for the clip; rank of the frame; * the event",
    )
    return report(
        "Keyframes",
        accuracy=float((found.logits.argmax(1) == actions).float().mean()),
        event_among_the_first_three=float(event.float().mean()),
        event_by_chance=(EVENT + 1) / FRAMES,
        energy_around_the_moving_object=float(inside_energy(resized, grown).nanmean()),
        area_around_the_moving_object=float(grown.mean()),
    )


def title(ranked: Tensor, start: Tensor, frame: int) -> str:
    """The frame's rank, with a star in the event."""
    rank = int((ranked == frame).nonzero()) + 1
    return f"{rank}{' *' if start - 1 <= frame < start + EVENT else ''}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
