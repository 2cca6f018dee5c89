"""`layers="auto"` on every family of networks, with random weights: what is chosen, and that it is right."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree
from torchvision import models
from torchvision.models import densenet, detection, resnet, segmentation, swin_transformer, video
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.video.mvit import MSBlockConfig, MViT
from torchvision.models.video.swin_transformer import SwinTransformer3d

from camtrain import explain
from camtrain.cam import capture, detection_box, regression_output, resolve_layers, segmentation_region

CLASSES = 5


@dataclass(frozen=True)
class Family:
    """A network, the size of its images, and the layer and grid that must be found."""

    build: Callable[[], nn.Module]
    size: tuple[int, ...]
    layer: str
    grid: tuple[int, ...]


def small(function: Callable[..., nn.Module], *args: Any, **kwargs: Any) -> Callable[[], nn.Module]:
    return partial(function, *args, num_classes=CLASSES, **kwargs)


def bottleneck(width: int, groups: int) -> Callable[[], nn.Module]:
    return small(resnet.ResNet, resnet.Bottleneck, [1, 1, 1, 1], width_per_group=width, groups=groups)


def convnext() -> nn.Module:
    blocks = [CNBlockConfig(8, 16, 1), CNBlockConfig(16, 32, 1), CNBlockConfig(32, None, 1)]
    return models.ConvNeXt(blocks, num_classes=CLASSES)


def swin(version: int) -> nn.Module:
    second = {
        "block": swin_transformer.SwinTransformerBlockV2,
        "downsample_layer": swin_transformer.PatchMergingV2,
    }
    return models.SwinTransformer(
        [4, 4], 16, [1, 2, 1], [1, 2, 2], [4, 4], num_classes=CLASSES, **(second if version == 2 else {})
    )


def vit(classes: int = CLASSES) -> nn.Module:
    net = models.VisionTransformer(64, 16, 3, 2, 32, 64, num_classes=classes)
    nn.init.normal_(net.heads.head.weight)  # torchvision starts it at zero
    return net


def maxvit() -> nn.Module:
    return models.MaxVit((64, 64), 8, 2, [8, 16, 32], [1, 1, 1], 8, 0.0, num_classes=CLASSES)


def mvit(version: int) -> nn.Module:
    blocks = [
        MSBlockConfig(1, 8, 16, [3, 3, 3], [3, 3, 3], [1, 1, 1], [1, 2, 2]),
        MSBlockConfig(2, 16, 32, [3, 3, 3], [3, 3, 3], [1, 2, 2], [1, 1, 1]),
        MSBlockConfig(2, 32, 32, [3, 3, 3], [3, 3, 3], [1, 1, 1], [1, 1, 1]),
    ]
    second = {"residual_pool": True, "residual_with_cls_embed": False, "rel_pos_embed": True, "proj_after_attn": True}
    first = {"residual_pool": False, "residual_with_cls_embed": True, "rel_pos_embed": False, "proj_after_attn": False}
    return MViT((32, 32), 4, blocks, num_classes=CLASSES, **(second if version == 2 else first))


CLASSIFICATION = {
    "alexnet": Family(small(models.alexnet), (64, 64), "features.10", (3, 3)),
    "vgg": Family(small(models.vgg11_bn), (64, 96), "features", (2, 3)),
    "resnet": Family(small(models.resnet18), (64, 96), "layer4", (2, 3)),
    "resnext": Family(bottleneck(4, 32), (64, 96), "layer4", (2, 3)),
    "wide resnet": Family(bottleneck(128, 1), (64, 96), "layer4", (2, 3)),
    "inception": Family(small(models.inception_v3, init_weights=False), (96, 96), "Mixed_6e", (4, 4)),
    "googlenet": Family(small(models.googlenet, init_weights=False), (64, 96), "inception5b", (2, 3)),
    "densenet": Family(small(densenet.DenseNet, 8, (2, 2, 2, 2), 16), (64, 96), "features", (2, 3)),
    "squeezenet": Family(small(models.squeezenet1_1), (64, 96), "classifier.1", (3, 5)),
    "shufflenet": Family(small(models.shufflenet_v2_x0_5), (64, 96), "conv5", (2, 3)),
    "mobilenet v2": Family(small(models.mobilenet_v2, width_mult=0.35), (64, 96), "features", (2, 3)),
    "mobilenet v3": Family(small(models.mobilenet_v3_small), (64, 96), "features", (2, 3)),
    "mnasnet": Family(small(models.mnasnet0_5), (64, 96), "layers", (2, 3)),
    "efficientnet": Family(small(models.efficientnet_b0), (64, 96), "features", (2, 3)),
    "efficientnet v2": Family(small(models.efficientnet_v2_s), (64, 96), "features", (2, 3)),
    "regnet x": Family(small(models.regnet_x_400mf), (64, 96), "trunk_output", (2, 3)),
    "regnet y": Family(small(models.regnet_y_400mf), (64, 96), "trunk_output", (2, 3)),
    "convnext": Family(convnext, (64, 96), "features", (4, 6)),
    "maxvit": Family(maxvit, (64, 64), "blocks.2", (4, 4)),
    "swin": Family(partial(swin, 1), (64, 96), "norm", (4, 6)),
    "swin v2": Family(partial(swin, 2), (64, 96), "norm", (4, 6)),
    "vit": Family(vit, (64, 64), "encoder.layers.encoder_layer_1", (4, 4)),
}
VIDEO = {
    "r3d": Family(small(video.r3d_18), (4, 32, 48), "layer4", (1, 2, 3)),
    "mc3": Family(small(video.mc3_18), (4, 32, 48), "layer4", (4, 2, 3)),
    "r2plus1d": Family(small(video.r2plus1d_18), (4, 32, 48), "layer4", (1, 2, 3)),
    "mvit v1": Family(partial(mvit, 1), (4, 32, 32), "blocks.1", (2, 4, 4)),
    "mvit v2": Family(partial(mvit, 2), (4, 32, 32), "blocks.1", (2, 4, 4)),
    "swin3d": Family(
        small(SwinTransformer3d, [2, 4, 4], 16, [1, 1, 1], [1, 2, 2], [2, 4, 4]), (4, 64, 96), "norm", (2, 4, 6)
    ),
}


def check(family: Family, whole: Any, wrap: Callable[[Any], Any] = lambda images: images) -> None:
    """The layer and grid are found, with the truth of the whole graph, image by image, in any order."""
    torch.manual_seed(0)
    net, images = family.build().double().eval(), torch.randn(2, 3, *family.size, dtype=torch.float64)
    captured = capture(net, wrap(images))
    (layer,) = captured.layers
    assert (layer.name, layer.layout.grid) == (family.layer, family.grid), layer.reason
    assert captured.activations[0].shape[2:] == captured.gradients[0].shape[2:] == family.grid
    assert (captured.gradients[0] != 0).flatten(1).any(dim=1).all()
    truth = whole(Wrapped(net, wrap), images, f"net.{layer.name}", lambda z: z.amax(dim=1))
    scale = truth.gradients.abs().max().item()
    torch.testing.assert_close(captured.gradients[0], layer.to_map(truth.gradients), rtol=1e-6, atol=1e-9 * scale)
    torch.testing.assert_close(captured.activations[0], layer.to_map(truth.activations), rtol=1e-9, atol=1e-12)
    swapped = capture(net, wrap(images.flip(0)), captured.layers)
    torch.testing.assert_close(swapped.gradients[0], captured.gradients[0].flip(0), rtol=1e-6, atol=1e-9 * scale)
    alone = capture(net, wrap(images[1:]), captured.layers)
    torch.testing.assert_close(alone.gradients[0], captured.gradients[0][1:], rtol=1e-6, atol=1e-9 * scale)


class Wrapped(nn.Module):
    def __init__(self, net: nn.Module, wrap: Callable[[Any], Any]) -> None:
        super().__init__()
        self.net, self.wrap = net, wrap

    def forward(self, images: Any) -> Any:
        inputs = self.wrap(images)
        return self.net(**inputs) if isinstance(inputs, dict) else self.net(inputs)


@pytest.mark.parametrize("family", CLASSIFICATION.values(), ids=CLASSIFICATION.keys())
def test_auto__on_torchvision_classifiers(family, whole):
    check(family, whole)


@pytest.mark.parametrize("family", VIDEO.values(), ids=VIDEO.keys())
def test_auto__on_video_networks_gives_a_map_for_each_frame(family, whole):
    check(family, whole)


@pytest.mark.slow
def test_auto__on_s3d():
    images = torch.rand(1, 3, 16, 224, 224)
    explanation = explain(video.s3d(num_classes=CLASSES).eval(), images)
    assert explanation.layers[0].name == "features"
    assert explanation.heatmaps["grad_cam"].shape == (1, 2, 7, 7)
    assert explanation.resized("grad_cam").shape == (1, 16, 224, 224)


def test_vit__has_exactly_no_gradient_at_the_patches_of_its_last_block():
    net, images = vit().eval(), torch.rand(2, 3, 64, 64)
    assert capture(net, images, "encoder.layers.encoder_layer_2").gradients[0].abs().max() == 0
    assert (
        explain(net, images, layers="encoder.layers.encoder_layer_2").state_names("grad_cam") == ["ZERO_GRADIENT"] * 2
    )
    assert explain(net, images).state_names("grad_cam")[0] in ("OK", "EMPTY")


def test_vit__with_a_head_of_zeros_gets_the_layer_it_will_have():
    net = vit()
    nn.init.zeros_(net.heads.head.weight)
    assert resolve_layers(net, torch.rand(2, 3, 64, 64))[0].name == "encoder.layers.encoder_layer_1"


TIMM = {
    "class token": ("vit_tiny_patch16_224", {"img_size": 64, "depth": 3}, "blocks.1", (4, 4)),
    "averaged tokens": (
        "vit_tiny_patch16_224",
        {"img_size": (64, 96), "depth": 2, "global_pool": "avg", "class_token": False, "fc_norm": False},
        "norm",
        (4, 6),
    ),
    "register tokens": ("vit_tiny_patch16_224", {"img_size": 64, "depth": 2, "reg_tokens": 4}, "blocks.0", (4, 4)),
    "distilled": ("deit_tiny_distilled_patch16_224", {"img_size": 64, "depth": 3}, "blocks.1", (4, 4)),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"img_size": (64, 96), "embed_dim": 16, "depths": (1, 1, 1), "num_heads": (1, 2, 2), "window_size": 4},
        "norm",
        (4, 6),
    ),
    "convnext": ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}, "stages", (2, 3)),
    "channels last": ("mambaout_femto", {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}, "stages", (2, 3)),
    "maxvit": ("maxvit_rmlp_pico_rw_256", {"img_size": 64}, "norm", (2, 2)),
    "efficientnet": ("efficientnet_lite0", {}, "bn2", (2, 3)),
}


@pytest.mark.parametrize(("name", "options", "layer", "grid"), TIMM.values(), ids=TIMM.keys())
def test_auto__on_timm(name, options, layer, grid, whole):
    timm = pytest.importorskip("timm")
    build = partial(timm.create_model, name, num_classes=CLASSES, **options)
    given = options.get("img_size", (64, 96))
    check(Family(build, (given, given) if isinstance(given, int) else given, layer, grid), whole)


SMALL_TOKENS = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 64,
    "patch_size": 16,
    "attn_implementation": "eager",
}
TRANSFORMERS = {
    "ViTConfig": (SMALL_TOKENS, (64, 64), "vit.layers.1", (4, 4)),
    "Dinov2Config": (SMALL_TOKENS, (64, 64), "dinov2.layernorm", (4, 4)),
    "Dinov2WithRegistersConfig": (SMALL_TOKENS, (64, 64), "dinov2_with_registers.layernorm", (4, 4)),
    "SwinConfig": (
        {"image_size": 64, "embed_dim": 16, "depths": [1, 1, 1], "num_heads": [1, 2, 2], "window_size": 4},
        (64, 64),
        "swin.layernorm",
        (4, 4),
    ),
    "ConvNextConfig": (
        {"hidden_sizes": [8, 16, 24], "depths": [1, 1, 1], "num_stages": 3},
        (64, 96),
        "convnext.encoder.stages.2",
        (4, 6),
    ),
}


@pytest.mark.parametrize(
    ("config", "options", "size", "layer", "grid"), [(k, *v) for k, v in TRANSFORMERS.items()], ids=TRANSFORMERS.keys()
)
def test_auto__on_transformers_whose_outputs_are_mappings(config, options, size, layer, grid, whole):
    transformers = pytest.importorskip("transformers")
    configuration = getattr(transformers, config)(**options, num_labels=CLASSES)
    build = partial(transformers.AutoModelForImageClassification.from_config, configuration)
    check(Family(build, size, layer, grid), whole, lambda images: {"pixel_values": images})


@pytest.mark.parametrize(
    ("build", "layer"),
    [
        (segmentation.deeplabv3_resnet50, "classifier.2"),
        (segmentation.fcn_resnet50, "classifier.1"),
        (segmentation.lraspp_mobilenet_v3_large, "backbone.4"),
    ],
)
def test_auto__on_segmentation_explains_a_region_below_the_logits(build, layer):
    net = build(weights=None, weights_backbone=None, num_classes=4).eval()
    images = torch.rand(2, 3, 64, 96)
    captured = capture(net, images, "auto", segmentation_region(1, torch.ones(64, 96)))
    assert captured.layers[0].name == layer
    assert captured.activations[0].shape[2:] == (8, 12)
    assert captured.logits.shape == (2, 4, 64, 96)
    assert captured.gradients[0].abs().sum() > 0


DETECTION = {
    "faster r-cnn": (
        detection.fasterrcnn_mobilenet_v3_large_320_fpn,
        {"min_size": 64, "max_size": 96, "box_score_thresh": 0.0},
        "backbone.body.13",
        (2, 3),
    ),
    "retinanet": (
        detection.retinanet_resnet50_fpn,
        {"min_size": 64, "max_size": 96, "score_thresh": 0.0},
        "backbone.fpn.inner_blocks.2",
        (2, 3),
    ),
    "ssd": (detection.ssdlite320_mobilenet_v3_large, {"score_thresh": 0.0}, "backbone.features.0", (20, 20)),
}


@pytest.mark.parametrize(("build", "options", "layer", "grid"), DETECTION.values(), ids=DETECTION.keys())
def test_auto__on_detection_explains_a_box_of_the_raw_output(build, options, layer, grid):
    net = build(weights=None, weights_backbone=None, num_classes=4, **options).eval()
    images = [torch.rand(3, 64, 96), torch.rand(3, 64, 96)]
    with torch.no_grad():
        boxes = torch.stack([found["boxes"][0] for found in net(images)])
    captured = capture(net, images, "auto", detection_box(boxes))
    assert captured.layers[0].name == layer, captured.layers[0].reason
    assert captured.activations[0].shape[2:] == grid
    assert (captured.gradients[0] != 0).flatten(1).any(dim=1).all()
    assert pytree.tree_all_only(torch.Tensor, lambda t: not t.requires_grad, captured.logits)
    explanation = explain(net, images, layers=captured.layers, target=detection_box(boxes))
    assert explanation.heatmaps["grad_cam"].shape == (2, *grid)
    assert explanation.resized("grad_cam").shape == (2, 64, 96)


def test_auto__on_a_regression_of_two_inputs(make_net):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.body, self.head = nn.Embedding(9, 4), make_net(4), nn.Linear(8, 1)

        def forward(self, question, image):
            return self.head(torch.cat([self.words(question).mean(1), self.body(image)], dim=1))

    inputs = {"question": torch.randint(9, (2, 5)), "image": torch.rand(2, 3, 9, 9)}
    captured = capture(Two().requires_grad_(False), inputs, "auto", regression_output())
    assert captured.layers[0].name == "body.3"
    assert captured.gradients[0].shape == (2, 8, 4, 4)
