import torch
from torch import nn

from camtrain.cam.layouts import channels_first
from camtrain.cam.looking import Choices


def choice(name):
    return name, "the last map", channels_first((2, 1, 4, 4)), 0


def test_choices__of_one_model_keep_the_last_sizes_only():
    choices, net = Choices(), nn.Conv2d(1, 1, 1)
    for side in range(1, 101):
        choices.remember(net, torch.zeros(2, 1, side, side), choice(str(side)))
    known = [side for side in range(1, 101) if choices.recall(net, torch.zeros(2, 1, side, side))]
    assert known == list(range(101 - len(known), 101))
    assert 1 <= len(known) < 50


def test_choices__of_a_network_that_changed_are_not_recalled():
    choices, net, images = Choices(), nn.Sequential(nn.Conv2d(1, 1, 1)), torch.zeros(2, 1, 4, 4)
    choices.remember(net, images, choice("0"))
    assert choices.recall(net, torch.zeros(7, 1, 4, 4)) == choice("0")
    assert choices.recall(net, images.double()) is None
    net.append(nn.ReLU())
    assert choices.recall(net, images) is None


def test_choices__can_be_forgotten_once():
    choices, net, images = Choices(), nn.Conv2d(1, 1, 1), torch.zeros(2, 1, 4, 4)
    choices.remember(net, images, choice("layer"))
    assert choices.forget(net, images)
    assert not choices.forget(net, images)
    assert choices.recall(net, images) is None
