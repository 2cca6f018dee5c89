"""A model and its weights by name, for a model that was not trained with camtrain."""

import argparse
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from camtrain.commands.importing import imported
from camtrain.commands.words import positive, positive_number
from camtrain.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from camtrain.errors import ConfigurationError
from camtrain.networks import Loaded, build_network, load_weights, read_stored


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """What every command that runs a model asks for."""
    parser.add_argument(
        "--model", required=True,
        help="torchvision:resnet50, timm:NAME, or the import path of a LightningModule or network",
    )  # fmt: skip
    parser.add_argument("--weights", help="file of a state dict or Lightning checkpoint, or the name of torchvision's")
    parser.add_argument("--classes", type=Path, help="text file with the model's class names, one a line")
    parser.add_argument("--layers", default="auto", help="dotted name of the layer to explain (default: %(default)s)")
    parser.add_argument(
        "--methods", nargs="+", default=["grad_cam", "grad_cam_plus_plus"], help="functions in camtrain.cam"
    )
    parser.add_argument(
        "--size", type=positive, default=224, help="images are resized to this side (default: %(default)s)"
    )
    parser.add_argument("--mean", type=float, nargs=3, default=IMAGENET_MEAN, help="of the normalization")
    parser.add_argument("--std", type=positive_number, nargs=3, default=IMAGENET_STD, help="of the normalization")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: %(default)s)")


def class_names(path: Path | None) -> list[str] | None:
    """The lines of a file of class names; None without one."""
    if path is None:
        return None
    if not path.is_file():
        raise ConfigurationError(f"There is no file of class names {path}: give one name a line.")
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is no text file of class names: {error}. Give one name a line.") from error
    if not names:
        raise ConfigurationError(f"{path} holds no class names: give one a line.")
    return names


def load_model(spec: str, weights: str | None, classes: int | None) -> nn.Module:
    """The model in evaluation mode.

    Args:
        spec: `torchvision:NAME`, `timm:NAME`, or an import path. A LightningModule is loaded from its checkpoint.
        weights: a file, or the name of torchvision weights; None takes the network as it is built.
        classes: how many classes; None takes what the weights' last layer says.

    Raises:
        ConfigurationError: for a model or weights that do not exist or do not fit.

    >>> type(load_model("camtrain.networks.DecoyNet", None, 10)).__name__
    'DecoyNet'
    """
    source, _, name = spec.rpartition(":")
    if source not in ("", "torchvision", "timm"):
        raise ConfigurationError(f"Models come from 'torchvision:' or 'timm:', or by import path; got {spec!r}.")
    kind = imported(name) if not source else None
    if isinstance(kind, type) and issubclass(kind, pl.LightningModule):
        return _from_checkpoint(kind, weights)
    count = classes or _classes_in(weights) or 1000
    network = _timm(name, count) if source == "timm" else build_network(name, count)
    if weights is not None:
        _require_whole(load_weights(network, weights, name if source == "torchvision" else None), weights, count)
    return network.eval()


def model_names(network: nn.Module, file: Path | None) -> list[str] | None:
    """The names of a model's classes: those in the file, else those that a LightningModule holds."""
    held = getattr(network, "class_names", None)
    return class_names(file) or ([str(name) for name in held] if isinstance(held, (list, tuple)) and held else None)


def _require_whole(loaded: Loaded, weights: str, classes: int) -> None:
    """An error where the head stayed random, a warning where something else did."""
    if loaded.mismatched:
        raise ConfigurationError(
            f"{weights} does not fit a model of {classes} classes, whose head would stay random: {loaded}. Name every "
            "class of the weights, in order, with --classes FILE."
        )
    missing = [name for name in loaded.missing if not name.endswith("num_batches_tracked")]
    if missing:
        warnings.warn(f"{weights} lacks {len(missing)} tensors, which stay random: {missing[:4]}.", stacklevel=3)


def device_of(name: str) -> torch.device:
    """The device of that name; `auto` is a GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigurationError(f"No device is called {name!r}: auto, cpu, cuda or cuda:1.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigurationError(f"There is no device {name}; GPUs here: {torch.cuda.device_count()}. Try auto.")
    return device


def _from_checkpoint(kind: type[pl.LightningModule], weights: str | None) -> pl.LightningModule:
    if weights is None:
        raise ConfigurationError(f"{kind.__name__} is a LightningModule: give its checkpoint with --weights FILE.")
    if not Path(weights).is_file():
        raise ConfigurationError(f"No checkpoint {weights}; it was looked for at {Path(weights).resolve()}.")
    if "pytorch-lightning_version" not in read_stored(Path(weights)):
        raise ConfigurationError(f"{weights} is no checkpoint of Lightning, which {kind.__name__} is loaded from.")
    try:
        return kind.load_from_checkpoint(weights, map_location="cpu").eval()
    except (TypeError, RuntimeError, KeyError) as error:
        raise ConfigurationError(f"{kind.__name__} cannot be loaded from {weights}: {error}.") from error


def _timm(name: str, classes: int) -> nn.Module:
    timm: Any = imported("timm.create_model")
    try:
        network: nn.Module = timm(name, pretrained=False, num_classes=classes)
    except RuntimeError as error:
        raise ConfigurationError(f"timm has no model {name!r}: {error}.") from error
    return network


def _classes_in(weights: str | None) -> int | None:
    """The number of biases in the last layer of a file of weights."""
    if weights is None or not Path(weights).is_file():
        return None
    stored = read_stored(Path(weights))
    state = stored.get("state_dict", stored)
    sizes = [len(t) for key, t in state.items() if isinstance(t, Tensor) and t.ndim == 1 and key.endswith("bias")]
    return sizes[-1] if sizes else None
