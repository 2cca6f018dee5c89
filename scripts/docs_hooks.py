"""MkDocs: `callbacks/` and `losses/` lie at the root, and the API pages find them as parts of `camtrain`."""

import tempfile
from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = ("callbacks", "losses")

_folder = tempfile.TemporaryDirectory()


@event_priority(100)  # before the reader looks
def on_config(config: Any) -> Any:
    """Point the reader of docstrings at a package of links that is laid out as the wheel is."""
    package = Path(_folder.name) / "camtrain"
    package.mkdir(exist_ok=True)
    parts = [*(ROOT / "camtrain").iterdir(), *(ROOT / name for name in OUTSIDE)]
    for part in parts:
        link = package / part.name
        if part.name != "__pycache__" and not link.exists():
            link.symlink_to(part)
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [_folder.name]
    return config
