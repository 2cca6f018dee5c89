"""See what a model looks at while it trains, catch it cheating, and teach it to look at the right thing."""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from camtrain.explanation import Explanation, explain

__all__ = ["Explanation", "__version__", "explain"]
__version__ = "0.1.0"

# In a checkout `callbacks/` and `losses/` are siblings of this folder, in a wheel they are its children.
_here = Path(__file__).resolve().parent
if not (_here / "callbacks").is_dir() and (_here.parent / "callbacks" / "__init__.py").is_file():
    __path__.append(str(_here.parent))


def __getattr__(name: str) -> Any:
    """What needs torch, once it is asked for: the command line answers `--help` without it."""
    if name in ("Explanation", "explain"):
        return getattr(importlib.import_module("camtrain.explanation"), name)
    if name in ("callbacks", "cam", "explanation", "losses", "metrics"):
        return importlib.import_module(f"camtrain.{name}")
    raise AttributeError(f"module 'camtrain' has no attribute {name!r}")
