"""Number formats, memory formats, compilers, distributed wrappers, checkpointing: always the same maps."""

import copy
import os
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from camtrain import explain
from camtrain.cam import capture, grad_cam, log_probability
from camtrain.errors import ConfigurationError, GradientError

IMAGES = torch.linspace(-1, 1, 3 * 3 * 9 * 9).sin().reshape(3, 3, 9, 9)
METHODS = ("grad_cam", "grad_cam_plus_plus", "hires_cam", "layer_cam", "xgrad_cam", "contribution_cam")


def maps_of(net, images=IMAGES, layers="3", **options):
    return explain(net, images, layers=layers, methods=METHODS, **options).heatmaps


def assert_same(found, expected, *, rtol=1e-5, of_peak=1e-6):
    for method, maps in expected.items():
        atol = of_peak * maps.abs().max().item()
        torch.testing.assert_close(found[method], maps, rtol=rtol, atol=atol, check_dtype=False, msg=method)


@pytest.fixture
def net(make_net):
    return make_net().eval()


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-5), (torch.bfloat16, 0.06), (torch.float16, 0.01)])
def test_explain__in_any_precision_is_that_of_float64_up_to_its_rounding(net, dtype, error):
    expected = maps_of(copy.deepcopy(net).double(), IMAGES.double())
    converted = copy.deepcopy(net).to(dtype)
    found = maps_of(converted, IMAGES.to(dtype))
    assert all(maps.dtype == (torch.float64 if dtype == torch.float64 else torch.float32) for maps in found.values())
    assert_same(found, expected, rtol=error, of_peak=error)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_explain__within_autocast_is_that_of_float32_up_to_rounding(net, dtype):
    expected = maps_of(net)
    with torch.autocast("cpu", dtype=dtype):
        found = maps_of(net)
    assert_same(found, expected, rtol=0.06, of_peak=0.06)


def test_capture__in_float16_keeps_gradients_that_would_underflow(net):
    faint = copy.deepcopy(net)
    faint[8].weight.data *= 1e-4
    expected = capture(faint, IMAGES, "3").gradients[0]
    found = capture(copy.deepcopy(faint).half(), IMAGES.half(), "3").gradients[0]
    assert (expected.abs() < 6e-6).all()  # below the normal range of float16 by far
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.01 * expected.abs().max().item())


def test_explain__in_channels_last_is_that_of_contiguous_memory(net):
    found = maps_of(
        copy.deepcopy(net).to(memory_format=torch.channels_last), IMAGES.to(memory_format=torch.channels_last)
    )
    assert_same(found, maps_of(net))


def test_explain__of_a_frozen_net_is_that_of_the_trainable_one(net):
    expected = maps_of(net)
    partly = copy.deepcopy(net)
    partly[0].requires_grad_(False)
    assert_same(maps_of(partly), expected, rtol=0, of_peak=0)
    assert_same(maps_of(copy.deepcopy(net).requires_grad_(False)), expected, rtol=0, of_peak=0)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("explained", ["wrapper", "original"])
def test_explain__of_a_compiled_net_is_that_of_the_eager_one(net, backend, explained):
    expected = maps_of(net, layers="auto")
    compiled = torch.compile(net, backend=backend)
    with torch.no_grad():
        compiled(IMAGES)
    assert_same(maps_of(compiled if explained == "wrapper" else net, layers="auto"), expected)
    assert_same(maps_of(compiled, layers=net[3]), expected)


def test_explain__of_a_net_compiled_in_place_or_in_part_is_that_of_the_eager_one(net):
    expected = maps_of(net)
    whole = copy.deepcopy(net)
    whole.compile(backend="eager")
    with torch.no_grad():
        whole(IMAGES)
    assert_same(maps_of(whole), expected)
    part = copy.deepcopy(net)
    part[3] = torch.compile(part[3], backend="eager")
    with torch.no_grad():
        part(IMAGES)
    assert_same(maps_of(part), expected)
    assert explain(part, IMAGES).layers[0].name == "3"


def test_explain__then_compile_gives_the_same_net(net):
    expected = net(IMAGES)
    maps_of(net)
    torch.testing.assert_close(torch.compile(net, backend="eager")(IMAGES), expected)


@pytest.fixture
def one_process(tmp_path) -> Iterator[None]:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_explain__of_a_distributed_net_leaves_the_next_step_as_it_was(net, one_process):
    expected = maps_of(net)
    wrapped = DistributedDataParallel(net)
    assert_same(maps_of(wrapped), expected, rtol=0, of_peak=0)

    def step(explained):
        wrapped.zero_grad()
        loss = wrapped(IMAGES).square().mean()
        if explained:
            maps_of(wrapped)
        loss.backward()
        return [p.grad.clone() for p in wrapped.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(step(True), step(False), strict=True))


@pytest.mark.skipif(torch.__version__ < "2.7", reason="FSDP of this torch needs a GPU")
@pytest.mark.filterwarnings("ignore")
def test_explain__of_a_fully_sharded_net_is_that_of_the_whole_one(net, one_process):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    expected, automatic = maps_of(net), maps_of(net, layers="auto")
    mesh = init_device_mesh("cpu", (1,))
    sharded = copy.deepcopy(net)
    fully_shard(sharded[3], mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    for _ in range(2):
        assert_same(maps_of(sharded), expected)
        assert_same(maps_of(sharded, layers="auto"), automatic)
        sharded(IMAGES).square().mean().backward()


def test_explain__of_data_parallel_is_refused(net):
    with pytest.raises(ConfigurationError, match=r"pass model\.module"):
        explain(DataParallel(net), IMAGES)


class Checkpointed(nn.Module):
    def __init__(self, net, reentrant):
        super().__init__()
        self.body, self.head, self.reentrant = net[:5], net[5:], reentrant

    def forward(self, x):
        return self.head(checkpoint(self.body, x, use_reentrant=self.reentrant))


@pytest.mark.filterwarnings("ignore:None of the inputs")
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("layers", ["body.0", "body.3", "auto"])
def test_explain__of_a_checkpointed_net_is_that_of_the_plain_one(net, reentrant, layers):
    expected = maps_of(net, layers="3" if layers == "auto" else layers.removeprefix("body."))
    found = explain(Checkpointed(net, reentrant), IMAGES, layers=layers, methods=METHODS)
    if layers == "auto":
        assert found.layers[0].name == "body"
        expected = maps_of(net, layers="4")
    assert_same(found.heatmaps, expected)


@pytest.mark.filterwarnings("ignore:None of the inputs")
def test_capture_for_training__of_a_layer_in_a_checkpoint(net):
    labels = torch.tensor([0, 1, 2])

    def penalty(model, layer):
        found = capture(model, IMAGES, layer, log_probability, labels=labels, create_graph=True)
        return grad_cam(found.activations[0], found.gradients[0]).sum()

    penalty(net, "3").backward()
    expected = net[0].weight.grad.clone()
    net.zero_grad()
    penalty(Checkpointed(net, False), "body.3").backward()
    torch.testing.assert_close(net[0].weight.grad, expected)
    with pytest.raises(GradientError, match="use_reentrant=False"):
        penalty(Checkpointed(net, True), "body.3")
