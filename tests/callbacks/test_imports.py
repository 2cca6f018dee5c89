"""What `import camtrain.callbacks` brings along, and what joins it later: in processes that imported nothing else."""

import os
import subprocess
import sys

import pytest

from tests.layout import ROOT


def printed(script):
    """The words that a script prints."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error::ImportWarning", "-c", script],
        capture_output=True, text=True, check=True, cwd=ROOT, env=environment,
    )  # fmt: skip
    return done.stdout.split()


@pytest.fixture(scope="module")
def loaded():
    script = """
import sys
import pytorch_lightning
from camtrain.callbacks import ExplanationMonitor
print(*sys.modules)
callback = ExplanationMonitor()
import lightning
assert isinstance(callback, lightning.Callback) and isinstance(callback, pytorch_lightning.Callback)
print("joined")
"""
    return set(printed(script))


@pytest.mark.parametrize("module", ["wandb", "cv2", "pycocotools", "tensorboard", "lightning"])
def test_callbacks__import_what_not_every_run_needs_only_when_it_is_needed(loaded, module):
    assert "camtrain.callbacks.run_summary" in loaded
    assert module not in loaded


def test_callback__is_joined_by_a_package_that_is_imported_later(loaded):
    assert "joined" in loaded


def test_callback__asks_for_one_package_only():
    script = "import sys, lightning, camtrain.callbacks; print('pytorch_lightning' in sys.modules)"
    assert printed(script) == ["False"]
