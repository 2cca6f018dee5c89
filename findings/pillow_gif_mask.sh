#!/usr/bin/env bash
# Pillow 13.0.0 (https://pypi.org/project/pillow/13.0.0): a gray picture saved as GIF comes back as palette indices.
# The writer keeps only the grays in use and numbers them anew, and the reader gives the picture the mode P; an array of
# it holds the new numbers. A mask that is 255 everywhere is read as 0 everywhere, one of 0 and 7 as 0 and 1. The picture
# itself is intact: convert("L") gives the grays back. Prints what is read, and fails where that has changed.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0 numpy==2.4.6
cd "$place"
"$place/venv/bin/python" - <<'PYTHON'
import numpy as np
from PIL import Image

changed = False
for name, saved, expected in (
    ("full", np.full((8, 12), 255, np.uint8), [0]),
    ("two values", np.repeat(np.array([[0], [7]], np.uint8), 12, axis=1), [0, 1]),
):
    Image.fromarray(saved).save("mask.gif")
    with Image.open("mask.gif") as file:
        mode, read, gray = file.mode, np.unique(np.array(file)).tolist(), np.unique(np.array(file.convert("L"))).tolist()
    print(f"{name}: saved {np.unique(saved).tolist()}, mode {mode}, read {read}, converted to gray {gray}")
    changed |= read != expected or gray != np.unique(saved).tolist()
raise SystemExit(changed)
PYTHON
