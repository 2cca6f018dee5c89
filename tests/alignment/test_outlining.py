"""Masks for batches that have none: whose they are, how they fit, and what a detector's verdicts make of them."""

from types import SimpleNamespace

import pytest
import torch

from camtrain.alignment import MaskMaker
from camtrain.alignment.outlining import Fit, forbidden, grow
from camtrain.data.batches import Batch
from camtrain.errors import ConfigurationError

CORNER, EDGE = (0.75, 0.75, 0.25, 0.25), (0.0, 0.0, 1.0, 0.125)


def square(count=1, side=32, low=8, high=20):
    masks = torch.zeros(count, side, side)
    masks[:, low:high, low:high] = 1
    return masks


def verdict(answer, box=None):
    return SimpleNamespace(verdict=answer, box=box, class_name="boat", cue="background")


def test_complete__leaves_given_masks_and_leaves_out_what_cannot_be_told():
    made = square(4)
    made[1], made[2], made[3] = -1, 1, 0  # nothing told, all of the frame, nothing at all
    maker = MaskMaker(lambda images: made[images[:, 0, 0, 0].long()])
    masks = torch.full((5, 32, 32), -1.0)
    masks[4] = square(low=2)[0]
    images = torch.tensor([0.0, 1.0, 2.0, 3.0, 0.0]).view(-1, 1, 1, 1).expand(5, 1, 32, 32)
    done = maker.complete(Batch(images, torch.arange(5), masks)).masks
    assert torch.equal(done[[0, 4]], torch.stack([made[0], masks[4]]))
    assert (done[1:4] == -1).all()
    assert (maker.given, maker.made, maker.left_out) == (1, 1, 3)
    sheet = maker.end_epoch()
    assert sheet.labels == (0, 1, 2, 3)
    assert torch.equal(sheet.masks, done[:4])
    assert "1 masks given and 1 made" in sheet.remark


def test_fit__grows_made_masks_as_the_annotated_ones_say():
    truth, narrow = square(12, 64, 16, 40), square(12, 64, 19, 37)
    maker = MaskMaker(lambda images: narrow[: len(images)])
    given = Batch(torch.rand(12, 1, 64, 64), masks=truth)
    assert torch.equal(maker.complete(given).masks, truth)
    done = maker.complete(Batch(torch.rand(2, 1, 64, 64))).masks
    assert torch.equal(done, truth[:2])
    assert "overlap by 100%" in maker.fit.remark()


def test_fit__does_not_use_made_masks_that_lie_elsewhere():
    maker = MaskMaker(lambda images: square(len(images), 64, 44, 60))
    maker.complete(Batch(torch.rand(12, 1, 64, 64), masks=square(12, 64, 4, 20)))
    assert (maker.complete(Batch(torch.rand(2, 1, 64, 64))).masks == -1).all()
    assert "they are not used" in maker.fit.remark()


def test_fit__says_nothing_of_few_images():
    fit = Fit()
    fit.see(square(7), square(7, low=14))
    assert (fit.is_known, fit.grown, fit.remark()) == (False, 0, "")


def test_grow__shrinks_by_as_much_as_it_grows():
    assert torch.equal(grow(grow(square(), 3), -3), square())


def test_forbidden__is_off_every_place_and_a_little_around_it():
    masks = forbidden([CORNER, EDGE], torch.zeros(1, 32, 32))
    assert masks[0, 6:22, 6:22].min() == 1
    assert masks[0, 22:, 22:].max() == masks[0, :6].max() == 0
    assert masks[0, 21, 31] == masks[0, 31, 21] == 1


def test_look_at__takes_the_places_of_what_is_reliant_and_guesses_where_one_has_none():
    maker = MaskMaker("auto")
    maker.look_at([verdict("reliant", CORNER), verdict("no evidence")])
    assert (maker.way, maker.places) == ("found", (CORNER,))
    maker = MaskMaker("auto")
    maker.look_at([verdict("reliant", CORNER), verdict("reliant")])
    assert maker.way == "guess"


def test_look_at__changes_the_way_only_where_two_rounds_say_that_it_has_not_helped():
    maker = MaskMaker("auto")
    maker.look_at([verdict("reliant", CORNER)])
    maker.complete(Batch(torch.rand(1, 3, 32, 32)))
    rounds = [[verdict(answer, CORNER)] for answer in ("reliant", "no evidence", "reliant", "reliant", "reliant")]
    notes = [maker.look_at(rows) for rows in rounds]
    assert [bool(note) for note in notes] == [False, False, False, True, False]
    assert maker.way == "guess"
    assert maker.look_at(rounds[-1]) == ""  # a round that was looked at already


def test_look_at__of_suspects_only_where_that_is_asked():
    rows = [verdict("suspect", CORNER)]
    makers = [MaskMaker(way) for way in ("found", "auto")]
    for maker in makers:
        maker.look_at(rows)
    assert [maker.places for maker in makers] == [(CORNER,), ()]


def test_look_at__says_where_what_was_found_has_no_place():
    assert "has no place" in MaskMaker("found").look_at([verdict("reliant")])


def test_state__brings_the_places_back():
    maker, other = MaskMaker("auto"), MaskMaker("auto")
    maker.look_at([verdict("reliant", CORNER)])
    other.restore(maker.state())
    assert (other.places, other.way) == ((CORNER,), "found")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("guesses",), "got 'guesses'"), (("auto", "forbidden"), "leave mask_kind")],
)
def test_maker__refuses_what_cannot_be_meant(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        MaskMaker(arguments[0], mask_kind=arguments[1] if len(arguments) > 1 else "object")


def test_complete__refuses_clips():
    with pytest.raises(ConfigurationError, match="Give masks of your own"):
        MaskMaker("guess").complete(Batch(torch.rand(1, 3, 2, 8, 8)))
