"""Networks by name, their weights, and two small ones for machines without a GPU."""

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from jaxtyping import Float
from torch import Tensor, nn

from camtrain.errors import ConfigurationError

Images = Float[Tensor, "B C H W"]
Logits = Float[Tensor, "B K"]

_WITH_AUXILIARY_HEADS = ("googlenet", "inception_v3")


class DecoyNet(nn.Sequential):
    """The network of the decoy benchmarks: conv 20@5x5, pool, conv 50@5x5, pool, fc 256, fc 10.

    Takes 28x28 images; the last map, after the second convolution's ReLU, is 8x8.

    >>> DecoyNet()(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__(
            nn.Conv2d(in_channels, 20, kernel_size=5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(20, 50, kernel_size=5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(50 * 4 * 4, 256),
            nn.ReLU(),
            nn.Linear(256, num_classes),
        )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm beside a shortcut, as in ResNet (He 2016).

    >>> ResidualBlock(8, 16, stride=2)(torch.zeros(1, 8, 6, 6)).shape
    torch.Size([1, 16, 3, 3])
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(out_channels))

    def forward(self, maps: Float[Tensor, "B K H W"]) -> Float[Tensor, "B L h w"]:
        """Maps in, maps out; `stride` divides their size."""
        return torch.relu(self.body(maps) + self.shortcut(maps))


class SmallResNet(nn.Module):
    """A residual network that trains on two CPU cores: a map of an eighth of the image, then a linear head.

    96-pixel images give a last map (`blocks`) of 12x12 with `4 * width` channels.

    >>> SmallResNet(num_classes=2)(torch.zeros(1, 3, 96, 96)).shape
    torch.Size([1, 2])
    """

    def __init__(self, num_classes: int, in_channels: int = 3, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.blocks = nn.Sequential(
            ResidualBlock(width, 2 * width, stride=2),
            ResidualBlock(2 * width, 4 * width, stride=2),
            ResidualBlock(4 * width, 4 * width),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(4 * width, num_classes)

    def forward(self, images: Images) -> Logits:
        """Logits of images of any size from 8x8."""
        logits: Tensor = self.head(self.pool(self.blocks(self.stem(images))).flatten(1))
        return logits


@dataclass(frozen=True)
class Loaded:
    """What `load_weights` did: how many tensors it loaded, and the names of those it could not."""

    loaded: int
    missing: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()

    def __str__(self) -> str:
        said = [f"loaded {self.loaded} tensors"]
        for reason in ("missing", "mismatched", "unexpected"):
            names: tuple[str, ...] = getattr(self, reason)
            if names:
                shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
                said.append(f"{len(names)} {reason} ({shown})")
        return "; ".join(said)


def build_network(model: str | nn.Module, num_classes: int, **options: Any) -> nn.Module:
    """A network with `num_classes` logits and no weights loaded.

    Args:
        model: a name in `torchvision.models`; a dotted path to a class or function that is called with
            `num_classes=...`; or a network, returned as it is.
        num_classes: how many logits.
        options: passed on to what builds the network (`width=24`, `dropout=0.1`).

    Raises:
        ConfigurationError: for a name that is not known, naming the closest, or options that are refused.

    >>> build_network("resnet18", num_classes=3).fc
    Linear(in_features=512, out_features=3, bias=True)
    >>> type(build_network("camtrain.networks.DecoyNet", num_classes=4)).__name__
    'DecoyNet'
    """
    if isinstance(model, nn.Module):
        return model
    if "." in model:
        return _called(_imported(model), model, {"num_classes": num_classes, **options})
    known = torchvision.models.list_models(module=torchvision.models)
    if model.lower() not in known:
        closest = ", ".join(map(repr, difflib.get_close_matches(model.lower(), known, n=3))) or "none"
        raise ConfigurationError(
            f"No network named {model!r} in torchvision.models; closest: {closest}. "
            "A network of your own is given by its import path, as 'package.module.Class'."
        )
    if model.lower() in _WITH_AUXILIARY_HEADS:
        options = {"aux_logits": False, "init_weights": True, **options}
    builder = torchvision.models.get_model_builder(model)
    return _called(builder, f"torchvision.models.{model.lower()}", {"num_classes": num_classes, **options})


def load_weights(network: nn.Module, weights: str, model: str | None = None) -> Loaded:
    """Load what fits of a set of weights into a network, in place.

    Args:
        network: takes every tensor of the same name and shape; a head for another number of classes stays new.
        weights: a file of a state dict or a Lightning checkpoint, or the name of torchvision weights for `model`
            ("DEFAULT", "IMAGENET1K_V1"), which may be downloaded.
        model: the network's name in torchvision, where `weights` is a name.

    Raises:
        ConfigurationError: for a file that does not exist, a name that is not known, or weights of which
            nothing fits.
    """
    return _load_matching(network, _read_state(weights, model), weights)


def read_stored(path: Path) -> Mapping[str, Any]:
    """What a file of weights holds: a state dict, or a checkpoint with one; ConfigurationError for anything else."""
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch.load raises what the bytes lead it to
        raise ConfigurationError(
            f"{path} cannot be read as weights ({type(error).__name__}): give a file that torch.save wrote of "
            "model.state_dict(), or a Lightning checkpoint."
        ) from error
    if not isinstance(stored, Mapping):
        raise ConfigurationError(
            f"{path} holds a {type(stored).__name__}, not weights: save model.state_dict(), or give a checkpoint."
        )
    return stored


def _imported(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"Cannot import a network from {path!r}: {error}.") from error


def _called(builder: Any, path: str, options: dict[str, Any]) -> nn.Module:
    try:
        network = builder(**options)
    except TypeError as error:
        given = ", ".join(f"{name}={value!r}" for name, value in options.items())
        raise ConfigurationError(f"{path} is called with {given} and refused it: {error}.") from error
    if not isinstance(network, nn.Module):
        raise ConfigurationError(f"{path} must build a torch.nn.Module; it built {type(network).__name__}.")
    return network


def _read_state(weights: str, model: str | None) -> Mapping[str, Tensor]:
    path = Path(weights)
    if path.is_file():
        stored = read_stored(path)
        return _without_prefix(stored.get("state_dict", stored))
    if path.suffix or "/" in weights:
        raise ConfigurationError(f"No weights file {weights}; it was looked for at {path.resolve()}.")
    if model is None:
        raise ConfigurationError(f"Weights {weights!r} are a name, which needs a torchvision model's name too.")
    if model.lower() not in torchvision.models.list_models():
        raise ConfigurationError(f"There are no torchvision weights for {model}: {weights!r} must be a file.")
    choices = torchvision.models.get_model_weights(model)
    if weights not in choices.__members__:
        known = ", ".join(choices.__members__)
        raise ConfigurationError(f"No weights {weights!r} for {model}; there are {known}, or give a file.")
    state: Mapping[str, Tensor] = choices[weights].get_state_dict(progress=False, check_hash=True)
    return state


def _without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names as the network knows them: a LightningModule stores its network under an attribute's name."""
    prefixes = {name.split(".", 1)[0] for name in state}
    inside = prefixes & {"network", "model", "module"}
    if prefixes - inside or len(inside) != 1:
        return dict(state)
    return {name.split(".", 1)[1]: tensor for name, tensor in state.items()}


def _load_matching(network: nn.Module, state: Mapping[str, Tensor], source: str) -> Loaded:
    own = network.state_dict()
    fitting = {name: tensor for name, tensor in state.items() if name in own and own[name].shape == tensor.shape}
    if not fitting:
        raise ConfigurationError(
            f"Nothing in {source} fits {type(network).__name__}: it holds {_some(state)}, the network has {_some(own)}."
        )
    network.load_state_dict(fitting, strict=False)
    return Loaded(
        loaded=len(fitting),
        missing=tuple(name for name in own if name not in state),
        mismatched=tuple(name for name in state if name in own and name not in fitting),
        unexpected=tuple(name for name in state if name not in own),
    )


def _some(names: Mapping[str, Tensor]) -> str:
    return ", ".join(list(names)[:3]) + (", ..." if len(names) > 3 else "")
