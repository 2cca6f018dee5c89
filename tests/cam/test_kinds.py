"""Kinds of networks on which a good guess is wrong: each is read by looking, or refused with the reason."""

import copy
import itertools

import pytest
import torch
from torch import nn

from camtrain import explain
from camtrain.cam import capture, resolve_layers
from camtrain.errors import LayerError

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """Attention over `(B, N, C)`, with what it adds to."""

    def __init__(self, width=16, context=None):
        super().__init__()
        self.norm, self.query = nn.LayerNorm(width), nn.Linear(width, width)
        self.keys, self.values, self.mlp = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x, context=None):
        given = self.norm(x if context is None else context)
        scores = self.query(self.norm(x)) @ self.keys(given).transpose(1, 2)
        x = x + (scores / 4).softmax(dim=-1) @ self.values(given)
        return x + self.mlp(x).relu()


class Patches(nn.Module):
    """Patches of 4 x 4 as tokens, 8 x 8 of them."""

    def __init__(self, width=16, stride=4):
        super().__init__()
        self.cut = nn.Conv2d(3, width, stride, stride)

    def forward(self, images):
        return self.cut(images).flatten(2).transpose(1, 2)


class Plain(nn.Module):
    """A transformer of patches, with class tokens where they are asked for, its tokens in an order."""

    def __init__(self, ahead=0, behind=0, order=None, first=lambda x: x, last=lambda x: x):
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.one, self.two, self.head = Patches(), Block(), Block(), nn.Linear(16, 5)
        self.ahead, self.behind = (nn.Parameter(torch.randn(1, n, 16)) for n in (ahead, behind))
        self.order = order

    def forward(self, images):
        x = self.patches(images)
        x = x if self.order is None else x[:, self.order]
        x = torch.cat([self.ahead.expand(len(x), -1, -1), x, self.behind.expand(len(x), -1, -1)], dim=1)
        return self.head(self.two(self.one(x)).mean(dim=1))


def held(net, images, layer, *, space=(2, 3)):
    """Whether a change of each quarter of the image shows most in that quarter of the map."""
    activations = []
    for place in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        changed = images.clone()
        region = changed
        for axis, half in zip(space[-2:], place, strict=True):
            side = images.shape[axis] // 2
            region = region.narrow(axis, half * side, side)
        region.copy_(torch.randn(region.shape))
        before = capture(net, images, [layer]).activations[0]
        change = (capture(net, changed, [layer]).activations[0] - before).abs().sum(dim=1)[0]
        rows, columns = (side // 2 for side in change.shape[-2:])
        quarters = {
            (i, j): change[..., i * rows : (i + 1) * rows, j * columns : (j + 1) * columns].mean()
            for i in (0, 1)
            for j in (0, 1)
        }
        activations.append(max(quarters, key=quarters.get) == place)
    return all(activations)


@pytest.mark.parametrize(("ahead", "behind"), [(0, 0), (1, 0), (0, 1), (1, 4), (2, 1)])
def test_tokens__are_read_where_the_patches_are_among_the_others(ahead, behind):
    net = Plain(ahead, behind)
    (layer,) = resolve_layers(net, IMAGES)
    assert layer.layout.grid == (8, 8)
    with torch.no_grad():
        tokens = net.two(
            net.one(torch.cat([net.ahead.expand(2, -1, -1), net.patches(IMAGES), net.behind.expand(2, -1, -1)], 1))
        )
    expected = tokens[:, ahead : ahead + 64].transpose(1, 2).reshape(2, 16, 8, 8)
    torch.testing.assert_close(capture(net, IMAGES).activations[0], expected)


def test_tokens__column_by_column_are_read_so():
    net = Plain(order=torch.arange(64).reshape(8, 8).T.flatten())
    (layer,) = resolve_layers(net, IMAGES)
    assert "column by column" in layer.layout.name
    assert held(net, IMAGES, layer)


@pytest.mark.parametrize("size", [(32, 32), (32, 48)])
def test_tokens__in_an_order_of_their_own_are_refused_and_an_earlier_map_is_taken(size):
    cells = size[0] * size[1] // 16
    net = Plain(order=torch.randperm(cells, generator=torch.Generator().manual_seed(1)))
    images = torch.rand(2, 3, *size)
    (layer,) = resolve_layers(net, images)
    assert layer.name == "patches.cut" or held(net, images, layer)
    with pytest.raises(LayerError, match=r"do not hold their places.*occlusion_map"):
        resolve_layers(net, images, "two")


class Latents(nn.Module):
    """Sixteen latents, which are no 4 x 4 picture, ask an image what it shows."""

    def __init__(self, count=16):
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.ask, self.think, self.head = Patches(), Block(), Block(), nn.Linear(16, 5)
        self.latents = nn.Parameter(torch.randn(1, count, 16))

    def forward(self, images):
        x = self.patches(images)
        latents = self.ask(self.latents.expand(len(x), -1, -1), x)
        return self.head(self.think(latents).mean(dim=1))


@pytest.mark.parametrize("count", [4, 16, 64])
def test_latents__are_no_grid(count):
    net = Latents(count)
    (layer,) = resolve_layers(net, IMAGES)
    assert layer.layout.grid == (8, 8)
    assert held(net, IMAGES, layer)
    for name in ("ask", "think"):
        with pytest.raises(LayerError, match="do not hold their places"):
            resolve_layers(net, IMAGES, name)


class Slots(nn.Module):
    """Sixteen slots made of the whole image at once."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.mix, self.think, self.head = nn.Linear(3 * 1024, 256), Block(), nn.Linear(16, 5)

    def forward(self, images):
        return self.head(self.think(self.mix(images.flatten(1)).unflatten(1, (16, 16))).mean(dim=1))


def test_slots__alone_are_refused_with_the_methods_that_need_no_layer():
    with pytest.raises(LayerError, match=r"holds its places.*occlusion_map"):
        explain(Slots(), IMAGES)
    assert explain(Slots(), IMAGES, methods="occlusion_map").heatmaps["occlusion_map"].shape == (2, 32, 32)


def test_channels__of_a_multilayer_perceptron_are_no_space():
    net = nn.Sequential(
        nn.Flatten(),
        nn.Linear(3 * 1024, 64),
        nn.Unflatten(1, (1, 64)),
        nn.Linear(64, 64),
        nn.Flatten(),
        nn.Linear(64, 3),
    )
    with pytest.raises(LayerError, match="occlusion_map"):
        resolve_layers(net, IMAGES)


class AllMixing(nn.Module):
    """Attention without what it adds to, after which every token has seen everything alike."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.queries, self.values, self.head = (
            Patches(),
            nn.Linear(16, 16),
            nn.Linear(16, 16),
            nn.Linear(16, 3),
        )
        nn.init.zeros_(self.queries.weight)
        nn.init.zeros_(self.queries.bias)
        self.after = Block()

    def forward(self, images):
        x = self.patches(images)
        coarse = x.unflatten(1, (8, 8))[:, ::2, ::2].reshape(len(x), 16, 16)
        attention = (self.queries(coarse) @ x.transpose(1, 2)).softmax(dim=-1)
        return self.head(self.after(attention @ self.values(x)).mean(dim=1))


def test_tokens__that_mix_all_alike_are_read_by_the_map_that_became_them():
    (layer,) = resolve_layers(AllMixing(), IMAGES)
    assert (layer.name, layer.layout.grid) == ("after", (4, 4))
    assert "a map of that grid became them" in layer.reason


class Unfolded(nn.Module):
    """Each patch goes through a convolution by itself, folded into the batch; its tokens are plain."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.block, self.head = nn.Conv2d(3, 16, 4), Block(), nn.Linear(16, 3)

    def forward(self, images):
        patches = images.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)  # (B * 64, 3, 4, 4)
        x = self.conv(patches).flatten(1).unflatten(0, (len(images), 64))
        return self.head(self.block(x).mean(dim=1))


def test_frame__is_not_that_of_patches_in_the_batch():
    net = Unfolded()
    (layer,) = resolve_layers(net, IMAGES)
    assert (layer.name, layer.layout.grid) == ("block", (8, 8))
    assert held(net, IMAGES, layer)


CLIPS = torch.rand(2, 4, 3, 16, 16, generator=torch.Generator().manual_seed(0))  # (B, T, C, H, W)


class Frames(nn.Module):
    """Frames folded into the batch go through a network of images, then all tokens of the clip through a block."""

    def __init__(self, order="by frame"):
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.block, self.head, self.order = Patches(), Block(), nn.Linear(16, 3), order

    def forward(self, clips):
        x = self.patches(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])  # (B, T, 16, C)
        if self.order == "folded":
            return self.head(self.block(x.flatten(0, 1)).unflatten(0, clips.shape[:2]).mean(dim=(1, 2)))
        x = x.transpose(1, 2) if self.order == "by place" else x
        return self.head(self.block(x.flatten(1, 2)).mean(dim=1))


@pytest.mark.parametrize("order", ["by frame", "by place", "folded"])
def test_clips__of_every_order_of_tokens_keep_time_and_space(order):
    net = Frames(order)
    (layer,) = resolve_layers(net, CLIPS)
    assert (layer.name, layer.layout.grid) == ("block", (4, 4, 4))
    captured = capture(net, CLIPS)
    changed = CLIPS.clone()
    changed[:, 1, :, 8:12, 4:8] += 1
    difference = (capture(net, changed).activations[0] - captured.activations[0]).abs().sum(dim=1)
    assert difference[0].flatten().argmax() == 1 * 16 + 2 * 4 + 1
    assert captured.scores.shape == (2,)


def test_clips__are_explained_and_painted_whole():
    explanation = explain(Frames(), CLIPS, methods=["grad_cam", "occlusion_map"])
    assert explanation.resized("grad_cam").shape == (2, 4, 16, 16)
    assert explanation.heatmaps["occlusion_map"].shape == (2, 4, 16, 16)
    assert explanation.overlay("grad_cam").shape == (2, 4, 3, 16, 16)


class BatchSecond(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.inner, self.head = Patches(), Block(), nn.Linear(16, 3)
        self.scale = Scale()

    def forward(self, images):
        x = self.inner(self.patches(images)).transpose(0, 1)  # (N, B, C)
        return self.head(self.scale(x).relu().mean(dim=0))


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.factor * x


@pytest.mark.parametrize("count", [1, 2, 64])
def test_batch__as_the_second_axis_is_found(count):
    net, images = BatchSecond(), torch.rand(count, 3, 32, 32)
    (layer,) = resolve_layers(net, images)
    assert layer.name == "scale"
    assert "batch second" in layer.layout.name
    expected = net.inner(net.patches(images)).transpose(1, 2).reshape(count, 16, 8, 8)
    torch.testing.assert_close(capture(net, images).activations[0], expected.detach())


class Signal(nn.Module):
    """A signal `(B, C, L)` as tokens."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.block, self.head = nn.Conv1d(2, 16, 4, 4), Block(), nn.Linear(16, 3)

    def forward(self, signals):
        return self.head(self.block(self.conv(signals).transpose(1, 2)).mean(dim=1))


def test_signals__as_tokens_are_read_along_the_tokens():
    net, signals = Signal(), torch.rand(2, 2, 48)
    (layer,) = resolve_layers(net, signals)
    assert (layer.name, layer.layout.grid) == ("block", (12,))
    assert explain(net, signals).resized("grad_cam").shape == (2, 48)


class Handing(nn.Module):
    """Returns its input as it is, and what it made of it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        return x, self.conv(x).relu() * 1


class Handed(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.pair, self.head = nn.Conv2d(3, 8, 4, 4), Handing(), nn.Linear(8, 3)

    def forward(self, images):
        _, made = self.pair(self.stem(images))
        return self.head(made.mean(dim=(2, 3)))


def test_outputs__that_are_handed_through_are_not_taken_for_what_the_answer_uses():
    net = Handed()
    explanation = explain(net, IMAGES)
    assert set(explanation.state_names("grad_cam")) <= {"OK", "EMPTY"}
    (layer,) = explanation.layers
    assert (layer.name, layer.position) == ("pair", 1)
    expected = net.pair(net.stem(IMAGES))[1]
    torch.testing.assert_close(capture(net, IMAGES).activations[0], expected.detach())


class Cached(nn.Module):
    """Keeps a bias computed from its parameters, as LeViT does in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.conv, self.bias, self.head = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.ones(8, 8)), nn.Linear(8, 3)
        self.cache, self.last, self.calls = {}, None, 0

    def forward(self, images):
        self.calls += 1
        if "bias" not in self.cache:
            self.cache["bias"] = self.bias[:, :1] * 2
        x = self.conv(images)
        self.last = x
        return self.head((x + self.cache["bias"].unsqueeze(-1)).mean(dim=(2, 3)))


@pytest.mark.parametrize("grad", [True, False])
def test_caches__filled_in_our_pass_are_put_back(grad):
    net = Cached().eval()
    with torch.set_grad_enabled(grad):
        explain(net, IMAGES, methods=["grad_cam", "occlusion_map", "score_cam"])
    assert (net.cache, net.last, net.calls) == ({}, None, 0)
    copy.deepcopy(net)


def test_caches__that_were_there_stay_the_same_objects():
    net = Cached().eval()
    with torch.no_grad():
        net(IMAGES)
    bias, last = net.cache["bias"], net.last
    explain(net, IMAGES)
    assert net.cache["bias"] is bias
    assert net.last is last
    assert net.calls == 1


class Exits(nn.Module):
    """Three stages, each with a head of its own; the answer is the mean of what they say, or all of it."""

    def __init__(self, together):
        super().__init__()
        torch.manual_seed(0)
        widths = (3, 8, 12, 16)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.ReLU(), nn.Conv2d(b, b, 3, 1, 1), nn.ReLU())
            for a, b in itertools.pairwise(widths)
        )
        self.heads = nn.ModuleList(nn.Linear(width, 5) for width in widths[1:])
        self.together = together
        for stage in self.stages:  # so that a stage does not dampen what the next one says
            for conv in (stage[0], stage[2]):
                nn.init.kaiming_normal_(conv.weight)

    def forward(self, x):
        answers = []
        for stage, head in zip(self.stages, self.heads, strict=True):
            x = stage(x)
            answers.append(head(x.mean(dim=(2, 3))))
        return torch.stack(answers).mean(dim=0) if self.together else tuple(answers[::-1])


@pytest.mark.parametrize("together", [True, False])
def test_exits__do_not_pull_the_layer_to_the_first_stage(together):
    (layer,) = resolve_layers(Exits(together), IMAGES)
    assert layer.name == "stages.2"
    assert ("of the answer's gradient" in layer.reason) == together


class Parallel(nn.Module):
    """Four branches of different widths, joined outside of any module."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.branches = nn.ModuleList(nn.Sequential(nn.Conv2d(8, width, 3, 2, 1), nn.ReLU()) for width in (2, 4, 24, 2))
        self.head = nn.Linear(32, 3)

    def forward(self, x):
        x = self.stem(x)
        return self.head(torch.cat([branch(x) for branch in self.branches], dim=1).mean(dim=(2, 3)))


def test_branches__say_that_they_are_one_of_several():
    net = Parallel()
    (layer,) = resolve_layers(net, IMAGES)
    assert layer.name == "branches.2"
    assert "one of 4 branches" in layer.reason


class Scales(nn.Module):
    """Patches of two sizes in one sequence."""

    def __init__(self, first):
        super().__init__()
        torch.manual_seed(0)
        self.fine, self.coarse, self.first = Patches(), Patches(stride=8), first
        self.block, self.head = Block(), nn.Linear(16, 3)

    def forward(self, images):
        parts = [self.fine(images), self.coarse(images)]
        return self.head(self.block(torch.cat(parts if self.first == "fine" else parts[::-1], dim=1)).mean(dim=1))


@pytest.mark.parametrize("first", ["fine", "coarse"])
def test_scales__in_one_sequence_are_read_as_the_larger_grid_and_the_others_counted(first):
    net = Scales(first)
    (layer,) = resolve_layers(net, IMAGES)
    assert (layer.name, layer.layout.grid) == ("block", (8, 8))
    assert f"tokens {'before' if first == 'fine' else 'after'} 16 others" in layer.reason
    assert held(net, IMAGES, layer)


class OfPatches(nn.Module):
    """Takes patches that somebody else has cut, as a sequence or in a dictionary."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.block, self.head = nn.Linear(48, 16), Block(), nn.Linear(16, 3)

    def forward(self, patches):
        patches = patches["patches"] if isinstance(patches, dict) else patches
        return self.head(self.block(self.embed(patches)).mean(dim=1))


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"patches": x}], ids=["sequence", "dictionary"])
def test_patches__as_inputs_have_no_place_that_could_be_looked_at(wrap):
    with pytest.raises(LayerError, match=r"do not hold their places.*guided_backpropagation"):
        resolve_layers(OfPatches(), wrap(torch.rand(2, 64, 48, generator=torch.Generator().manual_seed(0))))


class Windowed(nn.Module):
    """Attention within windows of 4 x 4 patches that are folded into the batch, padded where the image has no more."""

    def __init__(self, last):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.block, self.head = nn.Conv2d(3, 16, 4, 4), Block(), nn.Linear(16, 3)
        self.norm = last

    def forward(self, images):
        x = self.stem(images).permute(0, 2, 3, 1)
        rows, columns = x.shape[1:3]
        x = nn.functional.pad(x, (0, 0, 0, -columns % 4, 0, -rows % 4))
        down, across = x.shape[1] // 4, x.shape[2] // 4
        x = self.block(x.reshape(-1, down, 4, across, 4, 16).transpose(2, 3).reshape(-1, 16, 16))
        x = x.reshape(-1, down, across, 4, 4, 16).transpose(2, 3).reshape(-1, 4 * down, 4 * across, 16)
        return self.head(self.norm(x[:, :rows, :columns]).mean(dim=(1, 2)))


@pytest.mark.parametrize("size", [(32, 32), (32, 48), (28, 44)])
@pytest.mark.parametrize(("last", "name"), [(nn.LayerNorm(16), "norm"), (nn.Identity(), "stem")])
def test_windows__of_square_and_wide_images_end_in_the_map_that_joins_them(size, last, name):
    net, images = Windowed(last), torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    (layer,) = resolve_layers(net, images)
    assert (layer.name, layer.layout.grid) == (name, (size[0] // 4, size[1] // 4))
    assert held(net, images, layer)


class Turned(nn.Module):
    """A map whose axes are in an order that nobody else has, between two in the usual one."""

    def __init__(self, order):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.scale, self.head, self.order = nn.Conv2d(3, 16, 4, 4), Scale(), nn.Linear(16, 3), order

    def forward(self, images):
        x = self.scale(self.conv(images).relu().permute(self.order))
        return self.head(x.permute([self.order.index(axis) for axis in range(4)]).mean(dim=(2, 3)))


@pytest.mark.parametrize("order", [(2, 3, 0, 1), (0, 2, 1, 3), (2, 0, 1, 3), (1, 0, 2, 3)])
def test_axes__in_no_known_order_leave_the_map_before_them(order):
    (layer,) = resolve_layers(Turned(order), IMAGES)
    assert (layer.name, layer.layout.name) == ("conv", "channels first")


class PooledPatches(nn.Module):
    """Patches as inputs, all alike to one query, whose answer does not depend on them: as a fresh SigLIP 2."""

    def __init__(self):
        super().__init__()
        self.embed, self.mix, self.head = nn.Linear(48, 32), nn.Linear(32, 32), nn.Linear(32, 3)

    def forward(self, patches):
        pooled = self.mix(self.embed(patches).mean(dim=1, keepdim=True))
        return self.head(pooled[:, 0].detach() * 0 + 1)


def test_channels__of_one_query_are_no_map_where_no_gradient_says_so():
    with pytest.raises(LayerError, match="do not hold their places"):
        capture(PooledPatches().eval(), {"patches": torch.rand(2, 12, 48)})
