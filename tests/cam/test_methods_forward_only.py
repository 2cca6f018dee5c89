"""Score-CAM, Ablation-CAM and occlusion maps against loops that do literally what the papers say, and peers."""

import copy

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from camtrain.cam.layers import resolve_layers
from camtrain.cam.occlusion import occlusion_map, occlusion_windows
from camtrain.cam.perturbation import ablation_cam, score_cam
from camtrain.cam.replay import Replay
from camtrain.cam.targets import class_index, log_probability, predicted_class
from camtrain.errors import BatchError, MethodError

METHODS = pytest.mark.parametrize("method", [score_cam, ablation_cam])


class Skipping(nn.Module):
    """An in-place ReLU on a tensor that is used again, a concatenation, and a functional in-place op."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.relu = nn.ReLU(inplace=True)
        self.body = nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(8, 3)

    def forward(self, images):
        stem = self.stem(images)
        self.relu(stem)
        body = self.norm(self.body(stem))
        body += F.avg_pool2d(stem, 2)
        both = torch.cat([self.relu(body), body.flip(1)], dim=1)
        return self.head(both.mean((2, 3)))


@pytest.fixture
def net():
    torch.manual_seed(1)
    return Skipping().double().eval()


@pytest.fixture
def images():
    torch.manual_seed(2)
    return torch.rand(3, 3, 12, 12, dtype=torch.float64)


def outputs_of(net, module, images):
    kept = []
    handle = module.register_forward_hook(lambda m, i, o: kept.append(o.clone()))
    logits = net(images)
    handle.remove()
    return logits, kept[-1]


def without(net, module, images, channel):
    def hook(m, i, output):
        changed = output.clone()
        changed[:, channel] = 0
        return changed

    handle = module.register_forward_hook(hook)
    logits = net(images)
    handle.remove()
    return logits


@torch.no_grad()
def ablation_by_hand(net, module, images, index):
    logits, activations = outputs_of(net, module, images)
    y = logits[:, index]
    weights = [(y - without(net, module, images, k)[:, index]) / y.abs() for k in range(activations.shape[1])]
    return (torch.stack(weights, 1)[:, :, None, None] * activations).sum(1).relu()


@torch.no_grad()
def score_by_hand(net, module, images, index):
    _, activations = outputs_of(net, module, images)
    maps = []
    for image, channels in zip(images, activations, strict=True):
        scores = []
        for channel in channels:
            mask = F.interpolate(channel[None, None], size=image.shape[1:], mode="bilinear", align_corners=False)[0]
            mask = (
                (mask - mask.min()) / (mask.max() - mask.min()) if mask.max() > mask.min() else torch.zeros_like(mask)
            )
            scores.append(net((image * mask)[None])[0, index])
        weights = torch.stack(scores).softmax(0)
        maps.append((weights[:, None, None] * channels).sum(0).relu())
    return torch.stack(maps)


@pytest.mark.parametrize("max_batch", [1, 4, 7, 100])
@pytest.mark.parametrize("layer", ["stem", "body", "norm", "stem.0"])
def test_ablation_cam__equals_one_hook_for_each_channel(net, images, layer, max_batch):
    expected = ablation_by_hand(net, net.get_submodule(layer), images, 1)
    found = ablation_cam(net, images, layer, target=class_index(1), max_batch=max_batch)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("max_batch", [1, 4, 7, 100])
@pytest.mark.parametrize("layer", ["stem", "norm"])
def test_score_cam__equals_one_masked_image_for_each_channel(net, images, layer, max_batch):
    expected = score_by_hand(net, net.get_submodule(layer), images, 1)
    found = score_cam(net, images, layer, target=class_index(1), max_batch=max_batch)
    torch.testing.assert_close(found, expected)


@METHODS
def test_forward_only__keeps_the_class_that_was_predicted(net, images, method):
    classes = net(images).argmax(1)
    expected = method(net, images, "norm", target=class_index(classes))
    torch.testing.assert_close(method(net, images, "norm", target=predicted_class), expected)


@METHODS
def test_forward_only__of_a_batch_equals_that_of_each_image(net, images, method):
    alone = [method(net, image[None], "norm") for image in images]
    torch.testing.assert_close(method(net, images, "norm"), torch.cat(alone))


@METHODS
def test_forward_only__of_an_empty_batch_is_empty(net, images, method):
    assert method(net, images[:0], resolve_layers(net, images, "norm")).shape == (0, 6, 6)


@METHODS
def test_forward_only__refuses_an_impossible_budget(net, images, method):
    with pytest.raises(BatchError, match="not 0"):
        method(net, images, "norm", max_batch=0)


@METHODS
def test_forward_only__never_exceeds_its_budget(net, images, method):
    sizes = []
    net.register_forward_pre_hook(lambda m, inputs: sizes.append(len(inputs[0])))
    method(net, images, resolve_layers(net, images, "norm"), max_batch=6)
    assert max(sizes) <= 6


@METHODS
def test_forward_only__leaves_the_model_as_it_was(net, images, method):
    net.train()
    before, random = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    method(net, images, "norm")
    assert all(module.training for module in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert not any("forward" in vars(m) or m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_ablation_cam__leaves_the_model_as_it_was_after_an_exception(net, images):
    def target(logits, labels=None):
        if len(calls := seen) > 2:
            raise KeyError("planted")
        calls.append(1)
        return logits[:, 0]

    seen = []
    with pytest.raises(KeyError, match="planted"):
        ablation_cam(net, images, "norm", target=target)
    assert not any("forward" in vars(m) or m._forward_hooks for m in net.modules())


def test_ablation_cam__of_negative_scores_keeps_its_direction(net, images):
    found = ablation_cam(net, images, "norm", target=log_probability)
    assert found.isfinite().all()
    assert found.max() > 0


def test_replay__does_not_run_what_precedes_the_layer(net, images):
    ran = []
    layer = resolve_layers(net, images, "norm")[0]
    with torch.no_grad():
        replay = Replay(net, images, layer)
        net.body.forward = lambda x: ran.append(1)
        replay.run(replay.activations)
    assert replay.exact
    assert not ran


def test_replay__notices_a_model_that_keeps_state(images):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.calls = nn.Conv2d(3, 2, 3), 0

        def forward(self, images):
            self.calls += 1
            return self.conv(images).mean((2, 3)) * self.calls

    net = Counting().double()
    layer = resolve_layers(net, images, "conv")[0]
    with torch.no_grad():
        assert not Replay(net, images, layer).exact


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "mobilenet_v2", "googlenet"])
def test_replay__is_exact_on_torchvision(name):
    kwargs = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    net = getattr(torchvision.models, name)(weights=None, **kwargs).eval()
    images = torch.rand(2, 3, 64, 64)
    layer = resolve_layers(net, images)[0]
    with torch.no_grad():
        assert Replay(net, images, layer).exact


def test_ablation_cam__at_a_layer_used_twice_ablates_the_last_use(images):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)

        def forward(self, images):
            return self.conv(self.norm(self.conv(images)).relu()).mean((2, 3))

    net = Twice().double()
    uses = [0]

    def hook(m, i, output):
        uses[0] += 1
        return output.index_fill(1, torch.tensor(2), 0) if uses[0] % 2 == 0 else output

    found = ablation_cam(net, images, "conv", target=class_index(2))
    whole, activations = outputs_of(net, net.conv, images)
    net.conv.register_forward_hook(hook)
    weight = (whole - net(images))[:, 2] / whole[:, 2].abs()
    torch.testing.assert_close(
        found, (weight[:, None, None] * activations[:, 2]).relu()
    )  # the other channels do not count


def test_score_cam__equals_torchcam(net, images):
    methods = pytest.importorskip("torchcam.methods")
    single, index = images[:1].float(), 0
    net = net.float()
    with methods.ScoreCAM(net, target_layer="stem.0", input_shape=(3, 12, 12)) as cam:
        net(single)
        peer = cam(index, normalized=False)[0]

    found = score_cam(net, single, "stem.0", target=class_index(index))
    torch.testing.assert_close(found[0], peer[0])


def occlusion_by_hand(net, images, index, window, stride, baseline):
    """Zeiler and Fergus, pixel by pixel: the mean fall over the windows that cover it."""
    height, width = images.shape[2:]
    total, count = torch.zeros(len(images), height, width).double(), torch.zeros(height, width)
    whole = net(images)[:, index]
    for top in range(0, height - window + stride, stride):
        for left in range(0, width - window + stride, stride):
            covered = images.clone()
            covered[:, :, top : top + window, left : left + window] = baseline
            total[:, top : top + window, left : left + window] += (whole - net(covered)[:, index])[:, None, None]
            count[top : top + window, left : left + window] += 1
    return (total / count).relu()


@pytest.mark.parametrize(("window", "stride"), [(4, 4), (5, 3), (3, 1), (12, 1), (5, 5)])
@torch.no_grad()
def test_occlusion_map__equals_a_loop_over_windows(net, images, window, stride):
    found = occlusion_map(net, images, target=class_index(1), window=window, stride=stride, baseline=0.5, max_batch=10)
    torch.testing.assert_close(found, occlusion_by_hand(net, images, 1, window, stride, 0.5))


def test_occlusion_map__equals_captum(net, images):
    attr = pytest.importorskip("captum.attr")
    peer = attr.Occlusion(net).attribute(
        images, sliding_window_shapes=(3, 5, 4), strides=(3, 3, 2), target=1, baselines=0.2
    )
    found = occlusion_map(net, images, target=class_index(1), window=(5, 4), stride=(3, 2), baseline=0.2)
    torch.testing.assert_close(found.float(), peer[:, 0].relu())


def test_occlusion_map__of_a_linear_model_is_each_pixel_s_share():
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 1, bias=False))
    image = torch.rand(1, 1, 4, 4)
    found = occlusion_map(net, image, target=class_index(0), window=1, stride=1)
    torch.testing.assert_close(found, (net[1].weight.view(1, 4, 4) * image[0]).relu())


def test_occlusion_map__covers_windows_of_a_video():
    net = nn.Sequential(nn.Flatten(), nn.Linear(2 * 4 * 4, 1, bias=False))
    video = torch.rand(2, 1, 2, 4, 4)
    found = occlusion_map(net, video, target=class_index(0), window=(1, 2, 2), stride=(1, 2, 2))
    fall = (net[1].weight.view(2, 2, 2, 2, 2) * video.view(2, 2, 2, 2, 2, 2)).sum((3, 5))
    expected = fall.repeat_interleave(2, 2).repeat_interleave(2, 3).relu()
    torch.testing.assert_close(found, expected)


def test_occlusion_map__repeats_the_inputs_beside_the_image():
    class Two(nn.Module):
        def forward(self, images, question):
            return (images.flatten(1).sum(1) * question).unsqueeze(1)

    images, question = torch.ones(2, 1, 2, 2), torch.tensor([1.0, 3.0])
    found = occlusion_map(Two(), (images, question), target=class_index(0), window=1, stride=1)
    assert found.tolist() == [[[1, 1], [1, 1]], [[3, 3], [3, 3]]]


def test_occlusion_windows__reach_every_pixel():
    for window, stride in [(3, 2), (5, 4), (2, 2), (7, 1), (2, 5)]:
        covered = occlusion_windows((7, 9), window, stride).any(0)
        assert covered.all() or stride > window


@pytest.mark.parametrize(("window", "stride"), [(0, 1), (2, 0), ((2, 2, 2), 1), (9, 1)])
def test_occlusion_windows__that_cannot_be_are_refused(window, stride):
    with pytest.raises(MethodError, match="window"):
        occlusion_windows((8, 8), window, stride)
