import torch

from camtrain.monitoring.panels import keyframe
from camtrain.monitoring.selection import Kept


def clip(heat, mask=None):
    frames = torch.arange(8.0).view(1, 8, 1, 1).expand(3, 8, 4, 4)
    return Kept("a", frames, None, {"grad_cam": heat}, mask, torch.zeros(1), ("label",))


def test_keyframe__is_the_frame_that_holds_most_of_the_heat():
    heat = torch.zeros(4, 2, 2)
    heat[2] = 1.0  # of four steps over eight frames: frames 4 and 5
    mask = torch.arange(8.0).view(8, 1, 1).expand(8, 4, 4)
    shown = keyframe(clip(heat, mask))
    assert shown.image.shape == (3, 4, 4)
    assert shown.image[0, 0, 0] == shown.mask[0, 0] == 5.0
    assert shown.heatmaps["grad_cam"].sum() == 4.0


def test_keyframe__of_a_layer_without_time_is_the_middle():
    shown = keyframe(clip(torch.ones(2, 2)))
    assert shown.image[0, 0, 0] == 4.0
    assert shown.heatmaps["grad_cam"].shape == (2, 2)


def test_keyframe__leaves_images_alone():
    image = Kept("a", torch.zeros(3, 4, 4), None, {"grad_cam": torch.ones(2, 2)}, None, torch.zeros(1), ("label",))
    assert keyframe(image) is image
