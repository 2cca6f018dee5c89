"""Generated pictures for every task, with exact masks and a shortcut of chosen strength: the tint of the background.

Small shapes before textured backgrounds. What the task asks lies in the shapes; in training the tint says it as well,
with the given correlation, or (for questions) the question does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from camtrain.data.subsets import SPLITS, annotated_subset, check_share
from camtrain.errors import DataError

SHAPES = ("disk", "square", "cross")
COLORS = ("red", "green", "blue")
CLASSES = {
    "binary": ("disk", "square"),
    "multi_label": SHAPES,
    "segmentation": ("background", "disk", "square"),
    "detection": ("background", "disk", "square"),
    "clips": ("to the left", "to the right"),
    "captioning": (*COLORS, *SHAPES),
    "question_answering": SHAPES,
}
QUESTIONS = ("what is on the left", "what is on the right")
FRAMES = 6

_TINTS = torch.tensor([[0.25, 0.35, 0.75], [0.75, 0.65, 0.25], [0.35, 0.7, 0.35]])  # of the cue's 0, 1 and 2
_PAINT = torch.tensor([[0.9, 0.2, 0.2], [0.2, 0.85, 0.3], [0.25, 0.3, 0.95]])
_WHITE = torch.tensor([0.95, 0.95, 0.95])


@dataclass(frozen=True, eq=False)
class Drawn:
    """A world's pictures `(N, 3, *S)` in [0, 1], what is true of them in the task's form, and where that lies."""

    images: Tensor
    labels: Any  # a tensor, or of boxes a list
    masks: Tensor
    agrees: Tensor  # (N,) bool: whether the shortcut says what is true
    questions: Tensor | None = None


class TaskWorld(Dataset[dict[str, Any]]):
    """Pictures for a task; items are `{"image", "label", "mask", "group", "id"}`, group 1 where the shortcut is true.

    | task | label | mask | the shortcut |
    |---|---|---|---|
    | "binary" | 1 for a square, 0 for a disk | the shape | tint by label |
    | "multi_label" | `(3,)`: disk, square, cross there or not | one for each | tint by the first label |
    | "regression" | the disk's radius in pixels | the disk | tint by radius |
    | "segmentation" | `(S, S)`: 1 disk, 2 square | the shape | tint by class |
    | "detection" | `{"boxes", "labels"}`: 1 disk, 2 square | the shape | tint by class |
    | "clips" | 1 for a disk that moves right | `(T, S, S)` | tint by label |
    | "captioning" | `(2,)` words: color, shape | the shape | tint by shape |
    | "question_answering" | the shape at the side asked for | that shape | the question itself |

    Args:
        task: one of the above.
        split: "train", "val" or "test": pictures that never repeat.
        size: number of pictures.
        image_size: side in pixels, at least 24.
        correlation: share of the pictures whose shortcut says what is true; the others are drawn at random. None for 1
            in training and 0 in validation and test, where the shortcut tells nothing.
        seed: of everything.
        mask_fraction: share of the pictures that keep their mask.

    Raises DataError for what cannot be meant.

    >>> world = TaskWorld("multi_label", size=4)
    >>> world[0]["image"].shape, world[0]["label"].shape, world[0]["mask"].shape
    (torch.Size([3, 32, 32]), torch.Size([3]), torch.Size([3, 32, 32]))
    """

    def __init__(
        self,
        task: str,
        split: str = "train",
        size: int = 512,
        image_size: int = 32,
        correlation: float | None = None,
        seed: int = 0,
        mask_fraction: float = 1.0,
    ) -> None:
        if task not in WORLDS or split not in SPLITS:
            raise DataError(
                f"A world has a task ({', '.join(WORLDS)}) and a split ({', '.join(SPLITS)}); got {task!r}, {split!r}."
            )
        if size < 1 or image_size < 24:
            raise DataError(f"A world needs size >= 1 and image_size >= 24; got {size} and {image_size}.")
        self.task, self.split = task, split
        self.correlation = (1.0 if split == "train" else 0.0) if correlation is None else correlation
        check_share("correlation", self.correlation)
        generator = torch.Generator().manual_seed(1000 * seed + SPLITS.index(split))
        self.drawn = WORLDS[task](size, image_size, self.correlation, generator)
        self.annotated = annotated_subset(size, mask_fraction, seed)

    def __len__(self) -> int:
        return len(self.drawn.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        mask = self.drawn.masks[index]
        item = {
            "image": self.drawn.images[index],
            "label": self.drawn.labels[index],
            "mask": mask if self.annotated[index] else torch.full_like(mask, -1),
            "group": int(self.drawn.agrees[index]),
            "id": f"{self.task}/{self.split}/{index:05d}",
        }
        return item if self.drawn.questions is None else {**item, "question": self.drawn.questions[index]}


def shape_masks(
    kinds: Int[Tensor, " N"], centers: Float[Tensor, "N 2"], radii: Float[Tensor, " N"], side: int
) -> Float[Tensor, "N S S"]:
    """1 on the shapes: disks, squares and crosses of the same area, about.

    >>> shape_masks(torch.tensor([1]), torch.tensor([[4.0, 4.0]]), torch.tensor([2.0]), 8).sum()
    tensor(16.)
    """
    along = torch.arange(side) + 0.5
    x = (along.view(1, 1, -1) - centers[:, 0].view(-1, 1, 1)).abs()
    y = (along.view(1, -1, 1) - centers[:, 1].view(-1, 1, 1)).abs()
    r = radii.view(-1, 1, 1)
    disk = x.square() + y.square() < (1.13 * r).square()
    square = torch.maximum(x, y) < r
    cross = (torch.maximum(x, y) < 1.35 * r) & (torch.minimum(x, y) < 0.5 * r)
    return torch.stack([disk, square, cross]).gather(0, kinds.view(1, -1, 1, 1).expand(1, -1, side, side))[0].float()


def backgrounds(tints: Float[Tensor, "N 3"], side: int, generator: torch.Generator) -> Float[Tensor, "N 3 S S"]:
    """Blotched and grainy pictures of one tint each."""
    blotches = torch.rand(len(tints), 1, 5, 5, generator=generator)
    texture = torch.nn.functional.interpolate(blotches, (side, side), mode="bilinear", align_corners=False)
    grain = torch.randn(len(tints), 3, side, side, generator=generator)
    return (tints.view(-1, 3, 1, 1) * (0.6 + 0.6 * texture) + 0.05 * grain).clamp(0, 1)


def cued(true: Tensor, other: Tensor, correlation: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """What the shortcut says of each picture: the truth for a share of them, else `other`; and where it is true."""
    told = torch.rand(len(true), generator=generator) < correlation
    cue = torch.where(told, true, other)
    return cue, cue == true


def painted(canvas: Tensor, masks: Tensor, colors: Tensor) -> Tensor:
    """Shapes `(N, *S)` of colors `(N, 3)` before a background `(N, 3, *S)`."""
    shown = masks.unsqueeze(1)
    return canvas * (1 - shown) + colors.view(*colors.shape, *[1] * (masks.ndim - 1)) * shown


def _places(count: int, side: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Centers and radii of single shapes."""
    radii = side * (0.14 + 0.06 * torch.rand(count, generator=generator))
    room = side - 3 * radii.unsqueeze(1)
    return 1.5 * radii.unsqueeze(1) + room * torch.rand(count, 2, generator=generator), radii


def _pick(most: int, count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(most, (count,), generator=generator)


def _binary(count: int, side: int, correlation: float, g: torch.Generator) -> Drawn:
    labels = torch.arange(count) % 2
    cue, agrees = cued(labels, _pick(2, count, g), correlation, g)
    masks = shape_masks(labels, *_places(count, side, g), side)
    images = painted(backgrounds(_TINTS[cue], side, g), masks, _PAINT[_pick(3, count, g)])
    return Drawn(images, labels.float(), masks, agrees)


def _multi_label(count: int, side: int, correlation: float, g: torch.Generator) -> Drawn:
    labels = torch.rand(count, 3, generator=g) < 0.5
    cue, agrees = cued(labels[:, 0].long(), _pick(2, count, g), correlation, g)
    images = backgrounds(_TINTS[cue], side, g)
    order = torch.rand(count, 3, generator=g).argsort(dim=1)
    masks = torch.full((count, 3, side, side), -1.0)
    for kind in range(3):
        shift = side / 24 * torch.randn(count, 2, generator=g).clamp(-1, 1)
        middle = torch.stack([side * (order[:, kind] + 0.5) / 3, torch.full((count,), side / 2)], dim=1) + shift
        shapes = shape_masks(torch.full((count,), kind), middle, torch.full((count,), side * 0.11), side)
        there = labels[:, kind]
        images = painted(images, shapes * there.view(-1, 1, 1), _PAINT[_pick(3, count, g)])
        masks[there, kind] = shapes[there]
    return Drawn(images, labels.float(), masks, agrees)


def _regression(count: int, side: int, correlation: float, g: torch.Generator) -> Drawn:
    share = torch.rand(count, generator=g)
    cue, agrees = cued(share, torch.rand(count, generator=g), correlation, g)
    radii = side * (0.08 + 0.16 * share)
    room = side - 2.4 * radii.unsqueeze(1)
    centers = 1.2 * radii.unsqueeze(1) + room * torch.rand(count, 2, generator=g)
    masks = shape_masks(torch.zeros(count, dtype=torch.long), centers, radii, side)
    tints = _TINTS[0] + cue.unsqueeze(1) * (_TINTS[1] - _TINTS[0])
    images = painted(backgrounds(tints, side, g), masks, _WHITE.expand(count, 3))
    return Drawn(images, radii, masks, agrees)


def _segmentation(count: int, side: int, correlation: float, g: torch.Generator) -> Drawn:
    drawn = _binary(count, side, correlation, g)
    labels = drawn.masks.long() * (1 + drawn.labels.long().view(-1, 1, 1))
    return Drawn(drawn.images, labels, drawn.masks, drawn.agrees)


def _detection(count: int, side: int, correlation: float, g: torch.Generator) -> Drawn:
    drawn = _binary(count, side, correlation, g)
    labels = []
    for mask, kind in zip(drawn.masks, drawn.labels.long(), strict=True):
        at = mask.nonzero()
        box = torch.cat([at.amin(dim=0).flip(0), at.amax(dim=0).flip(0) + 1]).float()
        labels.append({"boxes": box.unsqueeze(0), "labels": 1 + kind.unsqueeze(0)})
    return Drawn(drawn.images, labels, drawn.masks, drawn.agrees)


def _clips(count: int, side: int, correlation: float, g: torch.Generator) -> Drawn:
    labels = torch.arange(count) % 2
    cue, agrees = cued(labels, _pick(2, count, g), correlation, g)
    centers, radii = _places(count, side, g)
    reach = (side / 2 - 1.2 * radii) * 0.5
    direction = torch.where(labels == 1, 1.0, -1.0)
    canvas, colors = backgrounds(_TINTS[cue], side, g), _PAINT[_pick(3, count, g)]
    frames, masks = [], []
    for time in torch.linspace(-1, 1, FRAMES):
        middle = torch.stack([side / 2 + direction * reach * time, centers[:, 1]], dim=1)
        masks.append(shape_masks(torch.zeros(count, dtype=torch.long), middle, radii, side))
        frames.append(painted(canvas, masks[-1], colors))
    return Drawn(torch.stack(frames, dim=2), labels, torch.stack(masks, dim=1), agrees)


def _captioning(count: int, side: int, correlation: float, g: torch.Generator) -> Drawn:
    shapes, colors = torch.arange(count) % 3, _pick(3, count, g)
    cue, agrees = cued(shapes, _pick(3, count, g), correlation, g)
    masks = shape_masks(shapes, *_places(count, side, g), side)
    images = painted(backgrounds(_TINTS[cue], side, g), masks, _PAINT[colors])
    return Drawn(images, torch.stack([colors, len(COLORS) + shapes], dim=1), masks, agrees)


def _question_answering(count: int, side: int, correlation: float, g: torch.Generator) -> Drawn:
    questions = _pick(2, count, g)
    answers, agrees = cued(questions, _pick(3, count, g), correlation, g)  # in training a question has one answer
    others = _pick(3, count, g)
    kinds = torch.where(questions.unsqueeze(1) == torch.arange(2), answers.unsqueeze(1), others.unsqueeze(1))
    images, masks = backgrounds(_TINTS[_pick(3, count, g)], side, g), torch.zeros(count, side, side)
    for place in range(2):
        shift = side / 24 * torch.randn(count, 2, generator=g).clamp(-1, 1)
        middle = torch.tensor([side * (0.27 + 0.46 * place), side / 2]) + shift
        shapes = shape_masks(kinds[:, place], middle, torch.full((count,), side * 0.13), side)
        images = painted(images, shapes, _PAINT[_pick(3, count, g)])
        masks = torch.where((questions == place).view(-1, 1, 1), shapes, masks)
    return Drawn(images, answers, masks, agrees, questions)


WORLDS: dict[str, Callable[[int, int, float, torch.Generator], Drawn]] = {
    "binary": _binary,
    "multi_label": _multi_label,
    "regression": _regression,
    "segmentation": _segmentation,
    "detection": _detection,
    "clips": _clips,
    "captioning": _captioning,
    "question_answering": _question_answering,
}
