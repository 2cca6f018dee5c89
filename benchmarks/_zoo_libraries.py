"""Networks of further libraries for the zoo, as small as their constructors allow, with weights at random.

What answers for every pixel is asked for the mean of its answers over the picture.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from _zoo_networks import Specimen, images
from torch import Tensor, nn


class MeanOfPixels(nn.Module):
    """The answers of a segmentation network, averaged over the picture."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(B, C)`."""
        logits: Tensor = self.net(x)
        return logits.flatten(2).mean(dim=2)


def segmentation_models_specimens() -> Iterator[Specimen]:
    """Every decoder of segmentation-models-pytorch on the smallest encoder."""
    import segmentation_models_pytorch as smp

    names = ("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3", "DeepLabV3Plus")
    for name in (*names, "UPerNet", "Segformer"):
        build = partial(getattr(smp, name), encoder_name="resnet18", encoder_weights=None, classes=7)
        for size in ((96, 96), (96, 160)):
            yield Specimen("smp", name, name, partial(_mean, build), partial(images, (3, *size)))
    mit = partial(smp.Unet, encoder_name="mit_b0", encoder_weights=None, classes=7)
    yield Specimen("smp", "Unet", "Unet of mit_b0", partial(_mean, mit), partial(images, (3, 96, 96)))


def xrayvision_specimens() -> Iterator[Specimen]:
    """The classifier of torchxrayvision: one channel, from -1024 to 1024."""
    import torchxrayvision as xrv

    for size in ((96, 96), (96, 160)):
        yield Specimen("xrayvision", "DenseNet", "DenseNet", xrv.models.DenseNet, partial(images, (1, *size)))


def open_clip_specimens() -> Iterator[Specimen]:
    """The towers of images of open_clip, whose embedding is taken for logits."""
    from open_clip.model import ModifiedResNet, VisionTransformer

    vit = {"image_size": 64, "patch_size": 8, "width": 32, "layers": 2, "heads": 2, "mlp_ratio": 2.0, "output_dim": 7}
    kinds: dict[str, dict[str, Any]] = {
        "class token": {},
        "mean": {"pool_type": "avg"},
        "attention": {"attentional_pool": True, "attn_pooler_queries": 16, "attn_pooler_heads": 2},
        "attention in parallel": {"attentional_pool": "parallel", "attn_pooler_queries": 16, "attn_pooler_heads": 2},
        "no norm ahead": {"no_ln_pre": True, "final_ln_after_pool": True},
    }
    for name, options in kinds.items():
        build = partial(VisionTransformer, **vit, **options)
        yield Specimen("open_clip", "VisionTransformer", name, build, partial(images, (3, 64, 64)))
    wide = partial(VisionTransformer, **{**vit, "image_size": (64, 96)})
    yield Specimen("open_clip", "VisionTransformer", "class token", wide, partial(images, (3, 64, 96)))
    resnet = partial(ModifiedResNet, layers=(1, 1, 1, 1), output_dim=7, heads=4, image_size=96, width=8)
    yield Specimen("open_clip", "ModifiedResNet", "ModifiedResNet", resnet, partial(images, (3, 96, 96)))


def monai_specimens() -> Iterator[Specimen]:
    """MONAI's classifiers and segmentation networks, of pictures and of volumes."""
    from monai.networks import nets

    for axes, size in ((2, (96, 96)), (2, (96, 160)), (3, (64, 64, 64))):
        shape, space = (1, *size), tuple(range(2, 2 + axes))
        common = {"spatial_dims": axes, "in_channels": 1}
        resnet = {"block": "basic", "layers": [1, 1, 1, 1], "block_inplanes": [8, 16, 32, 64], "num_classes": 7}
        senet = {"block": "se_resnet_bottleneck", "layers": (1, 1, 1, 1), "groups": 1, "reduction": 16}
        unet = {"out_channels": 7, "channels": (8, 16, 32), "strides": (2, 2), "num_res_units": 1}
        swin = {"out_channels": 7, "feature_size": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 4)}
        vit = {"patch_size": 16, "hidden_size": 32, "mlp_dim": 48, "num_layers": 2, "num_heads": 2, "num_classes": 7}
        builds: dict[str, Callable[[], nn.Module]] = {
            "DenseNet": partial(
                nets.DenseNet, **common, out_channels=7, init_features=8, growth_rate=8, block_config=(2, 2)
            ),
            "EfficientNetBN": partial(nets.EfficientNetBN, "efficientnet-b0", False, num_classes=7, **common),
            "ResNet": partial(nets.ResNet, **resnet, spatial_dims=axes, n_input_channels=1),
            "SENet": partial(nets.SENet, **senet, **common, num_classes=7, dropout_prob=None),
            "ViT": partial(nets.ViT, 1, size, **vit, classification=True, spatial_dims=axes, post_activation=""),
            "UNet": partial(_mean, partial(nets.UNet, **common, **unet)),
            "SegResNet": partial(_mean, partial(nets.SegResNet, **common, init_filters=8, out_channels=7)),
            "AttentionUnet": partial(_mean, partial(nets.AttentionUnet, axes, 1, 7, (8, 16, 32), (2, 2))),
            "SwinUNETR": partial(_mean, partial(nets.SwinUNETR, 1, **swin, spatial_dims=axes)),
        }
        for name, build in builds.items():
            if name != "SwinUNETR" or size[-1] % 32 == 0:
                yield Specimen("monai", name, f"{name}, {axes}-D", build, partial(images, shape), space)


def _mean(build: Callable[[], nn.Module]) -> nn.Module:
    return MeanOfPixels(build())


LIBRARIES: dict[str, Callable[[], Iterator[Specimen]]] = {
    "segmentation_models_pytorch": segmentation_models_specimens,
    "torchxrayvision": xrayvision_specimens,
    "open_clip": open_clip_specimens,
    "monai": monai_specimens,
}
