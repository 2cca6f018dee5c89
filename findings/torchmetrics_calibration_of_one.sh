#!/usr/bin/env bash
# torchmetrics 1.9.0 (https://pypi.org/project/torchmetrics/1.9.0): the expected calibration error puts confidences of
# exactly 1 into a bin of their own. With n_bins=10 there are eleven: torch.bucketize(..., right=True) sends 1.0 past the
# last edge, and the sums are as long as the edges. A softmax in float32 is exactly 1 for logits that lie 17 apart, so that
# sure networks are measured with one bin more, and the error is never smaller, often larger: here .075 for .025. The same
# answers at the largest float32 below 1 fall into the last bin. Prints both, and fails where that has changed.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check torchmetrics==1.9.0 torch==2.14.1 numpy==2.4.6
"$place/venv/bin/python" - <<'PYTHON'
import torch
from torchmetrics.functional.classification import binary_calibration_error

confidence = torch.tensor([0.95] * 50 + [1.0] * 50)
right = torch.tensor([1] * 95 + [0] * 5)  # one bin from 0.9 to 1: mean confidence 0.975, 95 % right
error = float(binary_calibration_error(confidence, right, n_bins=10, norm="l1"))
below = float(binary_calibration_error(confidence.clamp(max=1 - 2**-24), right, n_bins=10, norm="l1"))
print(f"confidences of 1: {error:.3f}; of the float below: {below:.3f}; by hand, in one bin: 0.025")
raise SystemExit(abs(error - 0.075) > 1e-3 or abs(below - 0.025) > 1e-3)
PYTHON
