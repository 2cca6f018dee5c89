"""A model and its weights by one grammar, the same in every command and in `ImageClassifier`.

`torchvision:resnet50`, `timm:NAME`, the import path of a network or of a LightningModule, or the checkpoint of one that
the command line trained. Nothing in here knows a Trainer.
"""

import difflib
import importlib
import logging
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
import torchvision
from torch import Tensor, nn

from camtrain.errors import ConfigurationError

_log = logging.getLogger("camtrain")

_WITH_AUXILIARY_HEADS = ("googlenet", "inception_v3")


@dataclass(frozen=True)
class Loaded:
    """What `load_weights` did: how many tensors it loaded, and the names of those it could not."""

    loaded: int
    missing: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"loaded {self.loaded} tensors"]
        for reason in ("missing", "mismatched", "unexpected"):
            names: tuple[str, ...] = getattr(self, reason)
            if names:
                shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
                parts.append(f"{len(names)} {reason} ({shown})")
        return "; ".join(parts)


def build_network(model: str | nn.Module, num_classes: int, **options: Any) -> nn.Module:
    """A network with `num_classes` logits and no weights loaded.

    Args:
        model: `torchvision:NAME` or the name alone; `timm:NAME`; a dotted path to a class or function that is called
            with `num_classes=...`; or a network, returned as it is.
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
    source, name = _parted(model)
    if source == "timm":
        return _timm(name, {"num_classes": num_classes, **options})
    if source == "torchvision" or "." not in name:
        return _torchvision(name, {"num_classes": num_classes, **options})
    return _called(imported(name), name, {"num_classes": num_classes, **options})


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


def load_model(spec: str, weights: str | None, classes: int | None) -> nn.Module:
    """The model in evaluation mode.

    Args:
        spec: `torchvision:NAME`, `timm:NAME`, an import path, or the file of a checkpoint that the command line wrote.
            A LightningModule is loaded from its checkpoint.
        weights: a file, or the name of torchvision weights; None takes the network as it is built.
        classes: how many classes; None takes what the weights' last layer says.

    Raises:
        ConfigurationError: for a model or weights that do not exist or do not fit.

    >>> type(load_model("camtrain.networks.DecoyNet", None, 10)).__name__
    'DecoyNet'
    """
    if weights is None and Path(spec).is_file():
        return _from_checkpoint(imported(_class_of(Path(spec))), spec)
    source, name = _parted(spec)
    kind = imported(name) if not source else None
    if _is_lightning_module(kind):
        return _from_checkpoint(kind, weights)
    count = classes or _classes_in(weights) or 1000
    network = build_network(spec, count)
    if weights is None and source:  # of a network of the user's own `explain` looks whether it was trained
        name_of_them = ", or --weights DEFAULT" * (source == "torchvision")
        _log.warning("%s has random weights: give those to look at with --weights FILE%s.", spec, name_of_them)
    if weights is not None:
        _require_whole(load_weights(network, weights, name if source == "torchvision" else None), weights, count)
    return network.eval()


def read_names(path: Path | None) -> list[str] | None:
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


def model_names(network: nn.Module, file: Path | None, weights: str | None = None) -> list[str] | None:
    """The names of a model's classes: those in the file, else what the network, its configuration or checkpoint holds.

    >>> network = nn.Linear(1, 2)
    >>> network.class_names = ["cat", "dog"]
    >>> model_names(network, None)
    ['cat', 'dog']
    """
    if file is not None:
        return read_names(file)
    held = getattr(network, "class_names", None)
    if isinstance(held, (list, tuple)) and held:
        return [str(name) for name in held]
    numbered = getattr(getattr(network, "config", None), "id2label", None)  # transformers
    if isinstance(numbered, Mapping) and numbered:
        return [str(numbered[index]) for index in sorted(numbered)]
    stored = read_stored(Path(weights)) if weights is not None and Path(weights).is_file() else {}
    held = stored.get("class_names") or stored.get("hyper_parameters", {}).get("class_names")
    return [str(name) for name in held] if isinstance(held, (list, tuple)) and held else None


def zoo_names(spec: str, count: int) -> list[str] | None:
    """The names of the classes that a zoo's own weights for this model tell apart, where they are as many.

    Whoever trained the model anew for as many other classes has to name those.

    >>> zoo_names("torchvision:resnet18", 1000)[285], zoo_names("torchvision:resnet18", 12)
    ('Egyptian cat', None)
    """
    source, name = _parted(spec) if ":" in spec else ("", spec)
    if source == "torchvision" and name.lower() in torchvision.models.list_models():
        for weights in torchvision.models.get_model_weights(name.lower()):
            categories = weights.meta.get("categories") or ()
            if len(categories) == count:
                return list(categories)
    if source == "timm":
        return _timm_names(name, count)
    return None


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


def imported(path: str) -> Any:
    """What lies at a dotted path; modules in the working folder are found too.

    >>> imported("camtrain.networks.DecoyNet").__name__
    'DecoyNet'
    """
    module, _, name = path.rpartition(".")
    if not module:
        raise ConfigurationError(
            f"{path!r} is no import path: 'package.module.Class', 'torchvision:{path}' or 'timm:{path}'."
        )
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"Cannot import a network from {path!r}: {error}.") from error


def read_stored(path: Path) -> Mapping[str, Any]:
    """What a file of weights holds: a state dict, or a checkpoint with one; ConfigurationError for anything else."""
    require_whole(path)
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


def require_whole(path: Path) -> None:
    """ConfigurationError for a checkpoint that was cut short, as by a crash while it was written; it offers another.

    That is the newest whole one of the same folder. What does not begin as `torch.save` does is left to who reads it.
    """
    if not path.is_file() or _is_whole(path):
        return
    others = [other for other in path.parent.glob(f"*{path.suffix}") if other != path and _is_whole(other)]
    before = max(others, key=lambda other: other.stat().st_mtime_ns, default=None)
    offer = f"go on with the one before it, {before}" if before else "no other whole one lies beside it"
    raise ConfigurationError(f"{path} is cut short at {path.stat().st_size} bytes and cannot be read: {offer}.")


def _is_whole(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(2)
    return is_zipfile(path) if start in (b"PK", b"P", b"") else True


def _parted(spec: str) -> tuple[str, str]:
    """Where a model comes from, and its name there."""
    source, _, name = spec.rpartition(":")
    if source not in ("", "torchvision", "timm"):
        raise ConfigurationError(f"Models come from 'torchvision:' or 'timm:', or by import path; got {spec!r}.")
    return source, name


def _torchvision(name: str, options: dict[str, Any]) -> nn.Module:
    names = torchvision.models.list_models(module=torchvision.models)
    if name.lower() not in names:
        closest = ", ".join(map(repr, difflib.get_close_matches(name.lower(), names, n=3))) or "none"
        raise ConfigurationError(
            f"No network named {name!r} in torchvision.models; closest: {closest}. "
            "A network of your own is given by its import path, as 'package.module.Class'."
        )
    if name.lower() in _WITH_AUXILIARY_HEADS:
        options = {"aux_logits": False, "init_weights": True, **options}
    return _called(torchvision.models.get_model_builder(name), f"torchvision.models.{name.lower()}", options)


def _timm(name: str, options: dict[str, Any]) -> nn.Module:
    create = imported("timm.create_model")
    try:
        network: nn.Module = create(name, pretrained=False, **options)
    except RuntimeError as error:
        raise ConfigurationError(f"timm has no model {name!r}: {error}.") from error
    return network


def _timm_names(name: str, count: int) -> list[str] | None:
    pretrained = imported("timm.get_pretrained_cfg")(name)
    data: Any = importlib.import_module("timm.data")
    subset = None if pretrained is None else data.infer_imagenet_subset(pretrained)
    if subset is None or pretrained.num_classes != count:
        return None
    return list(data.ImageNetInfo(subset).label_descriptions())


def _called(builder: Any, path: str, options: dict[str, Any]) -> nn.Module:
    try:
        network = builder(**options)
    except TypeError as error:
        given = ", ".join(f"{name}={value!r}" for name, value in options.items())
        raise ConfigurationError(f"{path} is called with {given} and refused it: {error}.") from error
    if not isinstance(network, nn.Module):
        raise ConfigurationError(f"{path} must build a torch.nn.Module; it built {type(network).__name__}.")
    return network


def _is_lightning_module(kind: Any) -> bool:
    """Whether it is a LightningModule of whichever of Lightning's two packages."""
    return isinstance(kind, type) and issubclass(kind, nn.Module) and hasattr(kind, "load_from_checkpoint")


def _from_checkpoint(kind: Any, weights: str | None) -> nn.Module:
    if weights is None:
        raise ConfigurationError(f"{kind.__name__} is a LightningModule: give its checkpoint with --weights FILE.")
    if not Path(weights).is_file():
        raise ConfigurationError(f"No checkpoint {weights}; it was looked for at {Path(weights).resolve()}.")
    if "pytorch-lightning_version" not in read_stored(Path(weights)):
        raise ConfigurationError(f"{weights} is no checkpoint of Lightning, which {kind.__name__} is loaded from.")
    try:
        module: nn.Module = kind.load_from_checkpoint(weights, map_location="cpu").eval()
    except (TypeError, RuntimeError, KeyError) as error:
        raise ConfigurationError(f"{kind.__name__} cannot be loaded from {weights}: {error}.") from error
    return module


def _class_of(checkpoint: Path) -> str:
    """The import path of the module that a checkpoint was written of, as Lightning's command line notes it."""
    path = read_stored(checkpoint).get("hyper_parameters", {}).get("_class_path")
    if not path:
        raise ConfigurationError(
            f"{checkpoint} does not say of which class it is: give --model package.module.Class --weights {checkpoint}."
        )
    return str(path)


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


def _classes_in(weights: str | None) -> int | None:
    """The number of biases in the last layer of a file of weights."""
    if weights is None or not Path(weights).is_file():
        return None
    stored = read_stored(Path(weights))
    state = stored.get("state_dict", stored)
    sizes = [len(t) for key, t in state.items() if isinstance(t, Tensor) and t.ndim == 1 and key.endswith("bias")]
    return sizes[-1] if sizes else None


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
        names = ", ".join(choices.__members__)
        raise ConfigurationError(f"No weights {weights!r} for {model}; there are {names}, or give a file.")
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
