"""What a clip's answer owes to motion: the same frames standing still, shuffled, or run backwards."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from scipy.special import stdtrit
from torch import Tensor

from camtrain.reliance.records import Pace, Pool, Predict, Verdict
from camtrain.tasks.answers import probabilities

__all__ = ["ORDERS", "Motion", "motion_of", "reordered", "with_motion"]

ORDERS = ("still", "shuffled", "reversed")


@dataclass(frozen=True)
class Motion:
    """What a class's clips lose in each of `ORDERS`, in probability: means, and half the width of a 95 % interval."""

    clips: int
    lost: tuple[float, ...]
    half: tuple[float, ...]

    def __str__(self) -> str:
        """For a note."""
        parts = [
            f"{name} {loss:.2f} ± {half:.2f}" for name, loss, half in zip(ORDERS, self.lost, self.half, strict=True)
        ]
        return f"its {self.clips} clips lose with frames {', '.join(parts)}"


def reordered(strips: Float[Tensor, "B C H W"], frames: int, order: str, *, seed: int = 0) -> Float[Tensor, "B C H W"]:
    """Clips whose frames lie side by side, with the middle frame in place of all, shuffled alike, or reversed.

    >>> reordered(torch.arange(4.0).view(1, 1, 1, 4), 4, "reversed").flatten().tolist()
    [3.0, 2.0, 1.0, 0.0]
    """
    parts = strips.view(*strips.shape[:3], frames, -1)
    if order == "still":
        places = torch.full((frames,), frames // 2)
    elif order == "reversed":
        places = torch.arange(frames).flip(0)
    else:
        places = torch.randperm(frames, generator=torch.Generator().manual_seed(seed))
    return parts.index_select(3, places.to(strips.device)).flatten(3)


def motion_of(predict: Predict, pool: Pool, frames: int, *, pace: Pace = Pace()) -> dict[int, list[list[float]]]:  # noqa: B008
    """By class, for each of its clips what its probability loses in each of `ORDERS`. Costs 4 forwards a clip."""
    losses: dict[int, list[list[float]]] = {}
    for start in range(0, len(pool.labels), pace.batch_size):
        labels = pool.labels[start : start + pace.batch_size]
        clips = pool.images[start : start + pace.batch_size].to(pace.device)
        shown = [clips, *(reordered(clips, frames, order, seed=start) for order in ORDERS)]
        own = [probabilities(predict(each)).cpu().gather(1, labels.unsqueeze(1)).squeeze(1) for each in shown]
        rows = torch.stack([own[0] - after for after in own[1:]], dim=1).tolist()
        for label, row in zip(labels.tolist(), rows, strict=True):
            losses.setdefault(label, []).append(row)
        pace.progress("frames in other orders", len(labels), len(pool.labels))
    return losses


def with_motion(
    verdicts: Sequence[Verdict],
    parts: Sequence[dict[int, list[list[float]]]],
) -> tuple[Verdict, ...]:
    """The verdicts, whose notes say what their classes owe to motion; `parts` are those of the processes.

    That is no accusation: some actions show in a single frame.
    """

    def told(verdict: Verdict) -> Verdict:
        rows = [row for part in parts for row in part.get(verdict.class_index, ())]
        if len(rows) < 2:
            return verdict
        values = torch.tensor(rows, dtype=torch.float64)
        width = float(stdtrit(len(rows) - 1, 0.975)) / math.sqrt(len(rows))
        motion = Motion(len(rows), tuple(values.mean(dim=0).tolist()), tuple((width * values.std(dim=0)).tolist()))
        return replace(verdict, note="; ".join(filter(None, (verdict.note, str(motion)))))

    return tuple(map(told, verdicts))
