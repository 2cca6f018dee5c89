"""Where the cues of a round lie: asked of every process, and shown as strips."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from camtrain.callbacks._lightning import Trainer, everywhere
from camtrain.callbacks._reliance_pictures import pictured
from camtrain.reliance import (
    Evidence,
    Exemplars,
    Findings,
    Pool,
    Verdict,
    exemplars,
    gather_evidence,
    join_evidence,
    region_of,
    with_regions,
)
from camtrain.reliance.interventions import Predict, Progress
from camtrain.render import region_strip, to_uint8
from camtrain.sinks.records import Strip

MOST_CLASSES = 12
MOST_WINDOWS = 8


@dataclass(frozen=True)
class Located:
    """The verdicts of a round with where their cues lie, and the windows that show them, by class index."""

    verdicts: tuple[Verdict, ...]
    shown: dict[int, Exemplars]


def locate(
    trainer: Trainer,
    predict: Predict,
    findings: Findings,
    pool: Pool,
    lenders: Pool,
    *,
    images: int,
    batch_size: int,
    device: torch.device,
    progress: Progress,
) -> Located:
    """Look for the cues of reliant or suspect classes, the most affected ones, on all processes' images."""
    regions, shown = [], {}
    for verdict in pictured(findings.verdicts)[:MOST_CLASSES]:
        ask: Callable[[], Evidence] = partial(
            gather_evidence,
            predict,
            findings,
            verdict,
            pool,
            lenders,
            images=-(-images // trainer.world_size),
            batch_size=batch_size,
            device=device,
            progress=progress,
        )
        evidence = join_evidence(everywhere(trainer, ask))
        regions.append(region_of(evidence))
        found = exemplars(evidence, regions[-1])
        if found is not None:
            shown[verdict.class_index] = found
    return Located(with_regions(findings.verdicts, regions), shown)


def strips(located: Located, denormalize: Callable[[Tensor], Tensor] | None) -> tuple[Strip, ...]:
    """A strip for each class whose cue has a place, the most affected class first."""
    known = {verdict.class_index: verdict for verdict in located.verdicts}
    return tuple(_strip(known[index], shown, denormalize) for index, shown in located.shown.items())


def _strip(verdict: Verdict, shown: Exemplars, denormalize: Callable[[Tensor], Tensor] | None) -> Strip:
    pictures = shown.pictures[:MOST_WINDOWS]
    pixels = to_uint8(pictures if denormalize is None else denormalize(pictures))
    picture = region_strip(pixels, shown.boxes[:MOST_WINDOWS])
    return Strip(verdict.class_name, picture, verdict.where, len(shown.pictures), shown.images)
