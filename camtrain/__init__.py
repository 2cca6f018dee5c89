"""See what a model looks at while it trains, catch it cheating, and teach it to look at the right thing."""

from pathlib import Path

from camtrain.explanation import Explanation, explain

__all__ = ["Explanation", "__version__", "explain"]
__version__ = "0.1.0"

# In a checkout `callbacks/` and `losses/` are siblings of this folder, in a wheel they are its children.
_here = Path(__file__).resolve().parent
if not (_here / "callbacks").is_dir() and (_here.parent / "callbacks" / "__init__.py").is_file():
    __path__.append(str(_here.parent))
