from dataclasses import replace

import pytest
import torch
from torch import Tensor

from camtrain.errors import BatchError
from camtrain.reliance import (
    Pace,
    choose_donors,
    intervene,
    intervened,
    predict_before,
    probabilities,
)
from camtrain.tasks.answers import log_odds
from tests.reliance.worlds import World, on_background


def by_color(images: Tensor) -> Tensor:
    return images.mean(dim=(2, 3)) + images[:, :, 0, 0]


def design_of(pool, arms=8):
    return choose_donors(
        pool.labels, range(int(pool.labels.max()) + 1), arms=arms, generator=torch.Generator().manual_seed(0)
    )


def test_intervene__equals_one_image_at_a_time():
    pool = World(classes=3, images=4, seed=0).pool()
    design = design_of(pool)
    before = predict_before(by_color, pool, design, pace=Pace(5))
    effects = intervene(by_color, pool, design, before=before, pace=Pace(7))
    for i in range(12):
        for a in range(3):
            d = int(design.donors[i, a])
            swapped = on_background(pool, i, pool, d, margin=1)
            expected = by_color(swapped).softmax(dim=1)[0, design.classes[i]]
            torch.testing.assert_close(effects.after[i, a], expected)
            torch.testing.assert_close(intervened(pool, i, pool, d), swapped[0])
        torch.testing.assert_close(before[i], by_color(pool.images[[i]]).softmax(1)[0, design.classes[i]])


def test_intervene__never_shows_more_than_a_batch_and_reports_every_forward():
    pool = World(classes=3, images=5, seed=0).pool()
    design, sizes, told = design_of(pool), [], []

    def predict(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return by_color(images)

    before = predict_before(predict, pool, design, pace=Pace(4))
    sizes.clear()
    intervene(
        predict,
        pool,
        design,
        before=before,
        pace=Pace(4, progress=lambda what, done, total: told.append((done, total))),
    )
    assert max(sizes) == 4
    assert sum(sizes) == design.forwards == 45
    assert [done for done, _ in told] == sizes
    assert {total for _, total in told} == {45}


def test_intervene__leaves_arms_without_a_donor_nan():
    pool = World(classes=2, images=3, seed=0).pool()
    design = design_of(pool)
    alone = replace(design, donors=torch.where(torch.arange(2) == 1, -1, design.donors))
    effects = intervene(by_color, pool, alone, before=predict_before(by_color, pool, alone))
    assert effects.after[:, 1].isnan().all()
    assert not effects.after[:, 0].isnan().any()


def test_intervene__refuses_logits_of_another_shape():
    pool = World(classes=3, images=3, seed=0).pool()
    with pytest.raises(BatchError, match="class 2"):
        predict_before(lambda images: by_color(images)[:, :2], pool, design_of(pool))


def test_probabilities__of_a_single_logit_are_those_of_two_classes():
    logits = torch.tensor([[1.5], [-2.0]])
    torch.testing.assert_close(probabilities(logits)[:, 1], logits[:, 0].sigmoid())
    torch.testing.assert_close(probabilities(logits).sum(dim=1), torch.ones(2))


def test_log_odds__of_one_logit_reads_it_as_the_second_of_two_classes():
    assert torch.equal(log_odds(torch.tensor([[2.0]]), torch.tensor([1])), torch.tensor([2.0]))
    assert torch.equal(log_odds(torch.tensor([[2.0]]), torch.tensor([0])), torch.tensor([-2.0]))
