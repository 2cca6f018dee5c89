"""Counterfactual twins, pixel by pixel."""

import pytest
import torch

from camtrain.errors import BatchError, ConfigurationError, MaskError
from camtrain.losses import (
    can_have_twin,
    choose_donors,
    deal_backgrounds,
    make_twins,
    move_objects,
    same_class_share,
)


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


@pytest.mark.parametrize("feather", [1, 2])
def test_make_twins__keep_nothing_of_what_lay_around_the_object(feather):
    images, masks = scene(2)
    backgrounds = images.clone()
    backgrounds[0] = torch.where(masks[0] > 0, images[0], 77.0)  # only image 0's own background differs
    twins, others = (make_twins(of, masks, feather=feather, limit=None)[0][0] for of in (images, backgrounds))
    assert torch.equal(twins, others)


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


@pytest.mark.parametrize("infill", ["inpaint", "noise", "shuffle"])
def test_infills__keep_the_object_and_need_no_donor(infill):
    images, masks = scene(1)
    images = images + torch.rand(1, 3, 8, 8)
    twins, index = make_twins(images, masks, infill=infill, feather=0)
    inside = masks.bool().unsqueeze(1).expand_as(images)
    assert index.tolist() == [0]
    assert torch.equal(twins[inside], images[inside])
    assert not torch.equal(twins[~inside], images[~inside])


@pytest.mark.parametrize("how", [{}, {"feather": 0, "grow": 0}])
def test_infills__inpaint_continues_the_object_and_nothing_of_what_lay_around_it(how):
    images, masks = scene(1)
    twins, _ = make_twins(images, masks, infill="inpaint", **how)
    torch.testing.assert_close(twins, torch.full_like(twins, 10.0))


def test_infills__noise_has_the_statistics_of_the_background():
    masks = torch.zeros(1, 64, 64)
    masks[:, :8, :8] = 1
    images = torch.where(masks.bool().unsqueeze(1), 50.0, 3 + 2 * torch.randn(1, 3, 64, 64))
    twins, _ = make_twins(images, masks, infill="noise", feather=0, grow=0)
    outside = twins[..., 8:, 8:]
    assert outside.mean().item() == pytest.approx(3, abs=0.15)
    assert outside.std().item() == pytest.approx(2, abs=0.15)


def test_infills__shuffle_moves_whole_patches():
    masks = torch.zeros(1, 16, 16)
    masks[:, 0, 0] = 1
    images = torch.arange(64.0).view(1, 1, 8, 8).repeat_interleave(2, 2).repeat_interleave(2, 3)
    twins, _ = make_twins(images, masks, infill="shuffle", feather=0, grow=0)
    corners = twins[..., ::2, ::2].flatten()[1:]
    assert torch.equal(corners, twins[..., 1::2, 1::2].flatten()[1:])
    assert not torch.equal(corners, images[..., ::2, ::2].flatten()[1:])


def test_infills__that_are_not_known_are_refused():
    with pytest.raises(ConfigurationError, match="swap, inpaint, noise, shuffle; got 'blur'"):
        make_twins(*scene(2), infill="blur")


@pytest.mark.parametrize("make", [make_twins, deal_backgrounds])
def test_twins__read_masks_of_any_type_and_refuse_what_cannot_be_meant(make):
    images, masks = scene(3)
    expected = make(images, masks, generator=seeded(0))[0]
    for others in (masks.bool(), masks.byte(), masks.half(), masks.unsqueeze(1)):
        torch.testing.assert_close(make(images, others, generator=seeded(0))[0], expected)
    with pytest.raises(MaskError, match=r"goes from 0 to 255. Divide 8-bit masks by 255"):
        make(images, 255 * masks)
    with pytest.raises(MaskError, match=r"Masks \(3, 4, 8\) are not of the size of the images \(3, 3, 8, 8\)"):
        make(images, masks[:, :4])
    with pytest.raises(BatchError, match=r"floating point; got torch\.uint8"):
        make(images.byte(), masks)


@pytest.mark.parametrize("make", [make_twins, deal_backgrounds])
@pytest.mark.parametrize(("argument", "value"), [("jitter", -0.1), ("jitter", 1.1), ("feather", -1), ("grow", -1)])
def test_blends__that_cannot_be_meant_are_refused(make, argument, value):
    with pytest.raises(ConfigurationError, match=f"{argument} .*; got {value}"):
        make(*scene(2), **{argument: value})


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_deal_backgrounds__refuses_a_share_that_is_none(share):
    with pytest.raises(ConfigurationError, match=r"share is a part of the twins in \[0, 1\]"):
        deal_backgrounds(*scene(2), share=share)


def test_fill_donors__off_takes_the_donors_own_pixels():
    images, masks = scene(2)
    masks[0] = 1
    masks[0, 3:5, 3:5] = 0  # what may not matter lies where the donor's object is
    twins, index = make_twins(images, masks, feather=0, fill_donors=False)
    assert index.tolist() == [0, 1]
    assert torch.equal(twins[0, :, 3:5, 3:5], images[1, :, 3:5, 3:5])


def test_move_objects__keep_them_whole_and_in_the_frame():
    images, masks = scene(32, size=24)
    moved, shapes = move_objects(images, masks, 0.5, generator=torch.Generator().manual_seed(0))
    area = shapes.flatten(1).sum(dim=1) / 16
    assert area.amin() > 1 / 1.5**2 * 0.9
    assert area.amax() < 1.5**2 * 1.1
    assert area.std() > 0.1
    assert (shapes.argmax(dim=1) != masks.argmax(dim=1)).any()
    shade = torch.arange(1.0, 33).view(-1, 1, 1, 1)
    on = (shapes > 0.9999).unsqueeze(1).expand_as(moved)
    torch.testing.assert_close(moved[on], (10 * shade).expand_as(moved)[on], rtol=1e-3, atol=0)


def test_move_objects__of_a_jitter_of_zero_are_what_was_given():
    images, masks = scene(2)
    moved, shapes = move_objects(images, masks, 0.0)
    assert moved is images
    assert shapes is masks


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_deal_backgrounds__shuffles_them_where_every_class_differs():
    images, masks = scene(5)
    dealt, moved, index = deal_backgrounds(images, masks, torch.arange(5), generator=seeded(3), feather=0)
    assert torch.equal(moved, masks)
    assert torch.equal(dealt[..., 2:6, 2:6], images[..., 2:6, 2:6])
    behind = dealt[:, 0, 0, 0]
    assert behind.sort().values.tolist() == [1, 2, 3, 4, 5]  # each is used once
    assert index.tolist() == (behind != torch.arange(1.0, 6)).nonzero().flatten().tolist() != []


def test_deal_backgrounds__leave_nothing_to_be_learnt_from_a_background():
    """Three classes of unequal size, each before a background of its own."""
    labels = torch.tensor([0] * 24 + [1] * 16 + [2] * 8)
    images, masks = scene(48)
    images[..., 0, 0] = labels.view(-1, 1).float()
    table, generator = torch.zeros(3, 3), seeded(0)
    for _ in range(40):
        dealt, _, index = deal_backgrounds(images, masks, labels, generator=generator, feather=0)
        behind = dealt[:, 0, 0, 0].long()
        table.index_put_((labels, behind), torch.ones(48), accumulate=True)
        assert set(index.tolist()) == set((labels != behind).nonzero().flatten().tolist())
    shares = table / table.sum(dim=1, keepdim=True)
    expected = torch.tensor([24, 16, 8]) / 48
    torch.testing.assert_close(shares, expected.expand(3, 3), atol=0.05, rtol=0)
    assert table.diag().sum() / table.sum() == pytest.approx(same_class_share(labels).item(), abs=0.02)


def test_deal_backgrounds__keep_to_the_bit_whoever_gets_none():
    images, masks = scene(6)
    masks[1], masks[2], masks[3] = -1, 0, 1
    dealt, moved, index = deal_backgrounds(images, masks, torch.arange(6), generator=seeded(1), jitter=0.5)
    assert 0 < len(index) < 4
    others = torch.tensor([i for i in range(6) if i not in index.tolist()])
    assert {1, 2, 3} <= set(others.tolist())
    assert torch.equal(dealt[others], images[others])
    assert torch.equal(moved[others], masks[others])
    assert not torch.equal(moved[index], masks[index])  # it moved with its object


def test_deal_backgrounds__remove_the_donors_object_unless_told_not_to():
    images, masks = scene(2)
    masks[0] = 0
    masks[0, 0, 0] = 1  # image 1's object would show around it
    options = {"feather": 0, "generator": seeded(0)}
    clean, _, index = deal_backgrounds(images, masks, torch.arange(2), **options)
    while 0 not in index.tolist():
        clean, _, index = deal_backgrounds(images, masks, torch.arange(2), **options)
    assert clean[0, 0, 4, 4] == 2
    kept, _, index = deal_backgrounds(images, masks, torch.arange(2), fill_donors=False, **options)
    while 0 not in index.tolist():
        kept, _, index = deal_backgrounds(images, masks, torch.arange(2), fill_donors=False, **options)
    assert kept[0, 0, 4, 4] == 20


def test_deal_backgrounds__exchange_what_either_image_leaves_out_where_masks_mark_all_that_may_matter():
    images, masks = torch.arange(1.0, 5).view(4, 1, 1, 1).expand(4, 1, 6, 6).clone(), torch.ones(4, 6, 6)
    masks[0, 0, 0] = masks[1, 5, 5] = 0  # two with a mark, in different corners, and two without
    images[0, 0, 0, 0], images[1, 0, 5, 5] = 10, 20
    options = {"feather": 0, "grow": 0, "fill_donors": False}
    seen = set()
    for seed in range(40):
        dealt, moved, index = deal_backgrounds(images, masks, torch.arange(4), generator=seeded(seed), **options)
        changed = ((dealt != images).flatten(1).any(dim=1)).nonzero().flatten()
        assert index.tolist() == changed.tolist()  # two without a mark have nothing to exchange
        seen |= {(i, dealt[i, 0, 0, 0].item(), dealt[i, 0, 5, 5].item()) for i in index.tolist()}
        assert torch.equal(dealt[:, 0, 1:5, 1:5], images[:, 0, 1:5, 1:5])
        assert (moved.flatten(1).amin(dim=1)[index] == 0).all()
    assert {(0, 2.0, 20.0), (0, 3.0, 1.0), (1, 10.0, 1.0), (2, 10.0, 3.0), (3, 4.0, 20.0)} <= seen


@pytest.mark.parametrize("fill_donors", [True, False])
def test_make_twins__of_a_donor_that_is_all_object(fill_donors):
    images, masks = scene(2)
    masks[1] = 1
    twins, index = make_twins(images, masks, fill_donors=fill_donors, feather=0)
    if fill_donors:
        assert len(twins) == 0  # it has no background to lend
    else:
        assert index.tolist() == [0, 1]  # nothing of it is left out: it lends all, and takes what the other leaves out
        assert twins[1, 0, 0, 0] == images[0, 0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_move_objects__in_half_precision_as_in_full(dtype):
    generator = torch.Generator().manual_seed(0)
    images, masks = torch.rand(4, 1, 224, 224, generator=generator), torch.zeros(4, 224, 224)
    masks[:, 60:130, 80:170] = 1
    moved, shapes = move_objects(images, masks, 0.5, generator=seeded(1))
    half, half_shapes = move_objects(images.to(dtype), masks.to(dtype), 0.5, generator=seeded(1))
    assert half.dtype == half_shapes.dtype == dtype
    torch.testing.assert_close(half_shapes.float(), shapes, atol=0.01, rtol=0)
    torch.testing.assert_close(half.float(), moved, atol=0.01, rtol=0)


def test_deal_backgrounds__of_one_annotated_image_or_none_change_nothing():
    images, masks = scene(3)
    masks[1:] = -1
    for given in (masks, -torch.ones_like(masks)):
        dealt, _, index = deal_backgrounds(images, given, torch.arange(3))
        assert torch.equal(dealt, images)
        assert index.shape == (0,)
    empty, _, index = deal_backgrounds(images[:0], masks[:0], torch.arange(0))
    assert empty.shape == (0, 3, 8, 8)
    assert index.shape == (0,)


def test_deal_backgrounds__tell_multi_hot_labels_apart_and_do_without_any():
    images, masks = scene(4)
    alike = torch.tensor([[1, 1], [1, 1], [1, 1], [1, 0]])
    _, _, index = deal_backgrounds(images, masks, alike, generator=seeded(2))
    assert len(index) in (0, 2)  # only the last differs from the others, and changes places with one of them
    _, _, index = deal_backgrounds(images, masks, generator=seeded(2))
    assert len(index) >= 2


def test_deal_backgrounds__keep_the_images_type_under_autocast():
    images, masks = scene(6)
    with torch.autocast("cpu", torch.bfloat16):
        dealt, _, index = deal_backgrounds(images.bfloat16(), masks, torch.arange(6), jitter=0.2, generator=seeded(1))
    assert len(index) > 0
    assert dealt.dtype == torch.bfloat16


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0, 0), (0.5, 20, 44), (1.0, 60, 64)])
def test_deal_backgrounds__exchange_a_share(share, low, high):
    images, masks = scene(64)
    _, _, index = deal_backgrounds(images, masks, torch.arange(64), share=share, generator=seeded(0))
    assert low <= len(index) <= high


def test_deal_backgrounds__of_another_infill_need_no_donor_and_unknown_ones_are_refused():
    images, masks = scene(4)
    images[:, :, 0, 0] = 50.0
    dealt, _, index = deal_backgrounds(images, masks, torch.arange(4), infill="inpaint", generator=seeded(0))
    assert (dealt[index][:, :, 0, 0] > 8).all()  # the object's own color, continued
    with pytest.raises(ConfigurationError, match="infill is one of"):
        deal_backgrounds(images, masks, infill="blur")


@pytest.mark.parametrize(
    ("labels", "share"),
    [(torch.tensor([0, 0, 0, 1]), 10 / 16), (torch.tensor([[0, 1], [0, 1], [1, 1], [1, 0]]), 6 / 16)],
)
def test_same_class_share__is_that_of_pairs(labels, share):
    assert same_class_share(labels).item() == pytest.approx(share)


def test_same_class_share__of_an_empty_batch_is_one():
    assert same_class_share(torch.zeros(0, dtype=torch.long)).item() == 1
