#!/usr/bin/env bash
# transformers' CvT gives every layer of a stage the same rate of stochastic depth, whatever the schedule says.
#
# CvtStage makes a schedule, torch.linspace(0, drop_path_rate[stage], depth[stage]), one rate for each layer, and then
# reads drop_path_rates[stage]: the number of the stage in place of that of the layer. With the default depths (1, 2, 10)
# and drop_path_rate[2] = 0.1 all ten layers of the last stage have 0.0222, the third entry, and none has 0.1: less
# than half of what the schedule has on average (0.05), in training, in silence.
# transformers 5.24.0, torch 2.14.1; transformers/models/cvt/modeling_cvt.py, CvtStage.__init__
# (https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/models/cvt/modeling_cvt.py).
# Prints the rates of every layer; exits with 1 if they rise within the last stage.
set -euo pipefail
work="$(mktemp -d)"; trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "torch==2.14.1" "transformers==5.24.0"
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys

import torch
from transformers import CvtConfig, CvtForImageClassification

config = CvtConfig(drop_path_rate=[0.0, 0.0, 0.1])
net = CvtForImageClassification(config)
rates = [[round(getattr(layer.drop_path, "drop_prob", 0.0), 4) for layer in stage.layers] for stage in net.cvt.encoder.stages]
asked = [round(rate, 4) for rate in torch.linspace(0, 0.1, config.depth[2]).tolist()]
print("depths:", config.depth, " drop_path_rate:", config.drop_path_rate)
print("the schedule of the last stage:", asked)
print("the rates of its layers:       ", rates[2])
sys.exit(0 if len(set(rates[2])) == 1 and rates[2] != asked else 1)
PYTHON
