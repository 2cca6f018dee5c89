import pytest
import torch
from scipy import stats

from camtrain.reliance import (
    Contrast,
    Criteria,
    Design,
    Effects,
    adjust_families,
    bootstrap,
    choose_donors,
    concatenate,
    holm,
    necessity,
    screen,
    share_of_round,
    sufficiency,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def effects_of(design: Design, probability) -> Effects:
    """``probability(label, donor class, class)`` -> p, noise-free."""
    n, d = design.classes.shape
    after = torch.full((n, d, d), torch.nan)
    for i in range(n):
        y = int(design.labels[i])
        for a in range(d):
            for b in range(d):
                if design.donors[i, a] >= 0:
                    after[i, a, b] = probability(y, int(design.classes[i, a]), int(design.classes[i, b]))
    return Effects("test", design.labels, design.classes, design.donors, after[:, 0], after)


def leans_on_zero(label: int, background: int, c: int) -> float:
    """Class 0 needs its background, and wins .4 from anybody by it; nobody else cares."""
    if c == 0:
        return 0.9 if label == background == 0 else 0.4 if label == 0 or background == 0 else 0.0
    return (0.6 if background == 0 else 1.0) if c == label else 0.0


def effect(contrast: Contrast) -> float:
    return bootstrap(contrast, resamples=50, generator=generator())[0]


@pytest.mark.parametrize("classes", [3, 5, 8])
def test_necessity_and_sufficiency__find_one_leaning_class_and_clear_the_others(classes: int):
    design = choose_donors(torch.arange(4 * classes) % classes, range(classes), generator=generator())
    effects = effects_of(design, leans_on_zero)
    assert effect(necessity(effects, 0)) == pytest.approx(0.5)
    assert effect(sufficiency(effects, 0)) == pytest.approx(0.4)
    for c in range(1, classes):
        assert effect(necessity(effects, c)) == pytest.approx(0.0)
        assert effect(sufficiency(effects, c)) == pytest.approx(0.0)


def test_sufficiency__of_two_classes_has_nothing_to_compare_with():
    design = choose_donors(torch.arange(8) % 2, range(2), generator=generator())
    assert len(sufficiency(effects_of(design, leans_on_zero), 0).sums) == 0


def test_sufficiency__counts_a_donor_as_one_unit_however_often_it_is_lent():
    design = choose_donors(torch.arange(30) % 5, range(5), generator=generator())
    contrast = sufficiency(effects_of(design, leans_on_zero), 0)
    assert len(contrast.sums) == 6
    assert contrast.counts.sum() == 6 * 4 * 3  # donors x borrowers x backgrounds of neither class


def test_necessity__leaves_out_images_without_a_placebo():
    design = choose_donors(torch.tensor([0, 0, 0, 1]), (0, 1), generator=generator())
    assert len(necessity(effects_of(design, leans_on_zero), 1).sums) == 0


def test_bootstrap__error_of_one_column_is_that_of_the_mean():
    values = torch.randn(40, 1, generator=generator(), dtype=torch.float64)
    effect, error = bootstrap(Contrast(values, torch.ones_like(values)), resamples=20000, generator=generator())
    assert effect == pytest.approx(values.mean().item())
    assert error == pytest.approx(values.std().item() / 40**0.5, rel=0.03)


def test_bootstrap__takes_the_lower_median_over_donor_classes():
    sums = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).double().expand(3, 4)
    assert bootstrap(Contrast(sums, torch.ones_like(sums)), resamples=5, generator=generator()) == (0.0, 0.0)


def test_bootstrap__of_no_unit_is_nan_and_of_one_has_infinite_error():
    empty = torch.zeros(0, 1, dtype=torch.float64)
    assert all(value != value for value in bootstrap(Contrast(empty, empty), resamples=5, generator=generator()))
    one = torch.ones(1, 1, dtype=torch.float64)
    assert bootstrap(Contrast(one, one), resamples=5, generator=generator()) == (1.0, torch.inf)


def test_holm__agrees_with_its_definition_worked_by_hand():
    # sorted .005 .01 .03 .04 times 4 3 2 1: .02 .03 .06 .04, then the running maximum
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm__of_nothing_is_nothing_and_never_exceeds_one():
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_adjust_families__agrees_with_its_definition_worked_by_hand():
    # Holm within a: .02, .5; b: .06, .06; c: .9. Selected by .02, .06, .9, of which Benjamini and Hochberg make .06,
    # .09, .9. At R = 1: the larger of .06 and three times each; at R = 2 of .09 and one and a half times; at 3 of .9
    found = adjust_families([0.01, 0.5, 0.03, 0.04, 0.9], ["a", "a", "b", "b", "c"])
    assert found == pytest.approx([0.06, 0.75, 0.09, 0.09, 0.9])


def test_adjust_families__of_one_family_is_holm_and_of_one_test_each_benjamini_and_hochberg():
    p_values = [0.01, 0.04, 0.03, 0.005]
    assert adjust_families(p_values, [0] * 4) == pytest.approx(holm(p_values))
    # sorted .005 .01 .03 .04 times 4, 2, 4/3, 1: .02 .02 .04 .04
    assert adjust_families(p_values, range(4)) == pytest.approx([0.02, 0.04, 0.04, 0.02])
    assert adjust_families([], []) == []


def test_adjust_families__rejects_at_alpha_what_two_steps_would():
    g = generator(0)
    for _ in range(200):
        p_values = (torch.rand(12, generator=g) ** 3).tolist()
        families = torch.randint(4, (12,), generator=g).tolist()
        names = sorted(set(families))
        of = {name: [p for p, family in zip(p_values, families, strict=True) if family == name] for name in names}
        best = sorted(min(holm(of[name])) for name in names)
        selected = max((r for r, p in enumerate(best, 1) if p <= 0.05 * r / len(names)), default=0)
        within = {name: iter(holm(of[name])) for name in names}
        wanted = [next(within[family]) <= 0.05 * selected / len(names) for family in families]
        assert [p <= 0.05 for p in adjust_families(p_values, families)] == wanted


def test_adjust_families__keeps_the_share_of_innocent_classes_among_those_found_under_alpha():
    g, shares = generator(1), []
    for _ in range(400):
        z = torch.randn(8, 6, generator=g).double()
        z[:3, 0] += 3.2  # three classes of eight lean on something
        p_values = torch.special.ndtr(-z).flatten().tolist()
        adjusted = torch.tensor(adjust_families(p_values, [c for c in range(8) for _ in range(6)])).view(8, 6)
        found = (adjusted <= 0.05).any(dim=1)
        shares.append(float(found[3:].sum() / found.sum().clamp(min=1)))
    assert sum(shares) / len(shares) <= 0.05


def losing_without_their_background(guilty: set[int], classes: int = 4, images: int = 12) -> Effects:
    """Each class loses much and unevenly on other backgrounds if it is guilty, else as unevenly about nothing."""
    g = generator(0)
    design = choose_donors(torch.arange(classes * images) % classes, range(classes), generator=g)
    n, d = design.classes.shape
    lost = torch.tensor([0.15 * (int(label) in guilty) for label in design.labels])
    after = torch.zeros(n, d, d)
    after[:, :, 0] = 0.5
    after[:, 1:, 0] -= lost.unsqueeze(1) + 0.15 * torch.randn(n, 1, generator=g)
    return Effects("test", design.labels, design.classes, design.donors, after[:, 0], after)


def test_screen__a_class_is_not_harder_to_find_because_others_are_guilty_too():
    found = screen(losing_without_their_background({0, 1, 2, 3}), range(4), Criteria(), generator=generator())
    last = max((one for one in found if one.test == "necessity"), key=lambda one: one.p_value)
    assert last.adjusted == pytest.approx(2 * last.p_value)  # two tests; all four classes are selected
    guilty = losing_without_their_background({last.class_index})
    (alone,) = [
        one
        for one in screen(guilty, range(4), Criteria(), generator=generator())
        if (one.class_index, one.test) == (last.class_index, "necessity")
    ]
    assert alone.p_value == pytest.approx(last.p_value, rel=0.2)
    assert alone.adjusted == pytest.approx(8 * alone.p_value)  # the only one among eight tests


def look_at_nothing(seed: int, tau: float, skewed: bool, classes: int = 6, images: int = 30) -> bool:
    """Does a look flag anything where every class loses exactly tau on every other background."""
    g = generator(seed)
    design = choose_donors(torch.arange(classes * images) % classes, range(classes), generator=g)
    n, d = design.classes.shape
    after = torch.zeros(n, d, d)
    image = 0.1 * torch.randn(n, 1, generator=g)
    rare = 0.4 * (torch.rand(n, d, generator=g) < tau / 0.4)
    loss = rare if skewed else tau + 0.15 * torch.randn(n, d, generator=g)
    after[:, :, 0] = 0.5 + image - loss
    after[:, 0, 0] += loss[:, 0]
    effects = Effects("test", design.labels, design.classes, design.donors, after[:, 0], after)
    found = screen(effects, range(classes), Criteria(tau=tau, resamples=200), generator=g)
    return any(one.adjusted <= 0.05 for one in found)


@pytest.mark.parametrize("skewed", [False, True])
def test_screen__false_alarms_at_the_edge_of_the_null_stay_below_alpha(skewed: bool):
    looks = 60
    alarms = sum(look_at_nothing(seed, 0.05, skewed) for seed in range(looks))
    assert alarms <= stats.binom.isf(0.005, looks, 0.05)


def rounds_with_alarms(seed: int, rounds: int) -> tuple[bool, bool]:
    """Whether any of a run's rounds flags something where every class is at the edge of the null; with all of alpha."""
    alarms = {True: False, False: False}
    for j in range(1, rounds + 1):
        lowest = lowest_p_of_nothing(1000 * seed + j)
        for spending in alarms:
            alarms[spending] |= lowest <= 0.05 * (share_of_round(j) if spending else 1.0)
    return alarms[True], alarms[False]


def lowest_p_of_nothing(seed: int, tau: float = 0.05, images: int = 20) -> float:
    g = generator(seed)
    design = choose_donors(torch.arange(3 * images) % 3, range(3), generator=g)
    n, d = design.classes.shape
    after = torch.zeros(n, d, d)
    after[:, :, 0] = 0.5
    after[:, 1:, 0] -= tau + 0.15 * torch.randn(n, 1, generator=g)  # one for all donors: no median hides it
    effects = Effects("test", design.labels, design.classes, design.donors, after[:, 0], after)
    found = screen(effects, range(3), Criteria(tau=tau, resamples=100), generator=g)
    return min(one.adjusted for one in found)


def test_share_of_round__keeps_the_error_rate_of_a_whole_run():
    runs = [rounds_with_alarms(seed, rounds=10) for seed in range(30)]
    spending, full = (sum(column) for column in zip(*runs, strict=True))
    assert spending <= stats.binom.isf(0.005, len(runs), 0.05)
    assert full > stats.binom.isf(0.005, len(runs), 0.05)  # what the spending is for


def test_concatenate__keeps_the_donors_of_each_process_apart():
    design = choose_donors(torch.arange(6) % 2, range(2), generator=generator())
    part = effects_of(design, leans_on_zero)
    whole = concatenate([part, part])
    assert whole.donors[6:].min() >= 6
    assert torch.equal(whole.donors[:6], part.donors)
    assert necessity(whole, 0).sums.shape == (6, 1)
