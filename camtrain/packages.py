"""Lightning comes as two packages with classes of their own, `pytorch_lightning` and `lightning.pytorch`: both count.

Only what is imported already is used, or else the first one installed: importing the second one turns the messages of
the first to another logger. A package that is imported later is joined when that happens.
"""

import sys
from contextlib import suppress
from importlib import import_module
from typing import Any

from torch import nn

NAMES = ("pytorch_lightning", "lightning.pytorch")
_PLACES = {"Callback": "callbacks.callback", "LightningModule": "core.module", "LightningDataModule": "core.datamodule"}
_joined: list[tuple[type, str]] = []


def bases(name: str) -> tuple[type, ...]:
    """The `Callback`, `LightningModule` or `LightningDataModule` of each package that is imported.

    >>> [base.__name__ for base in bases("Callback")][:1]
    ['Callback']
    """
    modules = (sys.modules.get(f"{package}.{_PLACES[name]}") for package in NAMES)
    return tuple(getattr(module, name) for module in modules if hasattr(module, name))


def joined(name: str) -> Any:
    """A class that derives from that of each package, of one imported later too, so that every Trainer takes it.

    >>> issubclass(joined("Callback"), bases("Callback"))
    True
    """
    if not bases(name):
        _import_one()
    joint = type(name, bases(name), {"__module__": __name__, "__doc__": f"The {name} of each Lightning."})
    _joined.append((joint, name))
    return joint


def is_a(thing: object, *names: str) -> bool:
    """Whether it is of a class so named, of one of the packages: `is_a(logger, "WandbLogger")`."""
    return any(kind.__name__ in names and _package(kind) is not None for kind in type(thing).__mro__)


def part_of(thing: object, path: str) -> Any:
    """What lies at a path of the package that an object is of: `part_of(trainer, "utilities.seed.isolate_rng")`."""
    package = next((name for kind in type(thing).__mro__ if (name := _package(kind))), NAMES[0])
    module, _, name = path.rpartition(".")
    return getattr(import_module(f"{package}.{module}"), name)


def overrides(thing: object, method: str) -> bool:
    """Whether a module or data module has a method of its own, not that of its Lightning base class.

    >>> overrides(nn.Identity(), "forward"), overrides(nn.ModuleList(), "forward")
    (True, False)
    """
    own = getattr(type(thing), method, None)
    inherited = (*bases("LightningModule"), *bases("LightningDataModule"), nn.Module)
    return method in vars(thing) or (own is not None and all(own is not getattr(b, method, None) for b in inherited))


def packages_of(kind: object) -> set[str]:
    """The packages that a class derives from; none for what is no class or of neither.

    >>> packages_of(nn.Identity)
    set()
    """
    mro = kind.__mro__ if isinstance(kind, type) else ()
    return {name for parent in mro if (name := _package(parent))}


def _package(kind: type) -> str | None:
    return next((name for name in NAMES if f"{kind.__module__}.".startswith(f"{name}.")), None)


def _import_one() -> None:
    for name in NAMES:
        with suppress(ModuleNotFoundError):
            import_module(name)
            return
    raise ModuleNotFoundError(f"camtrain needs one of {' and '.join(NAMES)}; none is installed.")


class _Join:
    """Sees every import, and joins the classes of a package as soon as they are there."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        for joint, base in _joined:
            new = [kind for kind in bases(base) if kind not in joint.__mro__]
            if new:
                joint.__bases__ = (*joint.__bases__, *new)


sys.meta_path.insert(0, _Join)
