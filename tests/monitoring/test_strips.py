import pytest
import torch

from camtrain.monitoring.panels import strip
from camtrain.monitoring.selection import Kept


def kept(image, heat, mask):
    return Kept("a", image, None, {"grad_cam": heat}, mask, torch.zeros(0), (), true_heatmap=heat)


def test_strip__of_a_signal_is_its_channels_over_time():
    signal, mask, heat = torch.rand(2, 64), torch.rand(64), torch.rand(8)
    item = strip(kept(signal, heat, mask))
    assert item.image.shape == (2, 16, 64)
    assert (item.image == signal[:, None]).all()
    assert (item.mask == mask).all()
    assert item.heatmaps["grad_cam"].shape == (16, 8)


@pytest.mark.parametrize("mask", [None, torch.zeros(6, 7)])
def test_strip__of_a_picture_is_itself(mask):
    item = kept(torch.rand(3, 6, 7), torch.rand(2, 2), mask)
    assert strip(item) is item
