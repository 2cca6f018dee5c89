"""What `import camtrain.callbacks` brings along."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def loaded():
    script = "import sys, camtrain.callbacks; print(*sys.modules)"
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error::ImportWarning", "-c", script],
        capture_output=True, text=True, check=True, cwd=ROOT, env=environment,
    )  # fmt: skip
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["wandb", "cv2", "pycocotools", "tensorboard"])
def test_callbacks__import_what_not_every_run_needs_only_when_it_is_needed(loaded, module):
    assert "camtrain.callbacks.run_summary" in loaded
    assert module not in loaded
