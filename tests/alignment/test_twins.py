"""Twins that are added, and what they are made of."""

import pytest
import torch
from torch import nn

from camtrain.alignment.batch import Processes
from camtrain.alignment.network import Looking
from camtrain.alignment.step import Step
from camtrain.alignment.twins import Memory, Twins, answer_twins
from camtrain.data.batches import Batch
from camtrain.errors import ConfigurationError
from camtrain.swaps import can_have_twin
from camtrain.tasks.calls import Call


def small_net(width=4):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3))


def batch_of(count=4):
    masks = torch.zeros(count, 8, 8)
    masks[:, :4] = 1
    return Batch(torch.rand(count, 3, 8, 8), torch.arange(count) % 3, masks)


def test_answer_twins__exchanges_every_input_that_belongs_to_an_image():
    seen = []

    class TwoInputs(nn.Module):
        def forward(self, images, codes, scale=1.0):
            seen.append((images, codes, scale))
            return torch.zeros(len(images), 3, requires_grad=True)

    batch, net = batch_of(4), TwoInputs()
    batch.masks[0] = -1
    call = Call("net", net, (batch.images, torch.arange(4)), {"scale": 2.0}, None, ())
    memory = Memory(8)
    twins = answer_twins(call, batch, memory, torch.Generator(), 8, eligible=can_have_twin(batch.masks))
    images, codes, scale = seen[0]
    assert len(memory) == 0  # what an earlier batch's images travelled with is gone
    assert twins.loss.item() == pytest.approx(torch.tensor(3.0).log().item())
    assert images.shape == (3, 3, 8, 8)
    assert codes.tolist() == [1, 2, 3]
    assert scale == 2


def test_answer_twins__makes_them_of_earlier_batches_where_this_one_has_no_mask():
    memory, net = Memory(8), small_net()
    for batch in (batch_of(4), Batch(torch.rand(4, 3, 8, 8), torch.arange(4) % 3, torch.full((4, 8, 8), -1.0))):
        call = Call("", net, (batch.images,), {}, net(batch.images), ())
        twins = answer_twins(call, batch, memory, torch.Generator(), 2, eligible=can_have_twin(batch.masks))
        assert twins.batch.images.shape == (2, 3, 8, 8)
        assert twins.loss.requires_grad
        memory.settle(int(can_have_twin(batch.masks).sum()))
    assert len(memory) == 4


def remember(memory, images, masks, labels, fill_donors=True):
    able = can_have_twin(masks, fill_donors=fill_donors)
    memory.remember(images, masks, labels, able, int(able.sum()))


def test_memory__is_a_ring_that_keeps_only_what_can_have_a_twin():
    memory = Memory(3)
    masks = torch.zeros(5, 4, 4)
    masks[:, :2] = 1
    masks[1] = -1
    remember(memory, torch.rand(5, 1, 4, 4), masks, torch.arange(5))
    assert sorted(memory.recall(9, torch.Generator())[2].tolist()) == [2, 3, 4]
    remember(memory, torch.rand(1, 1, 4, 4), masks[:1], torch.tensor([7]))
    assert sorted(memory.recall(9, torch.Generator())[2].tolist()) == [3, 4, 7]
    remember(memory, torch.rand(1, 1, 6, 6), torch.eye(6)[None], torch.tensor([9]))
    assert memory.recall(9, torch.Generator())[2].tolist() == [9]


def test_memory__forgets_the_oldest_first():
    memory = Memory(3)
    for label in range(5):
        remember(memory, torch.rand(1, 1, 8, 8), torch.eye(8)[None], torch.tensor([label]))
    assert sorted(memory.recall(3, torch.Generator())[2].tolist()) == [2, 3, 4]


def test_answer_twins__of_a_head_alone_is_refused():
    call = Call("head", nn.Linear(5, 3), (torch.rand(4, 5),), {}, None, ())
    with pytest.raises(ConfigurationError, match=r"Name the whole network with model="):
        answer_twins(call, batch_of(4), Memory(0), torch.Generator(), 8, eligible=torch.ones(4, dtype=torch.bool))


def test_memory__keeps_images_without_a_forbidden_region_where_masks_mark_all_that_may_matter():
    for fill_donors, kept in ((True, 0), (False, 3)):
        memory = Memory(4)
        remember(memory, torch.rand(3, 1, 4, 4), torch.ones(3, 4, 4), torch.arange(3), fill_donors)
        assert len(memory) == kept


def test_twins__are_not_added_where_processes_wait_for_each_other():
    module, batch = nn.Sequential(nn.SyncBatchNorm(3), small_net()), batch_of(4)
    for processes, added in ((1, True), (2, False)):
        step = Step(module, Looking(module), batch, processes=Processes(processes))
        assert Twins()._can_add(step) == added
    assert step.notes == ["adds no twins beside SyncBatchNorm, whose processes wait for each other"]
