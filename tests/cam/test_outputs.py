"""Where the logits are in what a network returned."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from camtrain import explain
from camtrain.cam import find_logits, logits_candidates
from camtrain.cam.hooks import Hooks, hooked, swapped
from camtrain.cam.outputs import answers
from camtrain.errors import BatchError

LOGITS = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]])
AUXILIARY = torch.zeros(2, 3)


@pytest.mark.parametrize(
    "output",
    [
        ([LOGITS, AUXILIARY],),
        ({"logits": LOGITS}, {"boxes": AUXILIARY}),
        {"outputs": 1.0, "out": [LOGITS]},
        (SimpleNamespace(logits=LOGITS), None),
        ((None, (LOGITS,)), [AUXILIARY]),
    ],
)
def test_find_logits__looks_into_containers_of_containers(output):
    assert find_logits(output) is LOGITS


@pytest.mark.parametrize("normalize", [lambda z: z.softmax(dim=1), torch.sigmoid])
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_find_logits__of_probabilities_and_logits_are_the_logits(normalize, shape, dtype):
    logits = torch.randn(shape, dtype=dtype)
    assert find_logits((normalize(logits), logits)) is logits
    assert find_logits((logits, normalize(logits))) is logits
    assert find_logits({"scores": normalize(logits), "raw": logits}) is logits


def test_find_logits__of_two_that_are_not_each_other_s_softmax_is_the_first():
    first, second = torch.rand(4, 3), torch.randn(4, 3)
    assert find_logits((first, second)) is first
    assert find_logits((first, second[:, :2])) is first


def test_find_logits__a_single_logit_is_not_taken_for_a_softmax_of_itself():
    logit = torch.randn(4, 1)
    assert find_logits(logit) is logit
    assert find_logits((logit, logit.clone())) is logit
    certain = torch.ones(4, 1)
    assert find_logits((certain, logit)) is certain


def test_logits_candidates__leave_probabilities_out():
    assert [value is LOGITS for value in logits_candidates((LOGITS.softmax(dim=1), LOGITS))] == [True]


def test_find_logits__the_boxes_of_detectors_are_none():
    detections = [{"boxes": torch.rand(3, 4), "scores": torch.rand(3)}]
    with pytest.raises(BatchError, match="held list"):
        find_logits(detections)
    assert [tuple(tensor.shape) for tensor in answers(detections)] == [(3, 4), (3,)]


def test_explain__of_a_network_that_returns_probabilities_and_logits_explains_the_logits():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

        def forward(self, images):
            logits = self.head(self.conv(images).relu().mean(dim=(2, 3)))
            return logits.softmax(dim=1), logits

    net, images = Pair().eval(), torch.rand(2, 3, 8, 8)
    assert torch.equal(explain(net, images).logits, net(images)[1].detach())


def test_hooked__removes_those_before_a_failure():
    net = nn.Identity()

    def failing():
        yield net.register_forward_hook(print)
        raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"), hooked(failing()):
        pass
    assert not net._forward_hooks


def test_hooks__are_removed_twice_without_harm_and_not_copied():
    import copy

    net, hooks = nn.Identity(), Hooks()
    hooks.add([net.register_forward_hook(print)])
    assert (len(hooks), len(copy.deepcopy(hooks))) == (1, 0)
    hooks.remove()
    hooks.remove()
    assert not net._forward_hooks


def test_swapped__puts_back_an_attribute_of_its_own_and_one_of_the_class():
    net = nn.Identity()
    with pytest.raises(TypeError), swapped(net, "forward", lambda number: number + 1):
        net(None)
    assert "forward" not in vars(net)
    net.forward = lambda number: number + 2
    with swapped(net, "forward", lambda number: number + 1):
        assert net(1) == 2
    assert net(1) == 3
