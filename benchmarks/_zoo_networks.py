"""The networks of the zoo: timm's modules, transformers' classifiers of images and videos with tiny configurations."""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

QUICK = (
    "test_vit",
    "test_vit2",
    "test_convnext",
    "test_byobnet",
    "test_efficientnet",
    "test_resnet",
    "test_nfnet",
    "test_mambaout",
    "levit_128s",
    "levit_conv_128s",
    "efficientvit_m0",
    "efficientvit_b0",
    "tiny_vit_5m_224",
    "swin_s3_tiny_224",
    "swinv2_cr_tiny_ns_224",
    "mobilevit_xxs",
    "cait_xxs24_224",
    "convit_tiny",
    "crossvit_9_240",
    "pit_ti_224",
    "gmixer_12_224",
    "tnt_s_patch16_224",
    "xcit_nano_12_p16_224",
    "test_vit_relpos",
    "mobilenetv3_small_050",
    "sequencer2d_s",
    "starnet_s1",
)
SMALLEST = {  # of the modules whose smallest network is not the first by name
    "beit": "beitv2_base_patch16_224",
    "byoanet": "lambda_resnet26t",
    "cait": "cait_xxs24_224",
    "coat": "coat_lite_tiny",
    "convit": "convit_tiny",
    "convnext": "test_convnext",
    "crossvit": "crossvit_9_240",
    "davit": "davit_tiny",
    "deepseek_vit": "deepseek_vit_412m",
    "deit": "deit_tiny_distilled_patch16_224",
    "edgenext": "edgenext_xx_small",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "test_efficientnet",
    "eva": "eva02_tiny_patch14_224",
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf",
    "gcvit": "gcvit_xxtiny",
    "gemma4_vit": "gemma4_vit_167m",
    "hgnet": "hgnetv2_b0",
    "hiera": "hiera_tiny_224",
    "hieradet_sam2": "sam2_hiera_tiny",
    "hrnet": "hrnet_w18_small",
    "iformer": "iformer_t",
    "inception_next": "inception_next_atto",
    "lcnetv2": "lcnetv2_small",
    "levit": "levit_128s",
    "mambaout": "test_mambaout",
    "maxxvit": "coatnet_pico_rw_224",
    "metaformer": "poolformer_s12",
    "mlp_mixer": "gmixer_12_224",
    "mobilenetv3": "mobilenetv3_small_050",
    "mobilenetv5": "mobilenetv5_base",
    "mobilevit": "mobilevit_xxs",
    "mvitv2": "mvitv2_tiny",
    "nest": "nest_tiny",
    "nextvit": "nextvit_small",
    "nfnet": "test_nfnet",
    "pit": "pit_ti_224",
    "qwen3_vit": "qwen3_vit_88m",
    "rdnet": "rdnet_tiny",
    "regnet": "regnetx_002",
    "res2net": "res2net50_48w_2s",
    "resnet": "test_resnet",
    "resnetv2": "resnetv2_18",
    "senet": "legacy_seresnet18",
    "sequencer": "sequencer2d_s",
    "sknet": "skresnet18",
    "swiftformer": "swiftformer_xs",
    "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window8_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_ns_224",
    "tnt": "tnt_s_patch16_224",
    "tresnet": "tresnet_m",
    "twins": "twins_pcpvt_small",
    "visformer": "visformer_tiny",
    "vision_transformer": "test_vit",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "test_vit_relpos",
    "vision_transformer_sam": "samvit_base_patch16_224",
    "vitamin": "vitamin_small_224",
    "vovnet": "ese_vovnet19b_slim_dw",
    "xcit": "xcit_nano_12_p16_224",
    "byobnet": "test_byobnet",
    "regnety": "regnety_002",
    "vgg": "vgg11",
}
ALSO = (
    "levit_conv_128s",
    "test_vit2",
    "test_vit3",
    "mixer_s32_224",
    "resmlp_12_224",
    "gmlp_ti16_224",
    "vit_tiny_patch16_224",
)
LARGE = {"deepseek_vit", "gemma4_vit", "mobilenetv5", "nasnet", "pnasnet", "samvit_base_patch16"}


@dataclass(frozen=True)
class Specimen:
    """A network to build, its inputs by their number, and which axes of the images are space (and time)."""

    library: str
    family: str
    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int], Any]
    space: tuple[int, ...] = (2, 3)

    @property
    def size(self) -> tuple[int, ...]:
        """The size of the images, without batch and channels."""
        shape = self.inputs(1).shape
        return tuple(shape[axis] for axis in self.space)

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Library, family, name and size: what it is known by."""
        return self.library, self.family, self.name, "x".join(map(str, self.size))


def images(shape: tuple[int, ...], count: int) -> Tensor:
    """Smooth random images, the same ones each time."""
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, *shape, generator=generator)


def timm_specimens(*, quick: bool, more: int = 1) -> Iterator[Specimen]:
    """The smallest network of every module of timm, square and rectangular where it takes such images."""
    import timm

    if quick:
        names = {name: name for name in QUICK if timm.is_model(name)}
    else:
        known = set(timm.list_models())
        modules = [module for module in timm.list_modules() if module not in LARGE and timm.list_models(module=module)]
        chosen = [SMALLEST.get(module, timm.list_models(module=module)[0]) for module in modules]
        chosen = [n if n in known else timm.list_models(module=m)[0] for m, n in zip(modules, chosen, strict=True)]
        others = [name for module in modules for name in timm.list_models(module=module)[: more - 1]]
        names = {name: name for name in [*chosen, *ALSO, *others] if name in known}
    for name in names:
        yield from _timm_sizes(name)


def _timm_sizes(name: str) -> Iterator[Specimen]:
    import timm

    config = timm.get_pretrained_cfg(name)
    family = timm.models.get_arch_name(name) if config is None else config.architecture or name
    family = timm.models._registry._model_to_module.get(name, family)
    channels, rows, columns = config.input_size if config is not None else (3, 224, 224)
    fixed = bool(config is not None and config.fixed_input_size)
    small = (rows, columns) if fixed else (96, 96) if rows < 260 else (128, 128)
    wide = (rows, columns * 3 // 2 // 32 * 32) if fixed else (96, 160)
    for size, options in ((small, {}), (wide, {"img_size": wide} if fixed else {})):
        yield Specimen(
            "timm",
            family,
            name,
            partial(_timm, name, options),
            partial(images, (channels, *size)),
        )


def _timm(name: str, options: dict[str, Any]) -> nn.Module:
    import timm

    return timm.create_model(name, pretrained=False, num_classes=7, **options)


TINY: dict[str, dict[str, Any]] = {
    "beit": {"patch_size": 8},
    "bit": {"embedding_size": 16, "hidden_sizes": [16, 32, 32, 64], "depths": [1, 1, 1, 1], "num_groups": 4},
    "convnext": {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1]},
    "convnextv2": {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1]},
    "cvt": {"embed_dim": [16, 24, 32], "depth": [1, 2, 3], "num_heads": [1, 2, 2]},
    "data2vec-vision": {"patch_size": 8},
    "deit": {"patch_size": 8},
    "dinov2": {"patch_size": 8},
    "dinov2_with_registers": {"patch_size": 8},
    "donut-swin": {"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 4], "window_size": 4},
    "efficientnet": {"width_coefficient": 0.2, "depth_coefficient": 0.3, "hidden_dim": 256},
    "focalnet": {"embed_dim": 16, "depths": [1, 1, 1], "focal_levels": [2, 2, 2], "focal_windows": [3, 3, 3]},
    "hgnet_v2": {},
    "hiera": {
        "embed_dim": 16,
        "depths": [1, 1, 2],
        "num_heads": [1, 2, 4],
        "image_size": [64, 64],
        "query_stride": [2, 2],
        "num_query_pool": 2,
    },
    "ijepa": {"patch_size": 8},
    "imagegpt": {},
    "levit": {
        "hidden_sizes": [16, 32, 48],
        "num_attention_heads": [2, 3, 4],
        "depths": [1, 1, 1],
        "key_dim": [8, 8, 8],
    },
    "mobilenet_v1": {"depth_multiplier": 0.25},
    "mobilenet_v2": {"depth_multiplier": 0.25},
    "mobilevit": {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 64]},
    "mobilevitv2": {"width_multiplier": 0.25},
    "perceiver": {},
    "poolformer": {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1]},
    "pvt": {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2]},
    "pvt_v2": {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2]},
    "regnet": {"embedding_size": 8, "hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1], "groups_width": 4},
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1]},
    "segformer": {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2]},
    "swiftformer": {"embed_dims": [16, 24, 32, 48], "depths": [1, 1, 2, 1]},
    "swin": {"embed_dim": 16, "depths": [1, 1, 2], "num_heads": [1, 2, 2], "window_size": 4},
    "swinv2": {"embed_dim": 16, "depths": [1, 1, 2], "num_heads": [1, 2, 2], "window_size": 4},
    "textnet": {},
    "vit": {"patch_size": 8},
    "vit_msn": {"patch_size": 8},
}
COMMON = {
    "image_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "num_labels": 7,
}
VIDEO = {
    "timesformer": {"patch_size": 8, "num_frames": 4},
    "videomae": {"patch_size": 8, "num_frames": 4, "tubelet_size": 2},
    "vivit": {"tubelet_size": [2, 8, 8], "num_frames": 4},
}
PERCEIVERS = ("Learned", "Fourier", "ConvProcessing")


def transformers_specimens(*, quick: bool) -> Iterator[Specimen]:
    """Every type of image and video classification in transformers that a tiny configuration can be made of."""
    from transformers.models.auto import configuration_auto, modeling_auto

    classes = {**modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES}
    for kind, options in TINY.items():
        if kind not in classes or kind in ("perceiver", "imagegpt"):
            continue
        name = classes[kind] if isinstance(classes[kind], str) else classes[kind][0]
        config = configuration_auto.CONFIG_MAPPING_NAMES[kind]
        for size in ((128, 128), (128, 192)) if kind == "donut-swin" else ((64, 64), (64, 96)):
            if (size != (64, 64) and kind in ("hiera", "levit", "cvt")) or (
                quick and size[0] != size[1] and "swin" not in kind
            ):
                continue
            square = size[0] == size[1]
            shaped = {**COMMON, **options, "image_size": size[0] if square else list(size)}
            yield Specimen(
                "transformers", kind, name, partial(_transformers, name, config, shaped), partial(images, (3, *size))
            )
    for kind, options in VIDEO.items():
        name = modeling_auto.MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES[kind]
        config = configuration_auto.CONFIG_MAPPING_NAMES[kind]
        yield Specimen(
            "transformers",
            kind,
            name,
            partial(_transformers, name, config, {**COMMON, **options}),
            partial(images, (4, 3, 64, 64)),
            (1, 3, 4),
        )
    for variant in () if quick else PERCEIVERS:
        name = f"PerceiverForImageClassification{variant}"
        yield Specimen("transformers", "perceiver", name, partial(_perceiver, name), partial(images, (3, 224, 224)))


def _transformers(name: str, config: str, options: dict[str, Any]) -> nn.Module:
    import transformers

    configuration = getattr(transformers, config)()
    given = {
        key: value
        for key, value in options.items()
        if key not in configuration.attribute_map
        and (
            key == "num_labels"
            or not isinstance(getattr(configuration, key, None), (list, tuple))
            or isinstance(value, list)
        )
        and (key == "num_labels" or hasattr(configuration, key))
    }
    return getattr(transformers, name)(getattr(transformers, config)(**given))


def _perceiver(name: str) -> nn.Module:
    import transformers

    config = transformers.PerceiverConfig(
        num_latents=16, d_latents=32, num_self_attends_per_block=1, num_self_attention_heads=2, num_labels=7
    )
    return getattr(transformers, name)(config)


def torchvision_specimens(*, quick: bool) -> Iterator[Specimen]:
    """Classifiers of torchvision, and its networks of videos."""
    from torchvision import models

    names = (
        ("resnet18", "swin_v2_t", "mobilenet_v3_small")
        if quick
        else (
            "alexnet",
            "vgg11_bn",
            "resnet18",
            "densenet121",
            "squeezenet1_1",
            "shufflenet_v2_x0_5",
            "mobilenet_v2",
            "mobilenet_v3_small",
            "mnasnet0_5",
            "efficientnet_b0",
            "regnet_x_400mf",
            "convnext_tiny",
            "swin_t",
            "swin_v2_t",
            "googlenet",
        )
    )
    for name in names:
        for size in ((96, 96), (96, 160)):
            yield Specimen("torchvision", name, name, partial(_torchvision, name), partial(images, (3, *size)))
    for name in () if quick else ("r3d_18", "mc3_18", "swin3d_t", "s3d"):
        builder = partial(getattr(models.video, name), num_classes=7)
        yield Specimen("torchvision", name, name, builder, partial(images, (3, 16, 64, 64)), (2, 3, 4))


def _torchvision(name: str) -> nn.Module:
    from torchvision import models

    options = {"init_weights": True} if name == "googlenet" else {}
    return models.get_model(name, num_classes=7, **options)


def specimens(*, quick: bool, more: int = 1) -> Iterator[Specimen]:
    """All of them, of the libraries that are installed."""
    for library, made in (
        ("torchvision", torchvision_specimens),
        ("timm", partial(timm_specimens, more=more)),
        ("transformers", transformers_specimens),
    ):
        if importlib.util.find_spec(library) is not None:
            yield from made(quick=quick)
