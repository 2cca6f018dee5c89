import math
from dataclasses import replace

import pytest
import torch

from camtrain.reliance import Criteria, Effects, Estimate, decide, decide_guessed
from camtrain.reliance.decide import images_needed

CLEAR = Estimate(0, "necessity", 0.31, 0.03, 30, 0.24, 0.38, 1e-9, 1e-8)
NOTHING = Estimate(0, "necessity", 0.001, 0.004, 30, -0.007, 0.009, 0.9, 1.0)
UNSURE = Estimate(0, "necessity", 0.04, 0.03, 30, -0.02, 0.10, 0.26, 1.0)


def effects(images: int = 30, before: float = 0.9, placebo: float = 0.01) -> Effects:
    after = torch.full((images, 2, 2), before - placebo)
    ones = torch.zeros(images, dtype=torch.long)
    donors, classes = torch.zeros(images, 2, dtype=torch.long), torch.tensor([[0, 1]]).expand(images, 2)
    return Effects("test", ones, classes, donors, torch.full((images, 2), before), after)


def verdict(*estimates: Estimate, measured: Effects | None = None, **kwargs):
    (only,) = decide(measured or effects(), estimates, ["boat"], **kwargs)
    return only


def test_decide__a_clear_effect_is_reliant_with_its_numbers():
    found = verdict(CLEAR)
    assert (found.verdict, found.class_name, found.cue) == ("reliant", "boat", "background")
    assert (found.effect, found.low, found.high, found.images) == (0.31, 0.24, 0.38, 30)
    assert found.placebo == pytest.approx(0.01)


def test_decide__an_effect_that_vanishes_under_grown_masks_is_undecided():
    found = verdict(CLEAR, guarded=[NOTHING])
    assert found.verdict == "undecided"
    assert "masks" in found.note


def test_decide__an_effect_that_persists_under_grown_masks_is_reliant():
    persists = replace(CLEAR, effect=0.1, p_value=0.001, adjusted=0.2)
    assert verdict(CLEAR, guarded=[persists]).verdict == "reliant"


def test_decide__the_other_test_does_not_confirm():
    assert verdict(CLEAR, guarded=[replace(CLEAR, test="sufficiency")]).verdict == "undecided"


def test_decide__a_look_needs_no_second_look_where_the_background_stood_one():
    tint = replace(CLEAR, cue="background tint", effect=0.25)
    assert verdict(CLEAR, tint, guarded=[CLEAR]).cue == "background tint"
    assert verdict(tint, guarded=[CLEAR]).verdict == "undecided"


def test_decide_guessed__what_is_not_seen_again_is_suspect():
    (found,) = decide_guessed(effects(), [CLEAR], [], ["boat"], guarded=[NOTHING])
    assert found.verdict == "suspect"
    assert "next to what was taken for the object only" in found.note


def test_decide__sufficiency_alone_suffices():
    wins = replace(CLEAR, test="sufficiency", effect=0.2)
    assert verdict(NOTHING, wins).verdict == "reliant"
    assert verdict(NOTHING, wins).effect == 0.2


def test_decide__a_narrow_interval_near_zero_is_not_reliant():
    assert verdict(NOTHING).verdict == "not reliant"


def test_decide__every_upper_bound_must_lie_below_the_limit():
    assert verdict(NOTHING, replace(UNSURE, test="sufficiency")).verdict == "undecided"


def test_decide__a_wide_interval_is_undecided_and_says_how_many_images_it_takes():
    found = verdict(UNSURE)
    assert found.verdict == "undecided"
    assert f"about {images_needed(UNSURE, Criteria(), 1)} more images" in found.note


def test_decide__too_few_images_say_how_many_are_missing():
    found = verdict(measured=effects(images=4))
    assert found.verdict == "undecided"
    assert "about 6 more" in found.note
    assert math.isnan(found.effect)


def test_decide__answers_that_are_not_finite_ask_for_no_more_images():
    measured = effects(before=math.nan)
    guessed = decide_guessed(measured, [], [], ["boat"])
    for found in (verdict(measured=measured), *guessed):
        assert (found.verdict, found.images) == ("undecided", 0)
        assert "not finite" in found.note


def test_decide__a_class_that_is_not_recognized_is_never_cleared():
    assert verdict(NOTHING, measured=effects(before=0.05)).verdict == "undecided"


def test_decide__a_class_that_is_not_told_from_others_is_never_cleared():
    measured = effects(60, before=0.9)
    measured.labels[30:] = 1
    swapped = measured.classes.clone()
    swapped[30:] = torch.tensor([1, 0])
    same = replace(measured, classes=swapped)
    found = decide(same, [NOTHING], ["boat", "car"])[0]
    assert found.verdict == "undecided"
    assert "not told from others yet (mean probability 0.90, 0.90 on their images)" in found.note
    told = replace(same, before=same.before.clone())
    told.before[30:, 1] = 0.1
    assert decide(told, [NOTHING], ["boat", "car"])[0].verdict == "not reliant"


def test_decide__names_the_effect_of_color_alone():
    assert "12 points by its color alone" in verdict(CLEAR, other_infill=[replace(CLEAR, effect=0.12)]).note


def test_images_needed__would_decide_if_effect_and_spread_stay():
    more = images_needed(UNSURE, Criteria(), 1)
    n = UNSURE.units + more
    error = UNSURE.error * (UNSURE.units / n) ** 0.5
    bound = UNSURE.effect + 2.05 * error < 0.1 or UNSURE.effect - 1.69 * error > 0.02
    assert bound


def test_images_needed__of_an_unknown_spread_is_none():
    assert images_needed(replace(UNSURE, error=math.inf), Criteria(), 1) is None


def test_decide__masks_that_are_known_to_fit_need_not_be_grown():
    assert verdict(CLEAR, guarded=[NOTHING], overhangs={0: 0.05}).verdict == "reliant"
    assert verdict(CLEAR, guarded=[NOTHING], overhangs={0: 0.06}).verdict == "undecided"
    assert verdict(CLEAR, guarded=[NOTHING], overhangs={0: math.nan}).verdict == "undecided"
    assert verdict(CLEAR, guarded=[NOTHING], overhangs={1: 0.0}).verdict == "undecided"


def test_decide__masks_that_are_too_small_decide_nothing():
    sharp = replace(CLEAR, test="sufficiency", cue="sharpness", effect=0.25)
    for estimates in ([CLEAR], [sharp], [CLEAR, sharp]):
        found = verdict(*estimates, guarded=estimates, overhangs={0: 0.41})
        assert (found.verdict, found.cue) == ("undecided", estimates[-1].cue)
        assert "masks too small: 41 %" in found.note
    assert verdict(CLEAR, guarded=[CLEAR], overhangs={0: 0.4}).verdict == "reliant"
