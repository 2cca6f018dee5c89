import math
from dataclasses import replace

import pytest
import torch

from camtrain.reliance import (
    Effects,
    ExaminationPlan,
    concatenate,
    examine,
    flipped,
    intervened,
    sentence,
    transplant,
    with_transplants,
)
from tests.reliance.worlds import World, mixture, read_background, read_background_for, read_object


def found(predict, classes=4, images=20, **kwargs):
    names = [f"class {c}" for c in range(classes)]
    return examine(predict, World(classes=classes, images=images, seed=0).pool(), names, range(classes), **kwargs)


def test_transplant__of_a_model_that_reads_the_background_flips_every_other_image():
    verdicts = found(read_background).verdicts
    assert [(one.transplants, one.flips, one.placebo_flips) for one in verdicts] == [(60, 60, 0.0)] * 4


def test_transplant__is_what_the_model_says_of_each_changed_image():
    predict = mixture(0.5)
    pool = World(classes=4, images=10, seed=0).pool()
    effects = found(predict, images=10).effects["background"]
    rows, arms = flipped(effects, 2)
    donors = effects.donors[rows, arms]
    pairs = zip(rows.tolist(), donors.tolist(), strict=True)
    images = torch.stack([intervened(pool, row, pool, donor) for row, donor in pairs])
    assert (predict(images).argmax(dim=1) == 2).all()
    assert len(rows) == transplant(effects, 2).flips > 5
    gain = effects.after[rows, arms, arms] - effects.before[rows, arms]
    assert gain.diff().le(0).all()
    assert not (predict(pool.images[rows]).argmax(dim=1) == 2).any()


def test_transplant__of_one_leaning_class_leaves_the_others_without_numbers():
    verdicts = found(read_background_for(1, weight=1.2), images=30).verdicts
    assert [one.verdict == "reliant" for one in verdicts] == [False, True, False, False]
    assert [one.transplants > 0 for one in verdicts] == [False, True, False, False]
    assert verdicts[1].flips > 3 * verdicts[1].placebo_flips


def test_transplants__stand_in_verdicts_that_a_person_should_look_at():
    findings = found(read_background)
    one = replace(findings.verdicts[0], transplants=0, flips=0, cue="background")
    told = [replace(one, verdict=verdict) for verdict in ("reliant", "suspect", "undecided", "not reliant")]
    assert [one.flips for one in with_transplants(told, findings.effects)] == [60, 60, 0, 0]
    assert with_transplants([replace(one, cue="elsewhere")], findings.effects)[0].flips == 0


def test_transplant__costs_no_forward():
    seen = []
    found(lambda images: seen.append(len(images)) or read_background(images), classes=3, plan=ExaminationPlan(looks=()))
    assert sum(seen) == 60 * (1 + 3) + 36 * 3  # before, arms, color alone


def test_transplant__of_two_classes_has_no_placebo():
    one = found(read_background, classes=2).verdicts[0]
    assert one.flips == one.transplants == 20
    assert math.isnan(one.placebo_flips)
    assert sentence(one) == "20 of 20 other images become class 0 with its background tint"


def test_transplant__does_not_count_images_that_are_taken_for_the_class_anyway():
    effects = found(read_object, classes=3).effects["background"]
    always = replace(effects, answers=torch.where(effects.donors >= 0, 0, -1))
    assert transplant(always, 0).images == 0
    assert math.isnan(transplant(always, 0).flip_rate)
    assert transplant(replace(effects, answers=None), 0).images == 0
    assert len(flipped(replace(effects, answers=None), 0)[0]) == 0


@pytest.mark.parametrize("cut", [1, 25])
def test_transplant__of_several_processes_counts_all_images(cut):
    effects = found(mixture(0.5), classes=4, images=10).effects["background"]
    parts = [
        Effects(
            effects.infill,
            *(getattr(effects, name)[rows] for name in ("labels", "classes", "donors", "before", "after")),
            answers=effects.answers[rows],
        )
        for rows in (slice(cut), slice(cut, None))
    ]
    whole, joined = transplant(effects, 1), transplant(concatenate(parts), 1)
    assert (whole.images, whole.flips) == (joined.images, joined.flips)
    assert whole.placebo_flips == pytest.approx(joined.placebo_flips)
