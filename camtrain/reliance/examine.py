"""One round of detection from a pool of annotated images to verdicts, with the pictures to believe them by."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from camtrain.reliance.decide import decide, rejected
from camtrain.reliance.donors import choose_donors
from camtrain.reliance.infills import noise_background
from camtrain.reliance.interventions import Predict, Progress, intervene, predict_before, restrict
from camtrain.reliance.looks import LOOKS, look_of
from camtrain.reliance.records import Criteria, Design, Effects, Estimate, Pool, Test, Verdict
from camtrain.reliance.statistics import screen
from camtrain.reliance.transplants import with_transplants

__all__ = ["Findings", "Instance", "Plan", "examine", "illustrate", "margins"]

Gather = Callable[[Callable[[], Effects]], Effects]


@dataclass(frozen=True)
class Plan:
    """How a round is run: donor classes per image, mask margins in pixels (None: from the side), memory, seed.

    ``looks`` are the cues of the whole picture that are tried beside the background, with ``look_arms`` donor classes.
    """

    arms: int = 8
    looks: tuple[str, ...] = tuple(LOOKS)
    look_arms: int = 4
    margin: int | None = None
    guard: int | None = None
    batch_size: int = 64
    seed: int = 0
    device: torch.device | str = "cpu"


@dataclass(frozen=True)
class Findings:
    """The verdicts, and this process's own effects, by cue, that led to them."""

    verdicts: tuple[Verdict, ...]
    effects: Mapping[str, Effects]
    margin: int


@dataclass(frozen=True)
class Instance:
    """One image on one lender's background, by their indices, and the class's probability before and after."""

    class_index: int
    test: Test
    image: int
    donor: int
    before: float
    after: float


def margins(images: Float[Tensor, "N C H W"]) -> tuple[int, int]:
    """Pixels that masks grow by for the interventions (1/64 of the side) and for their guard (8 % of it).

    >>> margins(torch.zeros(0, 3, 224, 224))
    (4, 18)
    """
    side = min(images.shape[-2:])
    return max(1, round(side / 64)), max(3, round(0.08 * side))


def examine(
    predict: Predict,
    pool: Pool,
    class_names: Sequence[str],
    classes: Sequence[int],
    *,
    lenders: Pool | None = None,
    criteria: Criteria = Criteria(),  # noqa: B008  frozen
    plan: Plan = Plan(),
    gather: Gather = lambda compute: compute(),
    progress: Progress = lambda what, done, total: None,
) -> Findings:
    """Does ``predict`` lean on the background, class by class: swap, decide, and doubt what was found.

    The backgrounds come from ``lenders``, in which classes should go with backgrounds as they did in training; from the
    pool itself by default. Beside whole backgrounds their tint, brightness and sharpness are swapped alone. Whatever a
    first round rejects is tried again with grown masks, a background with noise in the donor's color as well.
    ``gather`` joins the effects of several processes. Costs 1 + arms + 3 look_arms forwards an image, and where
    something is found arms + 3, or look_arms for a look, more.
    """
    margin, guard = _margins(pool, plan)
    lent = None if lenders is None else lenders.labels
    design = choose_donors(pool.labels, classes, lenders=lent, arms=plan.arms, generator=_generator(plan.seed))
    run = partial(
        intervene, predict, pool, lenders=lenders, batch_size=plan.batch_size, device=plan.device, progress=progress
    )
    mine: dict[str, Effects] = {}
    few = restrict(design, plan.look_arms)

    def before(arms: Design) -> Tensor:
        if not mine:
            return predict_before(predict, pool, arms, batch_size=plan.batch_size, device=plan.device)
        return mine["background"].before[:, : arms.classes.shape[1]]

    def swap(cue: str, margin: int) -> Effects:
        arms = design if cue == "background" else few
        found = run(arms, before=before(arms), margin=margin, look=look_of(cue))
        mine.setdefault(cue, found)
        return found

    def color_alone() -> Effects:
        infill, arms = partial(noise_background, generator=_generator(plan.seed)), restrict(design, 3)
        return run(arms, before=before(arms), infill=infill, margin=margin)

    def judge(effects: Effects | Sequence[Effects]) -> tuple[Estimate, ...]:
        return screen(effects, classes, criteria, generator=_generator(plan.seed))

    looks = [LOOKS[key].name for key in plan.looks if pool.images.shape[1] > 1 or key != "tint"]
    effects = {cue: gather(partial(swap, cue, margin)) for cue in ("background", *looks)}
    estimates = judge(list(effects.values()))
    doubted = dict.fromkeys(one.cue for one in rejected(estimates, criteria))
    guarded = judge([gather(partial(swap, cue, guard)) for cue in doubted]) if doubted else None
    colored = judge(gather(color_alone)) if "background" in doubted else ()
    told = decide(
        effects["background"], estimates, class_names, guarded=guarded, other_infill=colored, criteria=criteria
    )
    return Findings(with_transplants(told, effects), mine, margin)


def illustrate(effects: Effects, class_index: int, *, count: int = 2) -> tuple[Instance, ...]:
    """The images that show it best: most lost on another background, or won by the class's own on other objects.

    Whichever changes more on average is shown, one background per image; empty where nothing was measured.

    >>> effects = Effects("fill", torch.tensor([0]), torch.tensor([[0, 1]]), torch.tensor([[1, 2]]),
    ...     torch.tensor([[0.9, 0.1]]), torch.tensor([[[0.75, 0.25], [0.25, 0.75]]]))
    >>> [(one.test, one.donor, round(one.after, 2)) for one in illustrate(effects, 0)]
    [('necessity', 2, 0.25)]
    """
    lost, won = _losses(effects, class_index), _wins(effects, class_index)
    shown = max(lost, won, key=lambda group: sum(map(_change, group)) / max(1, len(group)))
    best: dict[int, Instance] = {}
    for one in sorted(shown, key=_change, reverse=True):
        best.setdefault(one.image, one)
    return tuple(best.values())[:count]


def _change(one: Instance) -> float:
    change = one.before - one.after
    return change if one.test == "necessity" else -change


def _losses(effects: Effects, class_index: int) -> list[Instance]:
    after = effects.after[:, 1:, 0]
    rows, arms = ((effects.labels == class_index).unsqueeze(1) & ~after.isnan()).nonzero().unbind(dim=1)
    return _instances(effects, class_index, "necessity", rows, arms + 1, torch.zeros_like(arms))


def _wins(effects: Effects, class_index: int) -> list[Instance]:
    met = (effects.classes == class_index) & (effects.donors >= 0)
    rows, arms = met.nonzero().unbind(dim=1)
    rows, arms = rows[arms > 0], arms[arms > 0]
    return _instances(effects, class_index, "sufficiency", rows, arms, arms)


def _instances(
    effects: Effects, class_index: int, test: Test, rows: Tensor, arms: Tensor, columns: Tensor
) -> list[Instance]:
    donors, before = effects.donors[rows, arms].tolist(), effects.before[rows, columns].tolist()
    after = effects.after[rows, arms, columns].tolist()
    found = zip(rows.tolist(), donors, before, after, strict=True)
    return [Instance(class_index, test, *values) for values in found]


def _margins(pool: Pool, plan: Plan) -> tuple[int, int]:
    margin, guard = margins(pool.images)
    return (
        margin if plan.margin is None else plan.margin,
        guard if plan.guard is None else plan.guard,
    )


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
