from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module

import pytest
import torch
from torch import Tensor

from camtrain.reliance import Design, ExaminationPlan, Pool, concatenate, examine, illustrate, margins, restrict
from camtrain.reliance.examine import Round
from tests.reliance.worlds import World, mixture, read_background, read_background_for, read_object

SEEDS = range(4)

ROUND = import_module("camtrain.reliance.examine")  # the package's attribute of that name is the function


def verdicts(predict: Callable[[Tensor], Tensor], world: World, **kwargs) -> dict[int, str]:
    names = [f"class {c}" for c in range(world.classes)]
    found = examine(predict, world.pool(), names, range(world.classes), **kwargs)
    return {one.class_index: one.verdict for one in found.verdicts}


def counted(predict: Callable[[Tensor], Tensor], **kwargs) -> Counter:
    return Counter(v for seed in SEEDS for v in verdicts(predict, World(seed=seed, **kwargs)).values())


def distracted(images: Tensor) -> Tensor:
    """Reads the object; the background disturbs every logit, but says nothing of the class."""
    total = images[:, :, :2].sum(dim=(1, 2, 3)) / 32
    return read_object(images) + 2 * torch.sin(40 * total[:, None] + torch.arange(images.shape[1]))


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_examine__a_model_that_reads_the_object_is_cleared(classes: int):
    assert counted(read_object, classes=classes, images=20) == {"not reliant": 4 * classes}


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_examine__a_model_that_reads_the_background_is_flagged_for_every_class(classes: int):
    assert counted(read_background, classes=classes, images=20) == {"reliant": 4 * classes}


def test_examine__a_mixture_is_flagged():
    assert counted(mixture(0.3), classes=5, images=30) == {"reliant": 20}


def test_examine__a_background_that_only_disturbs_raises_no_alarm():
    assert counted(distracted, classes=6, images=30)["reliant"] == 0


@pytest.mark.parametrize("classes", [4, 6])
def test_examine__one_leaning_class_is_found_and_innocent_ones_are_not(classes: int):
    found = [verdicts(read_background_for(1), World(classes=classes, images=30, seed=seed)) for seed in SEEDS]
    assert all(each[1] == "reliant" for each in found)
    assert not any(each[c] == "reliant" for each in found for c in each if c != 1)


def test_examine__power_grows_with_images():
    few = counted(mixture(0.15), classes=4, images=12)["reliant"]
    many = counted(mixture(0.15), classes=4, images=60)["reliant"]
    assert few < many
    assert many == 16


def test_examine__finds_an_imperfect_correlation():
    assert counted(mixture(0.4), classes=4, images=30, correlation=0.9)["reliant"] >= 15


def test_examine__eroded_masks_end_undecided_with_the_reason():
    world = World(classes=4, images=30, seed=0)
    pool = world.pool()
    small = torch.zeros_like(pool.masks)
    small[:, 8:9, 8:9] = 1  # the object reaches far beyond

    def reads_the_rim(images: Tensor) -> Tensor:
        return 6 * images[:, :, 5:11, 10:11].mean(dim=(2, 3))

    names = [str(c) for c in range(4)]
    found = examine(
        reads_the_rim, Pool(pool.images, pool.labels, small), names, range(4), plan=ExaminationPlan(guard=4)
    )
    assert {one.verdict for one in found.verdicts} == {"undecided"}
    assert all("masks too small" in one.note for one in found.verdicts)


def test_examine__too_few_images_decide_nothing():
    assert set(verdicts(read_background, World(classes=3, images=5, seed=0)).values()) == {"undecided"}


def test_examine__of_one_class_decides_nothing():
    assert set(verdicts(read_background, World(classes=1, images=20, seed=0)).values()) == {"undecided"}


def test_examine__repeats_to_the_bit():
    world = World(classes=3, images=15, seed=0)
    first, second = (
        examine(mixture(0.2), world.pool(), ["a", "b", "c"], range(3), plan=ExaminationPlan(seed=5)) for _ in range(2)
    )
    assert repr(first.verdicts) == repr(second.verdicts)  # NaN is not equal to itself


def test_examine__joins_the_pools_of_several_processes():
    pools = [World(classes=3, images=8, seed=seed).pool() for seed in (0, 1)]
    names = ["a", "b", "c"]
    parts: list = []
    examine(read_background, pools[0], names, range(3), gather=lambda run: parts.append(run()) or parts[-1])

    def gather(run):
        return concatenate([parts[0], run()])

    assert {v.verdict for v in examine(read_background, pools[1], names, range(3), gather=gather).verdicts} == {
        "reliant"
    }


def test_examine__costs_what_it_says(monkeypatch):
    seen = Counter()

    def predict(images: Tensor) -> Tensor:
        seen["images"] += len(images)
        return read_object(images)

    verdicts(predict, World(classes=4, images=10, seed=0))
    assert seen["images"] == 40 * (1 + 4 + 3 * 4)
    seen.clear()
    verdicts(lambda images: predict(images) * 0 + read_background(images), World(classes=4, images=10, seed=0))
    assert seen["images"] == 40 * (1 + 4 + 3 * 4 + 3)  # masks that fit need no guard
    monkeypatch.setattr(ROUND, "overhang", unknown)
    seen.clear()
    verdicts(lambda images: predict(images) * 0 + read_background(images), World(classes=4, images=30, seed=0))
    assert seen["images"] == 120 * (1 + 4 + 3 * 4 + 3) + 48 * 3  # guarded; 12 images a class on color alone


def unknown(images: Tensor, masks: Tensor, *, margin: int) -> Tensor:
    """No overhang is known."""
    return torch.full((len(images),), torch.nan)


def test_restrict__leaves_donors_to_the_first_images_of_a_class():
    labels = torch.tensor([1, 0, 1, 0, 1])
    design = Design(labels, torch.zeros(5, 3, dtype=torch.long), torch.arange(15).view(5, 3))
    found = restrict(design, 2, most=1)
    assert found.donors.tolist() == [[0, 1], [3, 4], [-1, -1], [-1, -1], [-1, -1]]
    assert found.classes.shape == (5, 2)
    assert restrict(design, 2, most=2).donors[:, 0].tolist() == [0, 3, 6, 9, -1]


def test_examine__looks_again_with_every_arm_where_half_of_them_do_not_show_it(monkeypatch):
    world = World(classes=4, images=24, seed=0)
    asked: list[tuple[str, int, int | None]] = []
    swap = Round.swap

    def noting(run, exchange, *, arms=None, **kwargs):
        found = swap(run, exchange, arms=arms, **kwargs)
        if exchange.margin > 1:
            asked.append((exchange.cue, exchange.margin, arms))
            if arms == 3:
                return replace(found, after=torch.full_like(found.after, 0.5))
        return found

    monkeypatch.setattr(Round, "swap", noting)
    monkeypatch.setattr(ROUND, "overhang", unknown)
    found = examine(read_background, world.pool(), list("abcd"), range(4))
    assert {one.verdict for one in found.verdicts} == {"reliant"}
    assert [(cue, arms) for cue, _, arms in asked] == [("background", 3), ("background", None)]


def test_illustrate__shows_different_images_that_lost_most_first():
    world = World(classes=4, images=12, seed=0)
    found = examine(read_background, world.pool(), list("abcd"), range(4))
    first, second = illustrate(found.effects["background"], 2)
    assert first.image != second.image
    assert first.before - first.after >= second.before - second.after > 0.5
    assert found.effects["background"].labels[first.image] == 2


def test_illustrate__of_a_class_without_images_is_empty():
    found = examine(read_object, World(classes=2, images=12, seed=0).pool(), list("ab"), range(2))
    assert illustrate(found.effects["background"], 7) == ()


def test_margins__are_never_below_one_and_three_pixels():
    assert margins(torch.zeros(1, 3, 8, 8)) == (1, 3)


def test_examine__a_balanced_pool_clears_nobody_that_its_backgrounds_swing():
    found = counted(mixture(0.6), classes=4, images=30, correlation=0.0)
    assert found["not reliant"] == 0


def test_examine__lenders_that_kept_the_correlation_reveal_it_in_a_balanced_pool():
    balanced = World(classes=4, images=20, seed=0, correlation=0.0)
    lenders = World(classes=4, images=20, seed=1).pool()
    found = examine(mixture(0.6), balanced.pool(), list("abcd"), range(4), lenders=lenders)
    assert [one.verdict for one in found.verdicts] == ["reliant"] * 4
    cleared = examine(read_object, balanced.pool(), list("abcd"), range(4), lenders=lenders)
    assert [one.verdict for one in cleared.verdicts] == ["not reliant"] * 4
