#!/usr/bin/env bash
# A mask of 0 and 1 that is saved as JPEG can come back empty, and a label map of 0, 1 and 2 as a clean mask of 0 and 2.
#
# JPEG divides the frequencies of each block of 8 x 8 pixels by a table and rounds; at quality 50 one gray level is half a
# step of the mean, two are a whole one. What is left has no noise by which it could be known as compressed: two values,
# as a proper mask has. At quality 95 both come back as they were.
# Pillow 13.0.0 (https://pypi.org/project/pillow/13.0.0), with the tables of the standard, ITU-T T.81 annex K.
# Prints the values that are read, and fails where they have changed.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0 numpy==2.4.6
cd "$place"
"$place/venv/bin/python" - <<'PYTHON'
import numpy as np
from PIL import Image

mask = np.zeros((128, 192), np.uint8)
mask[30:90, 40:120] = 1
ring = np.zeros_like(mask)
ring[20:100, 30:130] = 1
changed = False
for name, saved, quality, expected in (
    ("mask of 0 and 1", mask, 50, [0]),
    ("mask of 0 and 1", mask, 95, [0, 1]),
    ("label map of 0, 1 and 2", mask + ring, 50, [0, 2]),
    ("label map of 0, 1 and 2", mask + ring, 95, [0, 1, 2]),
):
    Image.fromarray(saved).save("mask.jpg", quality=quality)
    read = np.unique(np.array(Image.open("mask.jpg"))).tolist()
    print(f"{name}, quality {quality}: read {read}")
    changed |= read != expected
raise SystemExit(changed)
PYTHON
