"""Imports run one way: the engine knows torch alone, Lightning stays at the rim."""

import sys

import pytest

from tests.layout import ROOT, imports_of, module_files

TORCH = ("torch", "jaxtyping")
CORE = (*TORCH, "camtrain.errors", "camtrain.cam")
MIDDLE = ("metrics", "monitoring", "reliance", "render", "data", "records", "report", "sinks")
LIGHTNING = ("pytorch_lightning", "lightning", "lightning_fabric", "lightning_utilities")
MAY_USE_LIGHTNING = (
    "camtrain.packages",
    "camtrain.module",
    "camtrain.cli",
    "camtrain.data.modules",
    "camtrain.callbacks",
)

ONLY = {  # part of the library -> all that it may import beside itself and the standard library
    "camtrain.errors": (),
    "camtrain.cam": CORE,
    "camtrain.swaps": CORE,
    "camtrain.losses": (*CORE, "camtrain.swaps"),
    "camtrain.segmenters": (*CORE, "camtrain.swaps", "numpy", "cv2"),
    "camtrain.tasks": CORE,
    "camtrain.alignment": (
        *CORE,
        "camtrain.swaps",
        "camtrain.losses",
        "camtrain.segmenters",
        "camtrain.tasks",
        "camtrain.checks",
        "camtrain.packages",
        "camtrain.data.batches",
    ),
}
NEVER = {  # part of the library -> what it must not import
    **{
        f"camtrain.{name}": ("camtrain.callbacks", "camtrain.losses", "camtrain.module", "camtrain.cli")
        for name in MIDDLE
    },
    "camtrain.explanation": ("camtrain.callbacks", "camtrain.losses", "camtrain.module", "camtrain.cli"),
    "camtrain.networks": ("camtrain.callbacks", "camtrain.losses", "camtrain.module", "camtrain.cli"),
    "camtrain.module": ("camtrain.callbacks", "camtrain.losses", "camtrain.cli"),
    "camtrain.callbacks": ("camtrain.module", "camtrain.cli"),
}


def within(name, parts):
    return any(f"{name}.".startswith(f"{part}.") for part in parts)


def violations(module, imported):
    """What a module imports against the rules, as sentences."""
    found = []
    for name in sorted(set(imported)):
        for part, allowed in ONLY.items():
            own = within(name, (part, *allowed)) or name.partition(".")[0] in sys.stdlib_module_names
            if within(module, [part]) and not own:
                found.append(
                    f"{module} imports {name}; {part} may import only {', '.join(allowed) or 'the standard library'}"
                )
        for part, forbidden in NEVER.items():
            if within(module, [part]) and within(name, forbidden):
                found.append(f"{module} imports {name}, which lies further out")
        if within(name, LIGHTNING) and not within(module, MAY_USE_LIGHTNING):
            found.append(f"{module} imports {name}; Lightning is for {', '.join(MAY_USE_LIGHTNING)}")
        if within(name, ["callbacks", "losses"]):
            found.append(f"{module} imports {name}; the full name is camtrain.{name}")
        if name.startswith("."):
            found.append(f"{module} imports {name}; imports are absolute")
        if within(module, ["camtrain.callbacks"]) and _is_another_callback(module, name):
            found.append(f"{module} imports {name}; callbacks never import each other")
    return found


def _is_another_callback(module, name):
    """Modules with a leading underscore are shared parts; the package's own `__init__` collects the others."""
    if module == "camtrain.callbacks" or not within(name, ["camtrain.callbacks"]):
        return False
    return not name.removeprefix("camtrain.callbacks").startswith("._")


@pytest.mark.parametrize(("module", "path"), module_files().items(), ids=list(module_files()))
def test_imports__of_each_module_run_one_way(module, path):
    assert violations(module, imports_of(path.read_text())) == []


@pytest.mark.parametrize(
    "path", sorted([*ROOT.glob("*.py"), *ROOT.glob("tests/**/*.py"), *ROOT.glob("benchmarks/**/*.py")]), ids=str
)
def test_imports__of_scripts_and_tests_use_full_names(path):
    assert not [name for name in imports_of(path.read_text()) if within(name, ["callbacks", "losses"])]


@pytest.mark.parametrize(
    ("module", "line", "said"),
    [
        ("camtrain.cam.methods", "import numpy as np", "camtrain.cam may import only torch"),
        ("camtrain.cam.methods", "from camtrain.render import overlay", "camtrain.cam may import only torch"),
        ("camtrain.cam.methods", "import torchvision", "camtrain.cam may import only torch"),
        ("camtrain.losses.alignment", "from camtrain.metrics import inside_energy", "camtrain.losses may import only"),
        ("camtrain.losses.alignment", "from camtrain.callbacks import A", "camtrain.losses may import only"),
        ("camtrain.losses.alignment", "def f():\n    import pytorch_lightning", "camtrain.losses may import only"),
        ("camtrain.metrics.accuracy", "from camtrain.losses import AlignmentLoss", "lies further out"),
        ("camtrain.reliance.decide", "from camtrain import callbacks", "lies further out"),
        ("camtrain.sinks.files", "from pytorch_lightning import Trainer", "Lightning is for"),
        ("camtrain.data.scenes", "import lightning_fabric.utilities", "Lightning is for"),
        ("camtrain.explanation", "import lightning as L", "Lightning is for"),
        ("camtrain.callbacks.run_summary", "from camtrain.callbacks import Other", "never import each other"),
        ("camtrain.callbacks._lightning", "import camtrain.callbacks.run_summary", "never import each other"),
        ("camtrain.callbacks.run_summary", "from losses import AlignmentLoss", "the full name is camtrain.losses"),
        ("camtrain.callbacks", "from .run_summary import RunSummary", "imports are absolute"),
        ("camtrain.errors", "import torch", "only the standard library"),
    ],
)  # fmt: skip
def test_violations__names_a_broken_rule(module, line, said):
    assert said in "; ".join(violations(module, imports_of(line)))


@pytest.mark.parametrize(
    ("module", "line"),
    [
        (
            "camtrain.cam.capture",
            "import torch.nn.functional as F; from camtrain.cam.layers import Layer; import difflib",
        ),
        ("camtrain.swaps.twins", "from camtrain.swaps import composite; from camtrain.cam import pool_masks"),
        ("camtrain.metrics.accuracy", "from torchmetrics import Metric"),
        ("camtrain.data.modules", "import pytorch_lightning as pl"),
        (
            "camtrain.callbacks.run_summary",
            "from camtrain.callbacks._lightning import names_of; from camtrain.losses import A",
        ),
        ("camtrain.callbacks", "from camtrain.callbacks.run_summary import RunSummary"),
    ],
)
def test_violations__are_none_where_imports_run_inward(module, line):
    assert violations(module, imports_of(line)) == []
