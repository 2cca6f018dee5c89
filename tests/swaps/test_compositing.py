"""Compositing against hand-worked pixels."""

import pytest
import torch

from camtrain.swaps.compositing import composite, dilate, feathered, fill_objects, fill_with_texture


def box(size=8, top=2, bottom=5):
    mask = torch.zeros(1, size, size)
    mask[:, top:bottom, top:bottom] = 1
    return mask


def test_composite__takes_object_and_background_to_the_bit():
    images, backgrounds, mask = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8), box()
    mixed = composite(images, mask, backgrounds)
    inside = mask.bool().unsqueeze(1).expand_as(images)
    assert torch.equal(mixed[inside], images[inside])
    assert torch.equal(mixed[~inside], backgrounds[~inside])


def test_composite__leaves_an_unannotated_image_as_it_is():
    images = torch.rand(2, 3, 8, 8)
    masks = torch.cat([box(), -torch.ones(1, 8, 8)])
    mixed = composite(images, masks, torch.zeros(2, 3, 8, 8), feather=1)
    assert torch.equal(mixed[1], images[1])
    assert not torch.equal(mixed[0], images[0])


def test_composite__of_an_empty_mask_is_the_background():
    backgrounds = torch.rand(1, 3, 4, 4)
    assert torch.equal(composite(torch.rand(1, 3, 4, 4), torch.zeros(1, 4, 4), backgrounds), backgrounds)


def test_composite__feathers_around_the_object_with_its_own_colors():
    image = torch.tensor([[[[7.0, 7, 7, 3, 1, 1]]]])
    mask = torch.tensor([[[0.0, 0, 0, 1, 1, 1]]])
    mixed = composite(image, mask, torch.zeros(1, 1, 1, 6), feather=1)
    torch.testing.assert_close(mixed.flatten(), torch.tensor([0.0, 0, 3 / 3, 3, 1, 1]))


def test_composite__keeps_thin_objects_in_full_and_nothing_of_what_lay_around_them():
    images, masks = torch.rand(2, 3, 16, 16), torch.zeros(2, 16, 16)
    masks[:, 3:13, 7] = 1
    images[1] = torch.where(masks[1] == 1, images[0], images[1])  # the same object before another background
    mixed = composite(images, masks, torch.rand(1, 3, 16, 16).expand(2, -1, -1, -1), feather=2)
    assert torch.equal(mixed[:, :, 3:13, 7], images[:, :, 3:13, 7])
    torch.testing.assert_close(mixed[0], mixed[1])


def test_composite__keeps_the_images_dtype():
    images = torch.rand(1, 3, 8, 8, dtype=torch.bfloat16)
    assert composite(images, box(), images, feather=2).dtype == torch.bfloat16


def test_fill_objects__of_a_flat_surrounding_is_flat():
    images = torch.full((1, 3, 8, 8), 0.25) + box().unsqueeze(1)
    torch.testing.assert_close(fill_objects(images, box()), torch.full((1, 3, 8, 8), 0.25))


def test_fill_objects__keeps_known_pixels_to_the_bit_and_stays_within_their_range():
    images, mask = torch.rand(2, 3, 13, 9), torch.zeros(2, 13, 9)
    mask[:, 3:10, 2:7] = 1
    filled = fill_objects(images, mask)
    known = (mask == 0).unsqueeze(1).expand_as(images)
    assert torch.equal(filled[known], images[known])
    assert (filled <= images.amax() + 1e-6).all()
    assert (filled >= images.amin() - 1e-6).all()


def test_fill_objects__does_not_depend_on_the_object():
    images, mask = torch.rand(1, 3, 8, 8), box()
    torch.testing.assert_close(fill_objects(images + 7 * mask.unsqueeze(1), mask), fill_objects(images, mask))


def test_fill_objects__of_a_whole_mask_is_the_mean_color():
    images = torch.rand(1, 3, 5, 7)
    filled = fill_objects(images, torch.ones(1, 5, 7))
    torch.testing.assert_close(filled, images.mean((2, 3), keepdim=True).expand_as(images))


def test_fill_objects__leaves_unannotated_and_empty_images_as_they_are():
    images = torch.rand(2, 3, 8, 8)
    masks = torch.stack([-torch.ones(8, 8), torch.zeros(8, 8)])
    assert torch.equal(fill_objects(images, masks), images)


def test_dilate__grows_a_box_on_every_side():
    assert torch.equal(dilate(box(8, 3, 5), 2), box(8, 1, 7))


def test_dilate__leaves_unannotated_masks_unannotated():
    assert torch.equal(dilate(-torch.ones(1, 4, 4), 1), -torch.ones(1, 4, 4))


def test_feathered__keeps_the_area_of_a_box_away_from_the_border():
    torch.testing.assert_close(feathered(box(12, 4, 8), 2).sum(), torch.tensor(16.0))


def test_feathered__leaves_unannotated_masks_unannotated():
    assert torch.equal(feathered(-torch.ones(1, 4, 4), 1), -torch.ones(1, 4, 4))


def grainy(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 0.5 + 0.1 * torch.randn(2, 3, 40, 40, generator=generator)


def box_of(top, left, size=16, side=40):
    mask = torch.zeros(2, side, side)
    mask[:, top : top + size, left : left + size] = 1
    return mask


@pytest.mark.parametrize(("top", "left"), [(12, 12), (0, 0), (24, 3)])
def test_fill_with_texture__gives_a_hole_the_grain_of_its_surroundings(top, left):
    images, mask = grainy(), box_of(top, left)
    inside = (slice(None), slice(None), slice(top + 2, top + 14), slice(left + 2, left + 14))
    assert fill_objects(images, mask)[inside].std() < 0.03
    filled = fill_with_texture(images, mask)
    assert filled[inside].std() == pytest.approx(0.1, abs=0.015)
    assert torch.equal(filled[:, :, mask[0] == 0], images[:, :, mask[0] == 0])


def test_fill_with_texture__does_not_depend_on_the_object():
    images, mask = grainy(), box_of(10, 14)
    painted = torch.where(mask.unsqueeze(1) > 0, 9.0, images)
    torch.testing.assert_close(fill_with_texture(painted, mask), fill_with_texture(images, mask))


def test_fill_with_texture__of_what_has_no_grain_or_no_background_is_the_smooth_fill():
    flat = torch.full((2, 3, 40, 40), 0.25)
    torch.testing.assert_close(fill_with_texture(flat, box_of(12, 12)), flat)
    whole = torch.ones(2, 40, 40)
    torch.testing.assert_close(fill_with_texture(grainy(), whole), fill_objects(grainy(), whole))
    unannotated = -whole
    assert torch.equal(fill_with_texture(grainy(), unannotated), grainy())
