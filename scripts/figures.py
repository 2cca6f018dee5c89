"""Count what a reader has to hold in the head: files, hops, attributes, single importers, lengths.

    .venv/bin/python scripts/figures.py [--rev REVISION ...] [--static]

For this checkout, and beside it for every revision that is named. Hops are counted by running: the files of camtrain in
which a line of code ran for one validation batch, one training batch, one detection round (`--static` leaves them out).
"""

import argparse
import ast
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PARTICIPLES = {
    "found",
    "known",
    "kept",
    "said",
    "told",
    "one",
    "given",
    "made",
    "taken",
    "chosen",
    "wanted",
    "held",
    "seen",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rev", nargs="*", default=[], help="revisions to count beside this checkout")
    parser.add_argument("--static", action="store_true", help="do not run anything")
    parser.add_argument("--walks", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.walks:
        print(json.dumps(walks()))
        return 0
    columns = {}
    for revision in options.rev:
        with worktree(revision) as build:
            columns[revision] = figures(build, static=options.static)
    columns["here"] = figures(ROOT, static=options.static)
    width = max(len(name) for column in columns.values() for name in column)
    print(" " * width, *(f"{name:>12}" for name in columns))
    for name in columns["here"]:
        print(f"{name:{width}}", *(f"{column.get(name, '-'):>12}" for column in columns.values()))
    return 0


@contextmanager
def worktree(revision: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        build = Path(folder) / "camtrain"
        subprocess.run(
            ["git", "-C", str(ROOT), "worktree", "add", "--detach", str(build), revision],
            check=True,
            capture_output=True,
        )
        try:
            yield build
        finally:
            subprocess.run(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(build)], check=True)


def figures(root: Path, *, static: bool) -> dict[str, Any]:
    """What is counted, by name."""
    files = sources(root)
    trees = {name: ast.parse(path.read_text()) for name, path in files.items()}
    callbacks = [path for name, path in files.items() if name.startswith("camtrain.callbacks.")]
    functions = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    lengths = sorted(map(length, functions))
    users = importers(trees)
    single = [name for name, path in files.items() if path.name != "__init__.py" and len(users[name]) == 1]
    classes = [(name, node) for name, tree in trees.items() for node in tree.body if isinstance(node, ast.ClassDef)]
    names = Counter(node.name for _, node in classes if not node.name.startswith("_"))
    counted = {
        "files": len(files),
        "lines of source": sum(len(path.read_text().splitlines()) for path in files.values()),
        "files in callbacks/": len(callbacks),
        "  of them private": sum(path.name.startswith("_") for path in callbacks),
        "longest file in callbacks/": max(len(path.read_text().splitlines()) for path in callbacks),
        "most attributes of a class": max(len(attributes(node)) for _, node in classes),
        "single-importer modules": len(single),
        "  their lines": sum(len(files[name].read_text().splitlines()) for name in single),
        "type names that stand twice": sum(count > 1 for count in names.values()),
        "signatures with more than 8 parameters": sum(parameters(node) > 8 for node in functions),
        "longest import chain": longest_chain(trees),
        "median lines of a function": statistics.median(lengths),
        "90 % of functions have at most": lengths[int(0.9 * len(lengths))],
        "functions of more than 40 lines": sum(value > 40 for value in lengths),
        "participles among bound names, %": participles(trees),
    }
    return counted if static else counted | walked(root)


def participles(trees: dict[str, ast.Module]) -> float:
    """Percent of the bound names that say that something was found, kept or told, and not what it is."""
    nodes = (node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.Name))
    bound = [node.id for node in nodes if isinstance(node.ctx, ast.Store)]
    return round(100 * sum(name in PARTICIPLES for name in bound) / len(bound), 1)


def sources(root: Path) -> dict[str, Path]:
    """Every module by its full name."""
    folders = {
        "camtrain": root / "camtrain",
        "camtrain.callbacks": root / "callbacks",
        "camtrain.losses": root / "losses",
    }
    return {
        ".".join([package, *path.relative_to(folder).with_suffix("").parts]).removesuffix(".__init__"): path
        for package, folder in folders.items()
        for path in sorted(folder.rglob("*.py"))
    }


def length(node: ast.FunctionDef) -> int:
    """Lines without the docstring."""
    doc = ast.get_docstring(node, clean=False)
    return (node.end_lineno or node.lineno) - node.lineno + 1 - (doc.count("\n") + 1 if doc else 0)


def parameters(node: ast.FunctionDef) -> int:
    return len(
        [
            each
            for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
            if each.arg not in ("self", "cls")
        ]
    )


def attributes(node: ast.ClassDef) -> set[str]:
    """What is set on `self`, anywhere in the class."""
    stored = (each for each in ast.walk(node) if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store))
    return {each.attr for each in stored if isinstance(each.value, ast.Name) and each.value.id == "self"}


def imported(tree: ast.Module, known: set[str]) -> set[str]:
    """The modules of camtrain that a file imports, within functions too."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                names.add(full if full in known else node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names & known


def importers(trees: dict[str, ast.Module]) -> dict[str, set[str]]:
    """By module, the modules that import it; a package's own `__init__` does not count."""
    users = defaultdict(set)
    for name, tree in trees.items():
        for other in imported(tree, set(trees)):
            if other != name and not other.startswith(f"{name}."):
                users[other].add(name)
    return users


def longest_chain(trees: dict[str, ast.Module]) -> int:
    """Modules in the longest chain of imports at the top of files."""
    edges = {}
    for name, tree in trees.items():
        top = ast.Module([node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))], [])
        edges[name] = imported(top, set(trees)) - {name}
    on_the_way: set[str] = set()

    @cache
    def depth(name: str) -> int:
        if name in on_the_way:
            return 0
        on_the_way.add(name)
        best = 1 + max((depth(other) for other in edges[name]), default=0)
        on_the_way.discard(name)
        return best

    return max(map(depth, sorted(edges)))


def walked(root: Path) -> dict[str, Any]:
    """Files on the walks of a batch, in a process of this build."""
    environment = {**os.environ, "PYTHONPATH": str(root), "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", str(Path(__file__).resolve()), "--walks"]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def walks() -> dict[str, int]:
    """How many files of camtrain run: of an epoch without the callback, and beyond that with it."""
    import logging

    import pytorch_lightning as pl
    import torch

    import camtrain
    from camtrain.callbacks import AttentionAlignment, ExplanationMonitor, RelianceDetector

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    home = str(Path(camtrain.__file__).parent.parent)

    class Small(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            layers = torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1)
            self.net = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(4, 2))

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.net(batch[0])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    masks = torch.zeros(64, 16, 16)
    masks[:, 4:12, 4:12] = 1
    data = torch.utils.data.TensorDataset(torch.rand(64, 3, 16, 16), torch.arange(64) % 2, masks)
    loader = torch.utils.data.DataLoader(data, 16)
    counts = {}
    for name, callback in (
        ("files run by a monitored epoch", ExplanationMonitor()),
        ("files run by an aligned epoch", AttentionAlignment()),
        ("files run by a detection round", RelianceDetector(start_epoch=0)),
    ):
        files: set[str] = set()
        with tempfile.TemporaryDirectory() as folder:
            trainer = pl.Trainer(
                max_epochs=1, logger=False, callbacks=[callback], enable_progress_bar=False, accelerator="cpu",
                enable_model_summary=False, enable_checkpointing=False, default_root_dir=folder,
            )  # fmt: skip
            sys.setprofile(
                lambda frame, event, _, files=files: files.add(frame.f_code.co_filename) if event == "call" else None
            )
            try:
                trainer.fit(Small(), loader, loader)
            finally:
                sys.setprofile(None)
        counts[name] = sum(
            file.startswith(home) and "/site-packages/" not in file and file != __file__ for file in files
        )
    return counts


if __name__ == "__main__":
    sys.exit(main())
