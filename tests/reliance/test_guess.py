from importlib import import_module

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from camtrain.errors import ConfigurationError, MaskError
from camtrain.reliance import (
    Criteria,
    ExaminationPlan,
    Guesser,
    Pool,
    decide,
    examine,
    guess_margins,
    margins,
    screen,
)
from camtrain.reliance.examine import Round
from camtrain.segmenters import guess_masks, overhang
from camtrain.segmenters.grabcut import _salient, barrier_distance
from camtrain.swaps.compositing import dilate

ROUND = import_module("camtrain.reliance.examine")  # the package's attribute of that name is the function


def drawn(count: int = 6, side: int = 40, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Bright rectangles on grounds that shade off smoothly, with noise."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 3, 3, generator=g)
    images = 0.1 + 0.4 * torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear", align_corners=True)
    masks = torch.zeros(count, side, side)
    for image, mask, (top, left) in zip(
        images, masks, torch.randint(6, 16, (count, 2), generator=g).tolist(), strict=True
    ):
        mask[top : top + 16, left : left + 14] = 1
        image[:, mask > 0] = torch.tensor([0.9, 0.8, 0.95])[:, None]
    return images + 0.02 * torch.randn(images.shape, generator=g), masks


def overlap(found: Tensor, masks: Tensor) -> Tensor:
    both, either = ((found > 0) & (masks > 0)).sum(dim=(1, 2)), ((found > 0) | (masks > 0)).sum(dim=(1, 2))
    return both / either


def test_guess_masks__finds_what_stands_out_from_the_border():
    images, masks = drawn()
    assert overlap(guess_masks(images), masks).min() > 0.8


def test_salient__a_small_bright_thing_does_not_hide_a_dim_object():
    distance = np.zeros((40, 40), np.float32)
    distance[10:24, 10:24] = 0.3
    distance[30:35, 30:35] = 1.2
    assert np.array_equal(_salient(distance) > 0, distance > 0)


@pytest.mark.parametrize("channels", [1, 4])
def test_guess_masks__takes_any_range_and_number_of_channels(channels: int):
    images, masks = drawn()
    other = torch.cat([images, images], dim=1)[:, :channels] * 7 - 3
    assert overlap(guess_masks(other), masks).min() > 0.7


def test_guess_masks__a_plain_frame_is_not_taken_for_the_border_of_an_object():
    images, masks = drawn()
    images[:, :, :2] = images[:, :, -2:] = images[..., :2] = images[..., -2:] = 1.0
    found = guess_masks(images)
    assert overlap(found, masks).min() > 0.7
    assert found[:, :2].max() <= 0


def test_guess_masks__gives_up_where_nothing_stands_out():
    assert (guess_masks(torch.full((2, 3, 32, 32), 0.5)) == -1).all()
    assert guess_masks(torch.zeros(0, 3, 32, 32)).shape == (0, 32, 32)


def test_guess_masks__works_at_the_size_of_large_images_that_are_not_square():
    images, masks = drawn()
    wide = torch.nn.functional.interpolate(images, size=(150, 200), mode="bilinear")
    truth = torch.nn.functional.interpolate(masks[:, None], size=(150, 200))[:, 0]
    assert overlap(guess_masks(wide), truth).min() > 0.75


def test_guess_masks__repeats_and_leaves_the_random_states_of_opencv_and_torch():
    images, _ = drawn()
    torch.manual_seed(0)
    cv2.setRNGSeed(5)
    first = guess_masks(images)
    drawn_after = cv2.randu(np.zeros(4), 0, 1), torch.rand(2)
    torch.manual_seed(0)
    cv2.setRNGSeed(5)
    assert np.array_equal(drawn_after[0], cv2.randu(np.zeros(4), 0, 1))
    assert torch.equal(drawn_after[1], torch.rand(2))
    assert torch.equal(first, guess_masks(images))


def test_barrier_distance__is_small_where_colors_shade_off_and_large_behind_an_edge():
    ramp = torch.linspace(0, 1, 21).expand(1, 1, 21, 21).clone()
    assert barrier_distance(ramp).max() < 1e-6  # a column of one color leads to the border
    ramp[..., 8:13, 8:13] = 3.0
    assert barrier_distance(ramp)[0, 10, 10] >= 2.0


def pool_of(images: Tensor) -> Pool:
    return Pool(images, torch.zeros(len(images), dtype=torch.long), torch.full_like(images[:, 0], -1))


def test_guesser__asks_once_per_image_and_drops_what_cannot_be_told():
    asked: list[int] = []

    def segment(images: Tensor) -> Tensor:
        asked.append(len(images))
        masks = (images[:, 0] > 0.7).float()
        masks[images[:, 1, 0, 0] > 0] = -1
        return masks

    images, _ = drawn(4)
    images[:, 1, 0, 0] = torch.tensor([-1.0, 1.0, -1.0, -1.0])
    guesser = Guesser(segment)
    assert len(guesser(pool_of(images), batch_size=3).labels) == 3
    assert len(guesser(pool_of(images[:2]), batch_size=3).labels) == 1
    assert asked == [3, 1]
    guesser.forget()
    guesser(pool_of(images[:1]))
    guesser.forget()
    guesser(pool_of(images[1:2]))
    assert asked == [3, 1, 1]


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (torch.zeros(2, 1, 40, 40), r"here \(2, 40, 40\); got \(2, 1, 40, 40\)"),
        (torch.full((2, 40, 40), 255.0), "255"),
        (torch.full((2, 40, 40), torch.nan), "nan"),
        ("masks", "got str"),
    ],
)
def test_guesser__refuses_what_are_no_masks(masks, message: str):
    with pytest.raises(MaskError, match=message):
        Guesser(lambda images: masks).segment(torch.zeros(2, 3, 40, 40))


def test_guess_margins__grow():
    assert guess_margins(torch.zeros(0, 3, 224, 224)) == (4, 27)
    assert guess_margins(torch.zeros(0, 3, 16, 16)) == (1, 3)


def scenes(seed: int, cue: str = "none", classes: int = 4, each: int = 24) -> Pool:
    """The class is told by the object's color, and perhaps by that of a corner."""
    images, masks = drawn(classes * each, seed=seed)
    labels = torch.arange(classes).repeat_interleave(each)
    colors = torch.eye(4)[:, :3] + 0.2
    images = torch.where(masks[:, None] > 0, colors[labels][..., None, None], images)
    if cue == "corner":
        images[:, :, :5, :5] = colors[labels][..., None, None]
    return Pool(images, labels, masks)


def verdicts(pool: Pool, predict, **kwargs) -> list[tuple[str, str]]:
    found = examine(predict, pool, list("abcd"), range(4), plan=ExaminationPlan(guessed=True), **kwargs)
    return [(one.verdict, one.cue) for one in found.verdicts]


def color_of(part: Tensor) -> Tensor:
    distance = (part.unsqueeze(1) - (torch.eye(4)[:, :3] + 0.2)).square().sum(dim=2)
    return -8 * distance


def by_corner(images: Tensor) -> Tensor:
    return color_of(images[:, :, 1:4, 1:4].mean(dim=(2, 3)))


def by_object(images: Tensor) -> Tensor:
    return color_of(images[:, :, 16:20, 16:20].mean(dim=(2, 3)))


def test_examine_guessed__finds_a_corner_far_from_the_object():
    assert verdicts(scenes(0, "corner"), by_corner) == [("reliant", "background")] * 4


def test_examine_guessed__never_clears_and_says_over_which_share_of_the_frame():
    found = examine(by_object, scenes(0), list("abcd"), range(4), plan=ExaminationPlan(guessed=True))
    assert {one.verdict for one in found.verdicts} == {"no evidence"}
    assert all(
        "no evidence found, by these tests, over" in one.note and "% of the frame" in one.note for one in found.verdicts
    )


def test_examine_guessed__an_object_that_was_cut_off_is_suspect_at_most():
    pool = scenes(0)
    cut = pool.masks.clone()
    cut[:, 18:] = 0  # the guess ends above the part that is read

    def by_lower_rim(images: Tensor) -> Tensor:
        return color_of(images[:, :, 19:21, 16:20].mean(dim=(2, 3)))

    found = examine(
        by_lower_rim, Pool(pool.images, pool.labels, cut), list("abcd"), range(4), plan=ExaminationPlan(guessed=True)
    )
    assert "reliant" not in {one.verdict for one in found.verdicts}
    assert [one.verdict for one in found.verdicts].count("suspect") >= 3
    assert all("look at the pictures" in one.note for one in found.verdicts if one.verdict == "suspect")


def test_examine_guessed__what_shows_in_the_frame_alone_is_suspect():
    pool = scenes(0, "corner")
    large = torch.zeros_like(pool.masks)
    large[:, 1:, 1:] = 1  # everything may be object: nothing is exchanged far from it
    found = examine(
        by_corner, Pool(pool.images, pool.labels, large), list("abcd"), range(4), plan=ExaminationPlan(guessed=True)
    )
    assert {(one.verdict, one.cue) for one in found.verdicts} == {("suspect", "frame")}


def told(pool: Pool, masks: Tensor, predict) -> list:
    return list(examine(predict, Pool(pool.images, pool.labels, masks), list("abcd"), range(4)).verdicts)


def test_decide__what_stands_out_far_beyond_the_masks_ends_undecided_with_the_reason():
    pool = scenes(0, "corner")
    effects = examine(by_corner, pool, list("abcd"), range(4)).effects["background"]
    estimates = screen(effects, range(4), Criteria(), generator=torch.Generator().manual_seed(0))
    found = decide(effects, estimates, list("abcd"), overhangs={0: 0.6, 1: 0.3, 2: torch.nan})
    assert [one.verdict for one in found] == ["undecided", "reliant", "reliant", "reliant"]
    assert found[0].note.startswith("masks too small: 60 % of the rim")


def test_examine__exact_masks_and_boxes_let_a_corner_be_found():
    pool = scenes(0, "corner")
    assert {one.verdict for one in told(pool, pool.masks, by_corner)} == {"reliant"}
    assert {one.verdict for one in told(pool, dilate(pool.masks, 2), by_corner)} == {"reliant"}


def test_examine_guessed__takes_donors_far_off_their_guess_and_looks_again_with_as_much_kept(monkeypatch):
    asked, swap = [], Round.swap

    def noting(run, kind, **kwargs):
        asked.append((kind.cue, kind.margin, kind.lent_margin))
        return swap(run, kind, **kwargs)

    monkeypatch.setattr(Round, "swap", noting)
    pool = scenes(0, "corner")
    narrow, wide = guess_margins(pool.images)
    assert {verdict for verdict, _ in verdicts(pool, by_corner)} == {"reliant"}
    assert [call[1:] for call in asked if call[0] == "background"] == [(narrow, wide + 1), (wide, wide + 1)]
    assert {call[1:] for call in asked if call[0].startswith("background ")} >= {(narrow, wide + 1)}


def test_examine__names_the_classes_on_whose_backgrounds_a_class_loses_nothing():
    pool = scenes(0, "corner")
    cued = pool.labels >= 2
    pool.images[~cued, :, :5, :5] = scenes(0).images[~cued, :, :5, :5]

    def by_patch_or_else_object(images: Tensor) -> Tensor:
        colors = (torch.eye(4)[2:, :3] + 0.2).view(1, 2, 3, 1, 1)
        near = (images[:, None, :, 1:4, 1:4] - colors).abs().amax(dim=(2, 3, 4)).amin(dim=1) < 0.05
        return torch.where(near[:, None], by_corner(images), by_object(images))

    notes = [(one.verdict, one.note) for one in told(pool, pool.masks, by_patch_or_else_object)]
    assert [verdict for verdict, _ in notes] == ["reliant"] * 4
    assert "nothing lost on backgrounds of b:" in notes[0][1]
    assert "nothing lost on backgrounds of a:" in notes[1][1]
    assert not any("nothing lost" in note for _, note in notes[2:])


def test_examine__looks_beyond_the_margin_on_some_images_of_each_class(monkeypatch):
    asked = []

    def noting(images, masks, *, margin):
        asked.append((len(images), margin))
        return torch.zeros(len(images))

    monkeypatch.setattr(ROUND, "overhang", noting)
    pool = scenes(0, "corner")
    told(pool, pool.masks, by_corner)
    monkeypatch.setattr(ROUND, "_IN_ALL", 44)
    told(pool, pool.masks, by_corner)
    margin = margins(pool.images)[0]
    assert asked == [(min(100, len(pool.images)), margin), (44, margin)]


def test_overhang__is_nothing_for_exact_masks_and_much_for_eroded_ones():
    images, masks = drawn()
    assert overhang(images, masks).max() < 0.25
    assert overhang(images, 1 - dilate(1 - masks, 2)).min() > 0.55


def test_overhang__of_a_mask_on_something_else_is_not_known():
    images, masks = drawn()
    elsewhere = torch.zeros_like(masks)
    elsewhere[:, :4] = 1
    assert overhang(images, elsewhere).isnan().all()


def test_examine_guessed__costs_what_it_says():
    asked: list[int] = []

    def predict(images: Tensor) -> Tensor:
        asked.append(len(images))
        return by_object(images)

    pool = scenes(0)
    examine(predict, pool, list("abcd"), range(4), plan=ExaminationPlan(guessed=True, arms=4, stickers=False))
    assert sum(asked) == len(pool.labels) * (1 + 4 + 3 * 4 + 2 * 2)


def test_guesser__guesses_by_default_and_refuses_ways_that_need_a_finding():
    assert Guesser("guess").outlines.segmenter is guess_masks
    with pytest.raises(ConfigurationError, match="got 'found'"):
        Guesser("found")
