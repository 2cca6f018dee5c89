"""Things by their import path."""

import importlib
import sys
from pathlib import Path
from typing import Any

from camtrain.errors import ConfigurationError


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
        raise ConfigurationError(f"Cannot import {path!r}: {error}.") from error
