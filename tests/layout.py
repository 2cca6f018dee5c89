"""What there is in the packages, read from pyproject.toml and the files."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def package_folders() -> dict[str, Path]:
    """Each distributed package's folder in the checkout."""
    setuptools = project()["tool"]["setuptools"]
    return {name: ROOT / _folder(name, setuptools["package-dir"]) for name in setuptools["packages"]}


def _folder(package: str, mapped: dict[str, str]) -> str:
    nearest = max((name for name in mapped if f"{package}.".startswith(f"{name}.")), key=len)
    return mapped[nearest] + package.removeprefix(nearest).replace(".", "/")


def module_files() -> dict[str, Path]:
    """Every module of the packages by its full name; a package is named by its `__init__`."""
    return {
        package if path.stem == "__init__" else f"{package}.{path.stem}": path
        for package, folder in package_folders().items()
        for path in sorted(folder.glob("*.py"))
    }


def imports_of(source: str) -> Iterator[str]:
    """Absolute names that a source file imports, inside functions and `TYPE_CHECKING` too.

    >>> sorted(imports_of("import torch.nn as nn; from camtrain import cam; from camtrain.cam import capture"))
    ['camtrain.cam', 'camtrain.cam', 'torch.nn']
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from (f"{base}.{alias.name}" for alias in node.names) if base == "camtrain" else [base]
