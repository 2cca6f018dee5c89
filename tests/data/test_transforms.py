import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from camtrain.data.transforms import TwinBackgrounds, eval_transform, train_transform, transform_pair
from camtrain.errors import BatchError, ConfigurationError, MaskError
from camtrain.losses import deal_backgrounds

MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


def marked(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A white square on black, large enough to survive any crop in part, and its mask."""
    mask = torch.zeros(height, width)
    mask[height // 4 : -height // 4, : width // 2] = 1
    return (mask * 255).to(torch.uint8).expand(3, -1, -1).contiguous(), mask


def test_train_transform__moves_image_and_mask_together():
    torch.manual_seed(0)
    image, mask = marked(40, 60)
    for _ in range(20):
        moved_image, moved_mask = transform_pair(train_transform(24, MEAN, STD), image, mask)
        white = (moved_image[0] + 1) / 2
        assert set(moved_mask.unique().tolist()) <= {0.0, 1.0}
        assert (white - moved_mask).abs().mean() < 0.06


def test_train_transform__flips_half_of_the_time():
    torch.manual_seed(0)
    image, mask = marked(32, 32)
    left = [transform_pair(train_transform(8, MEAN, STD, (0.99, 1.0)), image, mask)[1][4, 0] for _ in range(40)]
    assert 8 <= sum(map(int, left)) <= 32


def test_eval_transform__keeps_everything_and_normalizes():
    image, mask = marked(16, 32)
    moved_image, moved_mask = transform_pair(eval_transform(16, MEAN, STD), image, mask)
    assert torch.equal(moved_mask, mask[:, ::2])
    assert moved_image.min() == -1
    assert moved_image.max() == 1


def test_transform_pair__an_unannotated_mask_stays_so_under_fill():
    turn = v2.Compose([v2.RandomRotation((45, 45)), v2.ToDtype({tv_tensors.Image: torch.float32, "others": None})])
    image, mask = marked(16, 16)
    assert (transform_pair(turn, image, torch.full_like(mask, -1))[1] == -1).all()
    assert (transform_pair(turn, image, mask)[1] == 0).any()


def test_transform_pair__returns_plain_tensors():
    image, mask = transform_pair(eval_transform(8), *marked(16, 16))
    assert type(image) is torch.Tensor
    assert type(mask) is torch.Tensor


def test_transform_pair__without_a_transform_is_float_in_unit_range():
    image, _ = transform_pair(None, *marked(8, 8))
    assert image.dtype == torch.float32
    assert image.max() == 1


def test_twin_backgrounds__takes_multi_hot_labels():
    images, masks = torch.rand(4, 3, 16, 16), torch.zeros(4, 16, 16)
    masks[:, 4:12, 4:12] = 1
    labels = torch.eye(4)
    changed, kept, _ = TwinBackgrounds(p=1.0)(images, labels, masks)
    assert kept.equal(labels)
    assert (changed != images)[..., 0, 0].any()


def objects() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    masks = torch.zeros(4, 16, 16)
    masks[:3, 4:12, 4:12] = 1
    masks[3] = -1
    return torch.rand(4, 3, 16, 16), torch.arange(4), masks


@pytest.mark.parametrize("p", [1.0, None])
@pytest.mark.parametrize("channel", [False, True])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.float16, torch.bfloat16, torch.float64])
def test_twin_backgrounds__take_masks_of_any_type_with_and_without_a_channel(p, dtype, channel):
    images, labels, masks = objects()
    torch.manual_seed(0)
    expected, _, moved = TwinBackgrounds(p)(images, labels, masks)
    given = masks.unsqueeze(1) if channel else masks
    torch.manual_seed(0)
    changed, kept, found = TwinBackgrounds(p)(images, labels, given.to(dtype))
    assert torch.equal(changed, expected.to(changed.dtype))
    assert torch.equal(kept, labels)
    assert (found.shape, found.is_floating_point()) == (given.shape, True)
    assert torch.equal(found.view(masks.shape).float(), moved)


@pytest.mark.parametrize("p", [1.0, None])
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_twin_backgrounds__take_masks_of_types_without_a_sign(p, dtype):
    images, labels, masks = objects()
    changed, _, found = TwinBackgrounds(p)(images[:3], labels[:3], masks[:3].to(dtype))
    assert torch.equal(found, masks[:3])
    assert torch.equal(changed[..., 6:10, 6:10], images[:3, :, 6:10, 6:10])


def test_twin_backgrounds__refuse_bytes_with_the_remedy():
    images, labels, masks = objects()
    with pytest.raises(MaskError, match=r"image 0 has 255\.0\. Divide 8-bit masks by 255"):
        TwinBackgrounds()(images, labels, 255 * masks.clamp(min=0).to(torch.uint8))
    with pytest.raises(BatchError, match=r"got torch\.uint8\. Put v2\.ToDtype\(torch\.float32, scale=True\)"):
        TwinBackgrounds()((images * 255).to(torch.uint8), labels, masks)
    with pytest.raises(MaskError, match=r"image 0 has -2\.0"):
        TwinBackgrounds()(images, labels, masks.clamp(min=0) - 2)


def test_twin_backgrounds__are_dealt_anew_without_a_probability():
    images, masks = torch.rand(6, 3, 16, 16), torch.zeros(6, 16, 16)
    masks[:, 4:12, 4:12] = 1
    torch.manual_seed(3)
    changed, _, moved = TwinBackgrounds(p=None)(images, torch.arange(6), masks)
    torch.manual_seed(3)
    expected, expected_masks, index = deal_backgrounds(images, masks, torch.arange(6))
    assert len(index) > 0
    assert torch.equal(changed, expected)
    assert torch.equal(moved, expected_masks)
    with pytest.raises(ConfigurationError, match="or None; got 2"):
        TwinBackgrounds(p=2.0)


def test_twin_backgrounds__refuses_a_blend_before_it_is_used():
    with pytest.raises(ConfigurationError, match=r"jitter is a fraction in \[0, 1\]; got 2.0"):
        TwinBackgrounds(jitter=2.0)


def test_transform_pair__does_not_mind_how_pixels_lie_in_memory():
    pixels = torch.randint(0, 256, (31, 47, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    interleaved, mask = pixels.permute(2, 0, 1), torch.ones(31, 47)
    for transform in (None, train_transform(16), eval_transform(64), v2.Identity()):
        torch.manual_seed(3)
        expected = transform_pair(transform, interleaved.contiguous(), mask)[0]
        torch.manual_seed(3)
        image = transform_pair(transform, interleaved, mask)[0]
        assert torch.equal(image, expected)
        assert image.is_contiguous()  # a batch of them would be channels last, where view(B, -1) is an error
