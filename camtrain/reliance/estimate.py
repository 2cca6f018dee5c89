"""Necessity and sufficiency of a background for a class: effects, bootstrap errors, p-values, corrected."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import isnan

import torch
from jaxtyping import Float
from scipy.special import stdtr, stdtrit
from scipy.stats import false_discovery_control
from torch import Tensor

from camtrain.reliance.records import STICKER, Criteria, Effects, Estimate, Test
from camtrain.swaps.looks import look_of

__all__ = [
    "Contrast",
    "adjust_families",
    "bootstrap",
    "estimate",
    "holm",
    "indifferent",
    "necessity",
    "screen",
    "sufficiency",
]

TESTS: tuple[Test, ...] = ("necessity", "sufficiency")


@dataclass(frozen=True)
class Contrast:
    """Differences of probability, summed per independent unit (rows) and contrasted donor class (columns).

    The effect is the median over columns of the mean over units. Units are what a bootstrap may resample: the
    image for necessity, the donor for sufficiency.
    """

    sums: Float[Tensor, "units K"]
    counts: Float[Tensor, "units K"]


def necessity(effects: Effects, class_index: int) -> Contrast:
    """What an image of the class loses when its background comes from class k instead of its own.

    Entry (x, k) is p_c(x on the background of another image of c) - p_c(x on a background of k). A donor serves
    a pair of classes once at most, so resampled images bring their own donors along.

    >>> effects = Effects("fill", torch.tensor([0]), torch.tensor([[0, 1]]), torch.tensor([[1, 2]]),
    ...     torch.tensor([[0.9, 0.1]]), torch.tensor([[[0.75, 0.25], [0.25, 0.75]]]))
    >>> necessity(effects, 0).sums.tolist()
    [[0.5]]
    """
    after = effects.after[effects.of(class_index)].double()
    return _by_unit(after[:, :1, 0] - after[:, 1:, 0])


def indifferent(effects: Effects, class_index: int, tau: float) -> tuple[int, ...]:
    """The classes on whose backgrounds the class loses nothing, where it does lose on those of most.

    Nothing is at most ``tau``, or a tenth of the median. They share its cue, as boats and ducks share the water; or it
    has none, and neither have they: then it is told by the lack of the others'.

    >>> effects = Effects("fill", torch.tensor([0]), torch.tensor([[0, 1, 2, 3]]), torch.tensor([[1, 2, 3, 4]]),
    ...     torch.full((1, 4), 0.9), torch.tensor([0.9, 0.1, 0.9, 0.1]).view(1, 4, 1).expand(1, 4, 4))
    >>> indifferent(effects, 0, tau=0.02)
    (2,)
    """
    rows, contrast = effects.of(class_index), necessity(effects, class_index)
    if not len(contrast.sums):
        return ()
    means = contrast.sums.sum(dim=0) / contrast.counts.sum(dim=0)
    median = float(means.nanmedian())
    if not median > tau:
        return ()
    met = effects.classes[rows][0, 1:]
    return tuple(met[means <= max(tau, median / 10)].tolist())


def sufficiency(effects: Effects, class_index: int) -> Contrast:
    """What a background of the class wins for it on images of *other* classes.

    Summed per donor d of the class: p_c(x on d) - p_c(x on a background of k), over the images x that d was lent
    to, where k is neither c nor the class of x. With two classes there is no such k, and nothing to sum.

    >>> effects = Effects("fill", torch.tensor([1]), torch.tensor([[1, 0, 2]]), torch.tensor([[3, 4, 5]]),
    ...     torch.zeros(1, 3), torch.tensor([[[0.5, 0.25, 0.25], [0.25, 0.75, 0.0], [0.5, 0.25, 0.25]]]))
    >>> sufficiency(effects, 0).sums.tolist()
    [[0.5]]
    """
    rows, arms = ((effects.classes == class_index) & (effects.donors >= 0)).nonzero().unbind(dim=1)
    rows, arms = rows[arms > 0], arms[arms > 0]
    won = effects.after[rows, :, arms].double()  # (pairs, D): p_c on every background that x met
    difference = won.gather(1, arms.unsqueeze(1)) - won
    neither = torch.ones_like(won, dtype=torch.bool).scatter(1, arms.unsqueeze(1), False)
    neither[:, 0] = False
    pair, arm = (neither & ~difference.isnan()).nonzero().unbind(dim=1)
    units, unit = _distinct(effects.donors[rows[pair], arms[pair]])
    columns, column = _distinct(effects.classes[rows[pair], arm])
    sums = torch.zeros(len(units), len(columns), dtype=torch.float64)
    counts = torch.zeros_like(sums)
    values = difference[pair, arm]
    return Contrast(
        sums.index_put((unit, column), values, accumulate=True),
        counts.index_put((unit, column), torch.ones_like(values), accumulate=True),
    )


def bootstrap(contrast: Contrast, *, resamples: int, generator: torch.Generator) -> tuple[float, float]:
    """The effect and its standard error over resampled units; NaN without units, infinite error for one.

    The median over donor classes is the lower one, so that of an even number more than half must show the effect:
    another class's cue, pasted in with its background, makes innocent classes look guilty.

    >>> contrast = Contrast(torch.tensor([[1.0], [1.0]]).double(), torch.ones(2, 1).double())
    >>> bootstrap(contrast, resamples=10, generator=torch.Generator())
    (1.0, 0.0)
    """
    units = len(contrast.sums)
    if units == 0:
        return torch.nan, torch.nan
    effect = _effect(torch.ones(1, units, dtype=torch.float64), contrast).item()
    if units == 1:
        return effect, torch.inf
    drawn = torch.randint(units, (resamples, units), generator=generator)
    weights = torch.zeros(resamples, units, dtype=torch.float64)
    weights.scatter_add_(1, drawn, torch.ones_like(weights))
    samples = _effect(weights, contrast)
    spread = samples[~samples.isnan()].std(correction=0)
    return effect, float(spread) * (units / (units - 1)) ** 0.5


def estimate(
    effects: Effects, class_index: int, test: Test, criteria: Criteria, *, generator: torch.Generator
) -> Estimate:
    """One test of one class, with Student intervals around the bootstrap error (degrees of freedom: units - 1)."""
    contrast = (necessity if test == "necessity" else sufficiency)(effects, class_index)
    effect, error = bootstrap(contrast, resamples=criteria.resamples, generator=generator)
    units = len(contrast.sums)
    if units < 2:
        return Estimate(class_index, test, effect, error, units, -1.0, 1.0, 1.0, cue=effects.cue)
    half = float(stdtrit(units - 1, 1 - criteria.alpha / 2)) * error
    low, high = max(-1.0, effect - half), min(1.0, effect + half)
    p_value = _p_value(effect, error, units, criteria.tau)
    return Estimate(class_index, test, effect, error, units, low, high, p_value, cue=effects.cue)


def screen(
    effects: Effects | Sequence[Effects], classes: Iterable[int], criteria: Criteria, *, generator: torch.Generator
) -> tuple[Estimate, ...]:
    """Both tests of every cue and class that has ``min_images`` units for them, adjusted by `adjust_families`."""
    cues, judged = [effects] if isinstance(effects, Effects) else list(effects), list(classes)
    drawn = (
        estimate(e, c, test, criteria, generator=generator) for e in cues for c in judged for test in tests_of(e.cue)
    )
    known = (one for one in drawn if not (isnan(one.effect) or isnan(one.p_value)))
    found = [one for one in known if one.units >= criteria.min_images]
    adjusted = adjust_families([one.p_value for one in found], [one.class_index for one in found])
    return tuple(replace(one, adjusted=p) for one, p in zip(found, adjusted, strict=True))


def tests_of(cue: str) -> tuple[Test, ...]:
    """Which tests tell of a cue: a look on whole pictures changes the object too, and only what it wins is its own.

    A sticker is only ever put onto other classes' images.

    >>> tests_of("background"), tests_of("sharpness"), tests_of("sticker")
    (('necessity', 'sufficiency'), ('sufficiency',), ('sufficiency',))
    """
    look = look_of(cue)
    return ("sufficiency",) if cue == STICKER or (look is not None and look.whole) else TESTS


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number (Holm 1979): reject those at most alpha for a family-wise error of alpha.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def adjust_families(p_values: Sequence[float], families: Sequence[Hashable]) -> list[float]:
    """P-values adjusted for the tests of a family (Holm) and for the number of families, here the classes of a round.

    Reject those at most alpha. Where nothing is there, the chance of any rejection is alpha, as with Holm over all
    tests; where something is, the expected share of wrong families among those with a rejection is. So a guilty class
    is not harder to find because others are guilty too.

    A family is selected at level alpha by Benjamini and Hochberg (1995), from its smallest p-value after Holm; the
    tests of the R selected among m are rejected by Holm at alpha R / m. The adjusted value is the smallest alpha that
    rejects. Source: Benjamini and Bogomolov 2014, Selective inference on multiple families of hypotheses.

    >>> [round(p, 3) for p in adjust_families([0.02, 0.5, 0.03, 0.04], ["a", "a", "b", "b"])]
    [0.06, 0.5, 0.06, 0.06]
    """
    within: dict[Hashable, list[int]] = {}
    for index, family in enumerate(families):
        within.setdefault(family, []).append(index)
    alone = [0.0] * len(p_values)
    for rows in within.values():
        for row, p in zip(rows, holm([p_values[row] for row in rows]), strict=True):
            alone[row] = p
    if not within:
        return []
    selected = sorted(false_discovery_control([min(alone[row] for row in rows) for rows in within.values()]).tolist())
    many = len(selected)
    return [min(1.0, min(max(q, p * many / r) for r, q in enumerate(selected, 1))) for p in alone]


def _distinct(values: Tensor) -> tuple[Tensor, Tensor]:
    """The sorted distinct values, and the place of each value among them."""
    distinct = torch.tensor(sorted(set(values.tolist())), dtype=torch.int64)
    return distinct, torch.searchsorted(distinct, values)


def _by_unit(differences: Tensor) -> Contrast:
    known = ~differences.isnan()
    kept = known.any(dim=1)
    return Contrast(differences.nan_to_num(0.0)[kept], known.double()[kept])


def _effect(weights: Tensor, contrast: Contrast) -> Tensor:
    """(resamples, units) weights -> (resamples,) lower median over donor classes of the weighted means."""
    total, count = weights @ contrast.sums, weights @ contrast.counts
    return torch.where(count > 0, total / count, torch.nan).nanmedian(dim=1).values


def _p_value(effect: float, error: float, units: int, tau: float) -> float:
    """One-sided, of an effect no larger than tau."""
    if error == 0:
        return 0.0 if effect > tau else 1.0
    return float(stdtr(units - 1, -(effect - tau) / error))
