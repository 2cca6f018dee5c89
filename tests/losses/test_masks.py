"""Masks as the losses take them: any type of number, and nothing that cannot be meant."""

import re

import pytest
import torch

from camtrain.errors import MaskError
from camtrain.losses import AlignmentLoss, HINTLoss, InputGradientLoss, SquaredHINTLoss

MASKS = torch.tensor([[[1, 0, 0, 1], [1, 1, 0, 0]], [[0, 0, 1, 1], [0, 1, 1, 1]]])
NAN = float("nan")


def of_heatmaps(loss):
    torch.manual_seed(0)
    heatmaps = torch.rand(2, 1, 2)
    return lambda masks: loss(heatmaps, masks)


def of_input_gradients(masks):
    torch.manual_seed(0)
    images = torch.rand(2, 3, 2, 4, requires_grad=True)
    return InputGradientLoss()(images, images.flatten(1) @ torch.randn(24, 5), masks)


LOSSES = {
    "alignment": of_heatmaps(AlignmentLoss()),
    "tolerant alignment": of_heatmaps(AlignmentLoss(tolerance=0.1)),
    "hint": of_heatmaps(HINTLoss()),
    "squared hint": of_heatmaps(SquaredHINTLoss()),
    "input gradients": of_input_gradients,
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=list(LOSSES))


@every_loss
@pytest.mark.parametrize("channel", [False, True])
@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64]
)
def test_losses__take_masks_of_any_type_with_and_without_a_channel(loss, dtype, channel):
    masks = MASKS.unsqueeze(1) if channel else MASKS
    torch.testing.assert_close(loss(masks.to(dtype)), loss(MASKS.float()), check_dtype=False)


@every_loss
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([0, 255], "that of image 1 goes from 0 to 255. Divide 8-bit masks by 255."),
        (
            [-1, 2],
            "that of image 1 goes from -1 to 2. Of a label map make masks with camtrain.data.label_map_to_masks.",
        ),
        ([-0.5, 1], "that of image 1 goes from -0.5 to 1. Correct it, or set all of it to -1."),
        ([-2, -2], "that of image 1 goes from -2 to -2. Correct it"),
        ([0, NAN], "that of image 1 goes from nan to nan. Correct it"),
    ],
)
def test_losses__refuse_masks_that_cannot_be_meant(loss, values, said):
    masks = MASKS.float()
    masks[1, 0, 0], masks[1, 0, 1:] = values
    if values[0] == values[1]:
        masks[1] = values[0]
    with pytest.raises(MaskError, match=re.escape(said)):
        loss(masks)


@every_loss
def test_losses__refuse_bytes_that_were_not_divided(loss):
    with pytest.raises(MaskError, match="image 0 goes from 0 to 255"):
        loss(255 * MASKS.to(torch.uint8))


@every_loss
def test_losses__refuse_masks_of_several_channels(loss):
    with pytest.raises(MaskError, match=r"shape \(2, 3, 2, 4\).*Merge the channels, as by masks\.amax\(1\)"):
        loss(MASKS.unsqueeze(1).repeat(1, 3, 1, 1))


@every_loss
def test_losses__allow_for_the_rounding_of_interpolated_masks(loss):
    rounded = torch.where(MASKS > 0, 1 + 1e-6, -1e-6)
    torch.testing.assert_close(loss(rounded), loss(MASKS), atol=1e-4, rtol=1e-4)
    rounded[1] = -1 + 1e-6
    without = torch.stack([MASKS[0], -torch.ones_like(MASKS[1])])
    torch.testing.assert_close(loss(rounded), loss(without), atol=1e-4, rtol=1e-4)


def test_alignment_loss__reads_a_mask_of_a_video_with_and_without_time():
    heatmaps, masks = torch.rand(2, 3, 1, 2), MASKS.float()
    expected = AlignmentLoss()(heatmaps, masks)
    for others in (masks.unsqueeze(1), masks.unsqueeze(1).repeat(1, 6, 1, 1), masks.view(2, 1, 1, 2, 4)):
        torch.testing.assert_close(AlignmentLoss()(heatmaps, others), expected)


def test_input_gradient_loss__refuses_masks_of_another_size():
    with pytest.raises(MaskError, match=r"expected \(2, 4\), got \(2, 2\)\. Resize both"):
        of_input_gradients(MASKS[..., :2])
