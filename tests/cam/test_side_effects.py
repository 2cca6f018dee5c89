"""The engine leaves nothing behind: after an explanation, after an error, in the middle of somebody's training."""

import gc
import resource
import weakref

import pytest
import torch
from torch import nn

from camtrain import explain
from camtrain.cam import Ride, capture, evaluating, predicted_class, record_activations, resolve_layers

IMAGES = torch.linspace(0, 1, 2 * 3 * 9 * 9).reshape(2, 3, 9, 9)


@pytest.fixture
def net(make_net):
    """A net in the middle of training: gradients accumulated, parts in evaluation mode, parts frozen."""
    net = make_net().train()
    net(IMAGES).sum().backward()
    net[1].eval()
    net[3].weight.requires_grad_(False)
    return net


CALLS = {
    "explain": lambda net: explain(net, IMAGES),
    "named layer": lambda net: explain(net, IMAGES, layers="3"),
    "resolve": lambda net: resolve_layers(net, IMAGES),
    "several layers": lambda net: capture(net, IMAGES, ["1", "3"]),
    "every method": lambda net: explain(net, IMAGES, methods=["layer_cam", "hires_cam", "xgrad_cam"]),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_engine__leaves_everything_as_it_was(net, photograph, call, mode):
    with mode():
        before = photograph(net)
        call(net)
        assert photograph(net) == before


class Bang(Exception):
    pass


def _bang(*_):
    raise Bang


@pytest.mark.parametrize("layers", ["auto", "0", ["0", "3"]])
@pytest.mark.parametrize("where", ["forward", "hook", "target", "method"])
def test_engine__leaves_everything_as_it_was_after_an_error(net, photograph, layers, where):
    handle = net[4].register_forward_hook(_bang) if where == "hook" else None
    if where == "forward":
        net[4].forward = _bang
    before = photograph(net)
    with pytest.raises(Bang):
        explain(
            net,
            IMAGES,
            layers=layers,
            target=_bang if where == "target" else predicted_class,
            methods=_bang if where == "method" else "grad_cam",
        )
    assert photograph(net) == before
    assert handle is None or len(net[4]._forward_hooks) == 1


def test_record_activations__removes_its_hooks_after_an_error(net, photograph):
    before = photograph(net)
    with pytest.raises(Bang), record_activations([net[0], net[3]]):
        raise Bang
    assert photograph(net) == before


def _ride(net, ride):
    try:
        with evaluating(net):
            net(IMAGES)
    finally:
        ride.disarm()
    ride.captured(_bang, None)


@pytest.mark.parametrize("where", ["forward", "target"])
def test_ride__leaves_everything_as_it_was_after_an_error(net, photograph, where):
    layers = resolve_layers(net, IMAGES)
    if where == "forward":
        net[4].forward = _bang
    with torch.no_grad():
        before = photograph(net)
        ride = Ride(net, layers)
        ride.arm()
        with pytest.raises(Bang):
            _ride(net, ride)
        assert photograph(net) == before


def test_ride__gives_the_capture_and_the_bits_of_the_forward_around_it(make_net):
    net = make_net().eval()
    layers = resolve_layers(net, IMAGES)
    with torch.inference_mode():
        expected = net(IMAGES)
        ride = Ride(net, layers)
        ride.arm()
        found = net(IMAGES.clone())
        ride.disarm()
    captured = ride.captured(predicted_class, None)
    assert torch.equal(found, expected)
    assert not found.requires_grad
    torch.testing.assert_close(captured.gradients[0], capture(net, IMAGES).gradients[0], rtol=0, atol=0)


class TwoKernels(nn.Module):
    """Its last bits depend on whether there are gradients, as those of fused attention with a learned bias do."""

    def __init__(self, net):
        super().__init__()
        self.net, self.calls = net, 0

    def forward(self, images):
        self.calls += 1
        logits = self.net(images)
        return logits * (1 + 1e-6) if torch.is_grad_enabled() else logits


def test_ride__that_would_change_a_bit_gives_the_plain_pass_and_is_none_any_more(make_net):
    net = TwoKernels(make_net()).eval()
    layers = resolve_layers(net, IMAGES)
    with torch.no_grad():
        expected = net.net(IMAGES)
        ride = Ride(net, layers)
        for _ in range(2):
            ride.arm()
            assert torch.equal(net(IMAGES.clone()), expected)
            ride.disarm()
            assert ride.captured(predicted_class, None) is None
    assert "with gradients on" in ride.reason
    assert net.calls == 2  # the pass that tried is not counted


def test_ride__is_tried_once(make_net):
    net, seen = make_net().eval(), []
    layers = resolve_layers(net, IMAGES)
    net[0].register_forward_hook(lambda *_: seen.append(1))
    ride = Ride(net, layers)
    with torch.no_grad():
        for expected in (2, 1, 1):
            seen.clear()
            ride.arm()
            net(IMAGES.clone())
            ride.disarm()
            assert len(seen) == expected
            assert ride.captured(predicted_class, None) is not None


def test_engine__between_forward_and_backward_of_a_training_step_changes_no_gradient(make_net):
    def step(explained):
        torch.manual_seed(0)
        net = make_net().train()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        for accumulated in range(4):
            loss = net(IMAGES + accumulated).square().mean()
            if explained:
                explain(net, IMAGES)
                explain(net, IMAGES, layers="0", target=lambda z, _: z[:, 1])
            loss.backward()
            if accumulated % 2:
                optimizer.step()
                optimizer.zero_grad()
        return net.state_dict()

    plain, with_engine = step(False), step(True)
    assert all(torch.equal(plain[name], with_engine[name]) for name in plain)


def test_engine__within_autocast_leaves_the_weights_of_the_step_trainable(make_net):
    net = make_net().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        explain(net, IMAGES)
        net(IMAGES).float().sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_capture__keeps_no_reference_to_the_graph(make_net):
    net = make_net()
    seen = []
    handle = net[7].register_forward_hook(lambda m, i, o: seen.append(weakref.ref(o)))
    captured = capture(net, IMAGES, "3")
    handle.remove()
    gc.collect()
    assert all(reference() is None for reference in seen)
    assert all(t.grad_fn is None for t in (captured.logits, captured.scores, *captured.gradients))


def test_explain__a_thousand_times_keeps_memory_flat(make_net):
    net, images = make_net().eval(), torch.rand(2, 3, 9, 9)
    layers = explain(net, images).layers

    def living():
        gc.collect()
        things = gc.get_objects()
        return len(things), sum(issubclass(type(thing), torch.Tensor) for thing in things)

    for turn in range(1000):
        if turn == 200:
            (objects, tensors), peak = living(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        explain(net, images, layers=layers if turn % 10 else "auto")
    later_objects, later_tensors = living()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss <= 1.02 * peak
    assert later_tensors == tensors
    assert later_objects <= 1.02 * objects
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_evaluating__restores_each_flag():
    net = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm1d(2), nn.Dropout())).train()
    net[1][0].eval()
    with evaluating(net):
        assert not any(module.training for module in net.modules())
    assert [module.training for module in net.modules()] == [True, True, True, False, True]
