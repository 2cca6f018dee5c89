"""Small things that win a class wherever they lie: found where they do not belong to the object, and only then."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from camtrain.reliance import (
    STICKER,
    Criteria,
    Effects,
    Estimate,
    ExaminationPlan,
    Placement,
    Pool,
    Verdict,
    concatenate,
    decide_guessed,
    examine,
    find_stickers,
    gather_evidence,
    placement,
    region_of,
    rejected,
    screen,
    transplant,
)
from camtrain.reliance.examine import Round
from camtrain.reliance.stickers import FIRST, no_stickers
from camtrain.segmenters import guess_masks
from camtrain.swaps.compositing import dilate

NAMES, SIDE, DOT = list("abc"), 36, 5


def scenes(where: str, images: int = 30, seed: int = 0, size: int = 16) -> tuple[Pool, Tensor]:
    """Gray squares on dark noise, and a dot in the color of the class: on the square, anywhere off it, or not at all.

    The pool's masks are guesses; (top, left) of every dot.
    """
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(3).repeat_interleave(images)
    pictures = 0.2 + 0.02 * torch.randn(len(labels), 3, SIDE, SIDE, generator=g)
    places = torch.zeros(len(labels), 2, dtype=torch.int64)
    for n, label in enumerate(labels.tolist()):
        top, left = torch.randint(2, 18, (2,), generator=g).tolist()
        pictures[n, :, top : top + size, left : left + size] = 0.6
        while True:
            y, x = torch.randint(1, SIDE - DOT - 1, (2,), generator=g).tolist()
            inside = top + 1 <= y <= top + size - 6 and left + 1 <= x <= left + size - 6
            outside = y + DOT + 3 < top or y > top + size + 3 or x + DOT + 3 < left or x > left + size + 3
            if (inside and where == "on") or (outside and where != "on"):
                break
        places[n] = torch.tensor([y, x])
        if where != "nowhere":
            pictures[n, :, y : y + DOT, x : x + DOT] = 0.1 + 0.8 * F.one_hot(torch.tensor(label), 3)[:, None, None]
    return Pool(pictures, labels, guess_masks(pictures)), places


def by_dot(images: Tensor) -> Tensor:
    """How much of each class's color there is in the place that has most of it."""
    colored = images - images.mean(dim=1, keepdim=True)
    return 20 * F.avg_pool2d(colored, 3, stride=1).flatten(2).amax(dim=2)


def test_find_stickers__finds_the_windows_and_that_they_lie_off_the_object():
    pool, places = scenes("off")
    found = find_stickers(by_dot, pool, range(3))
    middles = found.boxes[:, :2] + found.boxes[:, 2:] / 2
    assert ((middles - places - DOT / 2).abs() <= 3).all(dim=1).float().mean() > 0.8
    for c in range(3):
        placed = placement(found.effects, c)
        assert placed.convinces(Criteria())
        assert placed.off > 0.7 * placed.images
    assert (found.effects.labels != found.effects.classes[:, 1]).all()  # on other classes' images only


def test_find_stickers__sees_those_that_the_guess_took_for_a_part_of_the_object():
    pool, places = scenes("off", size=8)
    taken = [n for n, (y, x) in enumerate(places.tolist()) if pool.masks[n, y + 2, x + 2] == 1]
    assert len(taken) > 40
    effects = find_stickers(by_dot, pool, range(3)).effects
    off = dict(zip(effects.donors[:, 1].tolist(), effects.off.tolist(), strict=True))
    known = [off[n] for n in taken if off[n] == off[n]]
    assert len(known) > 20
    assert sum(known) > 0.6 * len(known)


def test_find_stickers__of_what_the_object_wears_are_not_off_it():
    pool, _ = scenes("on")
    found = find_stickers(by_dot, pool, range(3))
    placed = [placement(found.effects, c) for c in range(3)]
    assert all(one.images > 10 for one in placed)  # their windows do win the class
    assert not any(one.convinces(Criteria()) for one in placed)


def test_find_stickers__where_the_object_is_guessed_elsewhere_anew_says_nothing():
    pool, _ = scenes("off")
    elsewhere = dilate(pool.masks, 2) == 0
    found = find_stickers(by_dot, Pool(pool.images, pool.labels, elsewhere.float()), range(3))
    assert [placement(found.effects, c).images for c in range(3)] == [0] * 3


def test_find_stickers__has_the_object_segmented_anew_as_it_was_before():
    pool, _ = scenes("off")
    asked = []

    def segment(images: Tensor) -> Tensor:
        asked.append(len(images))
        return 0.9 * guess_masks(images).clamp(min=0)

    soft = Pool(pool.images, pool.labels, 0.9 * pool.masks)
    found = find_stickers(by_dot, soft, range(3), segment=segment)
    assert sum(asked) > 30
    assert all(placement(found.effects, c).convinces(Criteria()) for c in range(3))
    blind = find_stickers(by_dot, pool, range(3), segment=lambda images: torch.full_like(images[:, 0], -1.0))
    assert blind.effects.off.isnan().all()


def test_find_stickers__of_objects_no_larger_than_a_window_says_nothing():
    pool, places = scenes("off")
    small = torch.where(pool.images.amin(dim=1, keepdim=True) > 0.45, 0.2, pool.images)
    masks = torch.zeros_like(pool.masks)
    for mask, (top, left) in zip(masks, places.tolist(), strict=True):
        mask[top : top + DOT, left : left + DOT] = 1
    found = find_stickers(by_dot, Pool(small, pool.labels, masks), range(3))
    assert not any(placement(found.effects, c).convinces(Criteria()) for c in range(3))


def test_find_stickers__searches_few_images_where_no_window_wins():
    pool, _ = scenes("nowhere")
    asked = []

    def predict(images: Tensor) -> Tensor:
        asked.append(len(images))
        return by_dot(images) * 0.1

    found = find_stickers(predict, pool, range(3))
    assert int((found.boxes >= 0).all(dim=1).sum()) == 3 * FIRST
    assert sum(asked) <= 3 * FIRST * (9 + 9 + 9 + 12)


def test_find_stickers__says_the_same_again_and_leaves_the_images():
    pool, _ = scenes("off", images=6)
    given = pool.images.clone()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, second = (find_stickers(by_dot, pool, range(3), seed=4) for _ in range(2))
    assert torch.equal(first.boxes, second.boxes)
    assert torch.equal(first.effects.after, second.effects.after)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(pool.images, given)


def test_find_stickers__windows_to_compare_with_are_elsewhere_in_the_same_image():
    pool, _ = scenes("off", images=6)
    found = find_stickers(by_dot, pool, range(3))
    telling, plain = found.boxes, found.plain
    clear = (plain[:, :2] >= telling[:, :2] + telling[:, 2:]) | (plain[:, :2] + plain[:, 2:] <= telling[:, :2])
    assert clear.any(dim=1).all()
    assert ((plain[:, :2] >= 0) & (plain[:, :2] + plain[:, 2:] <= SIDE)).all()


@pytest.mark.parametrize("kept", [[], [0]])
def test_find_stickers__of_less_than_two_classes_finds_nothing(kept):
    pool, _ = scenes("off", images=4)
    rows = torch.tensor([n for n, label in enumerate(pool.labels.tolist()) if label in kept], dtype=torch.int64)
    found = find_stickers(by_dot, Pool(pool.images[rows], pool.labels[rows], pool.masks[rows]), kept)
    assert (found.boxes == -1).all()
    assert placement(found.effects, 0).images == 0


@pytest.mark.parametrize("side", [1, 2, 3, 5, 9])
def test_find_stickers__of_tiny_images_ends_well(side):
    pool = Pool(torch.rand(8, 3, side, side), torch.arange(8) % 2, torch.zeros(8, side, side))
    found = find_stickers(lambda images: images.mean(dim=(2, 3)), pool, range(2))
    assert ((found.boxes >= 0).all() if side > 1 else (found.boxes == -1).all()).item()


def test_find_stickers__reads_a_single_logit():
    pool, _ = scenes("off", images=20)
    two = pool.labels < 2
    found = find_stickers(
        lambda images: by_dot(images)[:, 1:2] - by_dot(images)[:, :1],
        Pool(pool.images[two], pool.labels[two], pool.masks[two]),
        range(2),
    )
    assert all(placement(found.effects, c).convinces(Criteria()) for c in range(2))


def test_examine_guessed__measures_stickers_and_can_show_them():
    pool, _ = scenes("off")
    findings = examine(by_dot, pool, NAMES, range(3), plan=ExaminationPlan(guessed=True))
    assert {one.verdict for one in findings.verdicts} == {"reliant"}
    flips = transplant(findings.effects[STICKER], 0)
    assert flips.flips > 0.7 * flips.images > 0
    assert flips.placebo_flips < 0.2 * flips.images
    verdict = replace(findings.verdicts[0], cue=STICKER)
    evidence = gather_evidence(by_dot, findings, verdict, pool, pool)
    assert evidence.forwards == 0
    assert region_of(evidence).answer == "moves"
    rows = [int((pool.images == one).flatten(1).all(dim=1).int().argmax()) for one in evidence.images]
    assert len(rows) > 4
    assert {int(pool.labels[row]) for row in rows} == {0}


def verdict_of(stickers: float, background: float = 0.0, off: int = 20) -> Verdict:
    """On class a, from a sticker's effect, that of the background, and how often the sticker lies off the object."""
    own = torch.zeros(20, 1, dtype=torch.int64)
    effects = Effects("", own[:, 0], own, own, torch.ones(20, 1), torch.ones(20, 1, 1))
    found = [
        Estimate(0, "sufficiency", effect, 0.01, 20, effect - 0.02, effect + 0.02, p, p, cue)
        for cue, effect in ((STICKER, stickers), ("background", background))
        for p in (0.0 if effect else 1.0,)
    ]
    seen = [one for one in found if one.cue == "background"]
    placed = {0: Placement(off, 20, 0.0 if off else 1.0)}
    return decide_guessed(effects, found, [], ["a"], guarded=seen, placements=placed)[0]


def test_decide_guessed__a_sticker_off_the_object_makes_reliant():
    found = verdict_of(0.7)
    assert (found.verdict, found.cue, found.effect) == ("reliant", STICKER, 0.7)
    assert found.note == "by what it wins on other objects; off the object in 20 of 20 images"


def test_decide_guessed__a_sticker_on_the_object_says_nothing():
    found = verdict_of(0.7, off=0)
    assert (found.verdict, found.cue) == ("no evidence", "background")


def test_decide_guessed__names_whichever_wins_more():
    assert verdict_of(0.7, background=0.4).cue == STICKER
    assert verdict_of(0.4, background=0.7).cue == "background"
    assert verdict_of(0.7, background=0.4, off=0).cue == "background"


def test_examine_guessed__looks_again_at_backgrounds_and_never_at_stickers(monkeypatch):
    asked, swap = [], Round.swap

    def noting(run, kind, **kwargs):
        asked.append(kind.cue)
        return swap(run, kind, **kwargs)

    monkeypatch.setattr(Round, "swap", noting)
    pool, _ = scenes("on")
    findings = examine(by_dot, pool, NAMES, range(3), plan=ExaminationPlan(guessed=True))
    found = screen(findings.effects[STICKER], range(3), Criteria(), generator=torch.Generator().manual_seed(0))
    assert {one.class_index for one in rejected(found, Criteria())} == {0, 1, 2}  # they do win
    assert "background" in asked
    assert STICKER not in asked


def test_examine_guessed__what_the_object_wears_is_no_sticker():
    pool, _ = scenes("on")
    findings = examine(by_dot, pool, NAMES, range(3), plan=ExaminationPlan(guessed=True))
    assert "reliant" not in {one.verdict for one in findings.verdicts}
    assert findings.stickers is not None


def test_examine_guessed__need_not_look_for_stickers():
    pool, _ = scenes("off", images=12)
    asked = {True: 0, False: 0}

    def counting(stickers: bool):
        def predict(images: Tensor) -> Tensor:
            asked[stickers] += len(images)
            return 0 * by_dot(images)

        return predict

    for stickers in asked:
        plan = ExaminationPlan(guessed=True, stickers=stickers)
        findings = examine(counting(stickers), pool, NAMES, range(3), plan=plan)
        assert STICKER not in {one.cue for one in findings.verdicts}
    assert asked[True] - asked[False] == len(pool.labels) * (9 + 9 + 9 + 12)


def test_examine__of_annotated_images_looks_for_none():
    pool, _ = scenes("off", images=12)
    assert examine(by_dot, pool, NAMES, range(3)).stickers is None


def test_changed__is_the_image_of_the_row_with_the_donors_window():
    pool, _ = scenes("off", images=6)
    found = find_stickers(by_dot, pool, range(3))
    donor = int(found.effects.donors[0, 1])
    image, changed = found.changed(0, donor)
    (top, left, tall, wide), (down, across, _, _) = found.boxes[donor].tolist(), found.boxes[image].tolist()
    window = changed[:, down : down + tall, across : across + wide]
    assert torch.equal(window, pool.images[donor, :, top : top + tall, left : left + wide])
    assert int((changed != pool.images[image]).any(dim=0).sum()) <= tall * wide
    after = by_dot(changed[None]).softmax(dim=1)[0, int(pool.labels[donor])]
    assert found.effects.after[0, 1, 1].item() == pytest.approx(after.item(), abs=1e-5)


def test_showing__gives_windows_off_the_object_first():
    pool, _ = scenes("off")
    found = find_stickers(by_dot, pool, range(3))
    rows = found.showing(1, 5)
    assert (pool.labels[rows] == 1).all()
    assert len(rows) == 5
    off = {int(d): float(o) for d, o in zip(found.effects.donors[:, 1], found.effects.off, strict=True)}
    assert all(off[int(row)] == 1 for row in rows)
    assert len(no_stickers(pool).showing(1, 5)) == 0


def test_placement__counts_donors_once_over_processes():
    pool, _ = scenes("off")
    effects = find_stickers(by_dot, pool, range(3)).effects
    one = placement(effects, 0)
    both = placement(concatenate([effects, effects]), 0)
    assert (both.off, both.images) == (2 * one.off, 2 * one.images)
    assert both.p_value < one.p_value


@pytest.mark.parametrize(("off", "images", "said"), [(4, 12, True), (3, 3, False), (4, 40, False), (6, 40, True)])
def test_placement__must_be_more_than_mistakes_of_guesses(off, images, said):
    donors = torch.arange(images)
    classes = torch.tensor([[1, 0, -1]]).expand(images, 3)
    after = torch.zeros(images, 3, 3)
    after[:, 1, 1] = 0.9
    effects = Effects(
        "windows",
        classes[:, 0],
        classes,
        torch.stack([donors, donors, donors], dim=1),
        after[:, 0],
        after,
        STICKER,
        off=(donors < off).float(),
    )
    found = placement(effects, 0)
    assert (found.off, found.images) == (off, images)
    assert found.convinces(Criteria()) is said
    assert placement(replace(effects, after=0.2 * after), 0).images == 0  # it does not work there
