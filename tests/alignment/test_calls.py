"""What a step calls."""

import torch

from camtrain.alignment.network import find_images
from camtrain.data.batches import Batch
from camtrain.tasks.answers import depends_on


def batch_of(count=4):
    masks = torch.zeros(count, 8, 8)
    masks[:, :4] = 1
    return Batch(torch.rand(count, 3, 8, 8), torch.arange(count) % 3, masks)


def test_depends_on__sees_detached_tensors_as_independent():
    source = torch.ones(2, requires_grad=True) * 2
    assert depends_on((source.relu() + 1).sum(), source)
    assert not depends_on((source.detach() + torch.ones(2, requires_grad=True)).sum(), source)


def test_find_images__are_floating_point_of_the_batchs_size():
    batch = batch_of(4)
    given = (torch.arange(4), batch.images.byte(), batch.images[:2], {"x": batch.images[:, :1]})
    assert find_images(given, {"y": batch.images}, batch) is batch.images
    assert find_images(given, {"y": batch.images.clone()}, batch).shape == batch.images.shape  # before one in gray
    assert find_images(given, {}, batch) is given[3]["x"]
    assert find_images(given[:3], {}, batch) is None
