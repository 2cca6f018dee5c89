"""The command line: `fit`, `validate` and `test` of any LightningModule on any data, and what came of it afterwards."""

from typing import TYPE_CHECKING, Any

from camtrain.cli.entry import main

if TYPE_CHECKING:
    from camtrain.cli.lightning import CommandLine, SaveConfig

__all__ = ["CommandLine", "SaveConfig", "main"]


def __getattr__(name: str) -> Any:
    """Lightning's part, once it is asked for: --help answers without it."""
    if name not in ("CommandLine", "SaveConfig"):
        raise AttributeError(f"module 'camtrain.cli' has no attribute {name!r}")
    from camtrain.cli import lightning

    return getattr(lightning, name)
