"""What a network says of itself: its classes, how it wants its images, and whether it was ever trained.

Each library keeps these elsewhere: torchvision beside its weights, timm in `pretrained_cfg`, transformers in `config`.
"""

import difflib
import importlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from camtrain.cam import unwrap
from camtrain.errors import BatchError

Transform = Callable[[Any], Tensor]
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


def class_names(model: nn.Module) -> list[str] | None:
    """The names of a model's classes by index, where the model or its library knows them; else None.

    >>> net = nn.Linear(4, 2)
    >>> net.class_names = ["boat", "duck"]
    >>> class_names(net)
    ['boat', 'duck']
    """
    for module in _outer(model):
        held = getattr(module, "class_names", None)
        if isinstance(held, (list, tuple)) and held:
            return [str(name) for name in held]
        labels = getattr(getattr(module, "config", None), "id2label", None)
        if labels and not all(str(name).startswith("LABEL_") for name in labels.values()):
            return [str(labels[index]) for index in sorted(labels)]
        if _library_of(module) in ("timm", "torchvision") and _classes_of(module) == 1000:
            names: list[str] = importlib.import_module("torchvision.models._meta")._IMAGENET_CATEGORIES
            return names
    return None


def class_called(name: str, names: Sequence[str] | None) -> int:
    """The index of the class of that name: upper case, underscores and synonyms behind a comma do not matter.

    BatchError for a name that there is not, or twice, with what to give instead.

    >>> class_called("egyptian_cat", ["boat", "Egyptian cat"]), class_called("tabby", ["tabby, tabby cat"])
    (1, 0)
    """
    if names is None:
        raise BatchError(
            f"No class is called {name!r}: this network does not name its classes. Give the index, as target=285 or "
            "class_index(285), or names=[...]."
        )
    wanted = _plain(name)
    indices = [i for i, known in enumerate(names) if wanted == _plain(known)]
    indices = indices or [i for i, known in enumerate(names) if wanted in map(_plain, known.split(","))]
    if len(indices) == 1:
        return indices[0]
    if indices:
        raise BatchError(f"{len(indices)} classes are called {name!r}: give one of {indices}, as class_index(i).")
    closest = difflib.get_close_matches(wanted, {_plain(known): known for known in names}, n=3, cutoff=0.4)
    raise BatchError(
        f"No class is called {name!r}; closest of {len(names)}: {', '.join(map(repr, closest)) or 'none'}. Give one of "
        "the network's names, or the index, as class_index(i)."
    )


def preprocessing(model: nn.Module) -> Transform | None:
    """From a PIL image to what the model takes, `(C, H, W)`, as the model's library has it; None where nobody says.

    timm's data configuration, a transformers image processor, or the transforms of torchvision's weights for a network
    with as many parameters.
    """
    for module in _outer(model):
        if getattr(module, "pretrained_cfg", None) and _library_of(module) == "timm":
            data = importlib.import_module("timm.data")
            transform: Transform = data.create_transform(**data.resolve_data_config(model=module), is_training=False)
            return transform
        if hasattr(module, "config") and _library_of(module) == "transformers":
            return _processor_of(module)
        if _library_of(module) == "torchvision":
            return _torchvision_transform(module)
    return None


def is_untrained(model: nn.Module) -> bool:
    """Whether a network is as its constructor left it: it has no weights to explain.

    Told by what training always moves: norms with scales of 1, shifts of 0 and no statistics, biases of 0, weights
    within the bounds that they were drawn from. False where there is no telling.

    >>> is_untrained(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))
    True
    """
    norms = [module for module in model.modules() if isinstance(module, _NORMS) and module.weight is not None]
    if norms:
        return all(_is_new_norm(norm) for norm in norms)
    layers = [m for m in model.modules() if isinstance(m, (nn.modules.conv._ConvNd, nn.Linear))]
    layers = [layer for layer in layers if isinstance(layer.weight, Tensor) and layer.weight.numel() > 256]
    if not layers:
        return False
    biases = [layer.bias for layer in layers if layer.bias is not None]
    return (bool(biases) and not any(bias.any() for bias in biases)) or all(map(_is_drawn, layers))


def _is_new_norm(norm: Any) -> bool:
    bias = getattr(norm, "bias", None)
    mean = getattr(norm, "running_mean", None)
    scales = norm.weight.detach()
    alike = bool((scales == scales.flatten()[0]).all())
    return alike and (bias is None or not bias.any()) and (mean is None or not mean.any())


def _is_drawn(layer: Any) -> bool:
    """Whether all weights lie within the bounds that torch draws them from, and up to them."""
    weight = layer.weight.detach()
    bound = 1 / math.sqrt(weight[0].numel())
    return 0.95 * bound <= float(weight.abs().max()) <= 1.0001 * bound


def _outer(model: nn.Module) -> Iterator[nn.Module]:
    """The model, and the network that it wraps, if it wraps one."""
    yield (inner := unwrap(model))
    for name in ("network", "model", "net", "backbone"):
        if isinstance(inner._modules.get(name), nn.Module):
            yield inner._modules[name]  # type: ignore[misc]


def _library_of(module: nn.Module) -> str:
    return type(module).__module__.partition(".")[0]


def _classes_of(module: nn.Module) -> int | None:
    """How many classes the last layer with a weight has."""
    weights = [getattr(inner, "weight", None) for inner in module.modules()]
    heads = [len(weight) for weight in weights if isinstance(weight, Tensor) and weight.ndim in (2, 4)]
    return heads[-1] if heads else None


def _plain(name: str) -> str:
    return name.replace("_", " ").strip().lower()


def _processor_of(module: nn.Module) -> Transform | None:
    transformers = importlib.import_module("transformers")
    config: Any = module.config
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(config.name_or_path, local_files_only=True)
    except Exception:  # not on this machine: the type's own defaults, at the size of the configuration
        classes = importlib.import_module("transformers.models.auto.image_processing_auto").IMAGE_PROCESSOR_MAPPING
        kinds = [kind for kind in classes[type(config)] if kind is not None] if type(config) in classes else []
        if not kinds:
            return None
        processor = kinds[-1]()
    return lambda image: processor(image, return_tensors="pt")["pixel_values"][0]


def _torchvision_transform(module: nn.Module) -> Transform:
    """The transforms of the weights for a network with as many parameters, else those of ImageNet's networks."""
    models = importlib.import_module("torchvision.models")
    count = sum(parameter.numel() for parameter in module.parameters())
    for name in models.list_models(module=models):
        weights = models.get_model_weights(name).DEFAULT
        if weights.meta["num_params"] == count:
            transform: Transform = weights.transforms()
            return transform
    presets = importlib.import_module("torchvision.transforms._presets")
    return presets.ImageClassification(crop_size=224, **IMAGENET)  # type: ignore[no-any-return]
