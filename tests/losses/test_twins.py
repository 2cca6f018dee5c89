"""Counterfactual twins, pixel by pixel."""

import torch

from camtrain.losses import can_have_twin, choose_donors, make_twins


def scene(count=4, size=8):
    """Image i is i + 1 outside and 10 (i + 1) on the object, a 4x4 square."""
    masks = torch.zeros(count, size, size)
    masks[:, 2:6, 2:6] = 1
    shade = torch.arange(1.0, count + 1).view(-1, 1, 1, 1)
    return (shade + 9 * shade * masks.unsqueeze(1)).expand(-1, 3, -1, -1).clone(), masks


def test_make_twins__keep_the_object_and_take_a_clean_background():
    images, masks = scene(2)
    twins, index = make_twins(images, masks, feather=0)
    assert index.tolist() == [0, 1]
    inside = masks[0].bool().expand(3, -1, -1)
    assert torch.equal(twins[0][inside], images[0][inside])
    assert torch.equal(twins[0][~inside], images[1][~inside])


def test_make_twins__remove_the_donors_object():
    images, masks = scene(2)
    masks[0] = 0
    masks[0, 0, 0] = 1  # a small object: image 1's object would show around it
    twins, _ = make_twins(images, masks, feather=0)
    torch.testing.assert_close(twins[0, :, 1:, 1:], torch.full((3, 7, 7), 2.0))


def test_make_twins__are_made_for_annotated_images_only():
    images, masks = scene(5)
    masks[1], masks[2], masks[3] = -1, 0, 1
    twins, index = make_twins(images, masks)
    assert index.tolist() == [0, 4]
    assert twins.shape == (2, 3, 8, 8)


def test_make_twins__of_a_single_image_or_none_annotated_are_none():
    images, masks = scene(1)
    twins, index = make_twins(images, masks)
    assert twins.shape == (0, 3, 8, 8)
    assert index.shape == (0,)
    images, masks = scene(3)
    assert len(make_twins(images, -torch.ones_like(masks))[0]) == 0


def test_make_twins__are_at_most_the_limit():
    images, masks = scene(6)
    _, index = make_twins(images, masks, limit=2)
    assert len(index) == 2
    assert index.tolist() == sorted(set(index.tolist()))


def test_make_twins__with_a_generator_leave_the_global_one_alone():
    images, masks = scene(6)
    before = torch.get_rng_state()
    first = make_twins(images, masks, limit=3, generator=torch.Generator().manual_seed(3))
    assert torch.equal(torch.get_rng_state(), before)
    again = make_twins(images, masks, limit=3, generator=torch.Generator().manual_seed(3))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_choose_donors__never_chooses_itself_and_prefers_another_label():
    labels = torch.tensor([0, 0, 0, 1, 1])
    _, masks = scene(5)
    for seed in range(20):
        donors = choose_donors(masks, labels, generator=torch.Generator().manual_seed(seed))
        assert (donors != torch.arange(5)).all()
        assert (labels[donors] != labels).all()


def test_choose_donors__of_one_class_still_finds_another_image():
    _, masks = scene(3)
    donors = choose_donors(masks, torch.zeros(3, dtype=torch.long))
    assert (donors != torch.arange(3)).all()


def test_choose_donors__prefers_annotated_donors_and_avoids_full_masks():
    _, masks = scene(4)
    masks[1], masks[2] = -1, 1
    for seed in range(20):
        donors = choose_donors(masks, generator=torch.Generator().manual_seed(seed))
        assert donors.tolist() == [3, donors[1].item(), donors[2].item(), 0]
        assert {donors[1].item(), donors[2].item()} <= {0, 3}


def test_can_have_twin__takes_soft_masks():
    assert can_have_twin(torch.full((1, 2, 2), 0.5)).item()
