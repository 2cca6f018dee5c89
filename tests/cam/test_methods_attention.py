"""LeGrad against attention written out by hand in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from camtrain.cam.attention import attention_weights, le_grad
from camtrain.cam.targets import class_index
from camtrain.errors import MethodError

HEADS, WIDTH, GRID = 2, 8, (3, 4)


class Block(nn.Module):
    """Self-attention in one of the ways people write it. `kept` collects the attention of the explicit one."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.kept = way, []
        self.mha = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x):
        if self.way in ("module", "weights"):
            return x + self.mha(x, x, x, need_weights=self.way == "weights")[0]
        q, k, v = F.linear(x, self.mha.in_proj_weight, self.mha.in_proj_bias).chunk(3, dim=-1)
        q, k, v = (t.unflatten(2, (HEADS, -1)).transpose(1, 2) for t in (q, k, v))
        if self.way == "fused":
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            attention = (q @ k.transpose(-2, -1) / math.sqrt(WIDTH // HEADS)).softmax(dim=-1)
            self.kept.append(attention)
            mixed = attention @ v
        return x + self.mha.out_proj(mixed.transpose(1, 2).flatten(2))


class TinyViT(nn.Module):
    def __init__(self, way: str) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.patches = nn.Conv2d(3, WIDTH, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.blocks = nn.Sequential(Block(way), Block(way))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, images):
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1)
        return self.head(self.blocks(x)[:, 0])


@pytest.fixture
def images():
    return torch.rand(3, 3, 12, 16, dtype=torch.float64)


def by_hand(images, index):
    net = TinyViT("explicit").double()
    score = net(images)[:, index].sum()
    attention = [block.kept[-1] for block in net.blocks]
    gradients = torch.autograd.grad(score, attention)
    total = sum(g.relu().mean(dim=(1, 2)) for g in gradients)
    return total[:, 1:].reshape(-1, *GRID)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("way", ["explicit", "fused", "module", "weights"])
def test_le_grad__equals_the_gradient_of_written_out_attention(way, frozen, images):
    net = TinyViT(way).double().requires_grad_(not frozen)
    found = le_grad(net, images, "patches", target=class_index(1))
    torch.testing.assert_close(found, by_hand(images, 1))
    assert found.max() > 0


@pytest.mark.parametrize("way", ["fused", "module"])
def test_le_grad__of_a_batch_equals_that_of_each_image(way, images):
    net = TinyViT(way).double()
    alone = [le_grad(net, image[None], "patches") for image in images]
    torch.testing.assert_close(le_grad(net, images, "patches"), torch.cat(alone))


def test_le_grad__leaves_the_model_as_it_was(images):
    net = TinyViT("module").double().train()
    expected = net(images)
    with torch.no_grad():
        le_grad(net, images, "patches")
    torch.testing.assert_close(net(images), expected)
    assert all(module.training for module in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_le_grad__of_torchvision_s_vit():
    net = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=4).eval()
    nn.init.normal_(net.heads.head.weight)  # a new one is zero
    found = le_grad(net, torch.rand(2, 3, 32, 32))
    assert found.shape == (2, 4, 4)
    assert found.flatten(1).max(1).values.min() > 0


def test_le_grad__of_timm_s_vit_with_registers():
    timm = pytest.importorskip("timm")
    net = timm.models.VisionTransformer(32, 8, num_classes=4, embed_dim=16, depth=2, num_heads=2, reg_tokens=3).eval()
    nn.init.normal_(net.head.weight)
    found = le_grad(net, torch.rand(2, 3, 32, 32))
    assert found.shape == (2, 4, 4)
    assert found.flatten(1).max(1).values.min() > 0


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_le_grad__of_transformers_vit(implementation):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8,
        num_labels=4, attn_implementation=implementation,
    )  # fmt: skip
    net = transformers.ViTForImageClassification(config).eval()
    found = le_grad(net, torch.rand(2, 3, 32, 32))
    assert found.shape == (2, 4, 4)
    assert found.flatten(1).max(1).values.min() > 0


def test_le_grad__of_windowed_attention_is_refused():
    net = torchvision.models.SwinTransformer([4, 4], 8, [2, 2], [2, 2], [4, 4], num_classes=3).eval()
    with pytest.raises(MethodError, match="windows or pooled tokens"):
        le_grad(net, torch.rand(2, 3, 64, 64))


def test_le_grad__of_a_network_without_attention_is_refused(images):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).double()
    with pytest.raises(MethodError, match="ran none that can be seen"):
        le_grad(net, images)


@pytest.mark.parametrize(
    "options", [{}, {"is_causal": True}, {"scale": 0.3}, {"attn_mask": "bool"}, {"attn_mask": "add"}]
)
def test_attention_weights__times_the_values_is_the_fused_attention(options):
    q, k, v = (torch.randn(2, 4, 5, 3, dtype=torch.float64) for _ in range(3))
    masks = {"bool": torch.ones(5, 5).tril().bool(), "add": torch.randn(5, 5).double()}
    options = {name: masks.get(value, value) if isinstance(value, str) else value for name, value in options.items()}
    expected = F.scaled_dot_product_attention(q, k, v, **options)
    torch.testing.assert_close(attention_weights(q, k, **options) @ v, expected)


def test_attention_weights__of_grouped_queries():
    q, k = torch.randn(2, 4, 5, 3).double(), torch.randn(2, 2, 5, 3).double()
    expected = attention_weights(q, k.repeat_interleave(2, 1))
    torch.testing.assert_close(attention_weights(q, k, enable_gqa=True), expected)
