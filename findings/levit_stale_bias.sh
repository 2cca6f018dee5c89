#!/usr/bin/env bash
# timm's LeViT answers with the attention biases of its former weights.
#
# In evaluation mode `levit_128s` keeps each attention bias in a cache, which train(True) alone empties. After one forward
# pass, load_state_dict(...) in evaluation mode changes the parameters but not the cache: the network's logits are those
# of neither set of weights, without an error or a warning. net.train().eval() mends it. The same holds for an exponential
# average that is copied into a network in evaluation mode.
# timm 1.0.31, torch 2.14.1; timm/models/levit.py, Attention.get_attention_biases and Attention.train
# (https://github.com/huggingface/pytorch-image-models/blob/v1.0.31/timm/models/levit.py).
# Prints the differences of the logits; exits with 1 if a network with loaded weights answers as it should.
set -euo pipefail
work="$(mktemp -d)"; trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "torch==2.14.1" "timm==1.0.31"
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys

import timm
import torch


def network(seed):
    torch.manual_seed(seed)
    net = timm.create_model("levit_128s", pretrained=False, num_classes=10).eval()
    with torch.no_grad():
        for name, parameter in net.named_parameters():  # at the start biases are 0, and weights too small to see them
            parameter.normal_(std=1.0 if "attention_biases" in name or parameter.ndim == 1 else 0.1)
    return net


first, second = network(0), network(1)
images = torch.randn(2, 3, 224, 224)
with torch.no_grad():
    first(images)
    first.load_state_dict(second.state_dict())
    wrong, right = first(images), second(images)
    mended = first.train().eval()(images)
scale = float(right.abs().max())
print(f"largest logit {scale:.3g}")
print(f"same weights, loaded in evaluation mode: logits off by {float((wrong - right).abs().max()) / scale:.1%} of it")
print(f"after train().eval(): off by {float((mended - right).abs().max()) / scale:.1%}")
sys.exit(0 if not torch.allclose(wrong, right, rtol=1e-3) and torch.equal(mended, right) else 1)
PYTHON
