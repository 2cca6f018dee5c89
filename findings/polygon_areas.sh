#!/usr/bin/env bash
# One polygon, two areas: a rectangle of 6 x 4 pixels, corners (3, 2) and (9, 6), covers 24 pixels by pycocotools and 35
# by OpenCV and by Pillow, which paint the pixels of the outline too, on all four sides: 46 % more.
#
# The corners are the same; that of COCO counts them between pixels, the others as pixels. Masks that were made by one and
# scored by the other differ by a rim, the more the smaller the object is.
# pycocotools 2.0.11 (maskApi.c, rleFrPoly), OpenCV 5.0.0.93 (cv2.fillPoly: which fills the contour with its outline),
# Pillow 13.0.0 (ImageDraw.polygon): https://pypi.org/project/pycocotools/2.0.11,
# https://pypi.org/project/opencv-python-headless/5.0.0.93, https://pypi.org/project/pillow/13.0.0.
# Prints the areas, and fails where they have changed.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check \
    pycocotools==2.0.11 opencv-python-headless==5.0.0.93 pillow==13.0.0 numpy==2.4.6
"$place/venv/bin/python" - <<'PYTHON'
import cv2
import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as rle_tools

corners = [3, 2, 9, 2, 9, 6, 3, 6]
coco = rle_tools.decode(rle_tools.frPyObjects([corners], 8, 12))
filled = np.zeros((8, 12), np.uint8)
cv2.fillPoly(filled, [np.reshape(corners, (-1, 2)).astype(np.int32)], 1)
drawn = Image.new("L", (12, 8))
ImageDraw.Draw(drawn).polygon(corners, fill=1)
areas = {"pycocotools": int(coco.sum()), "OpenCV": int(filled.sum()), "Pillow": int(np.array(drawn).sum())}
print(", ".join(f"{name} {area}" for name, area in areas.items()))
raise SystemExit(areas != {"pycocotools": 24, "OpenCV": 35, "Pillow": 35})
PYTHON
