#!/usr/bin/env bash
# Pillow 13.0.0 (https://pypi.org/project/pillow/13.0.0) opens a color TIFF of five or six channels, as satellites and
# microscopes give them, as a plain RGB picture: the first three, without an error or a warning. The fourth channel of a
# file of four goes the same way where its tag ExtraSamples says "unspecified" (0), as for near infrared; converted to
# RGBA it has an opacity of 255 everywhere in its place. The same five channels under the photometric interpretation
# "black is zero" cannot be opened at all. TiffImagePlugin.OPEN_INFO lists the modes: RGBXX, RGBXXX.
# The files are written by the TIFF 6.0 specification, one row of two pixels whose bytes count from 0.
# Prints what is read of each, and fails where that has changed.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0 numpy==2.4.6
cd "$place"
"$place/venv/bin/python" - <<'PYTHON'
import struct
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

warnings.simplefilter("error")


def write(path, channels, photometric):
    extra = channels - (3 if photometric == 2 else 1)
    tags = [(256, 1, 2), (257, 1, 1), (258, channels, 150), (259, 1, 1), (262, 1, photometric), (273, 1, 200)]
    tags += [(277, 1, channels), (278, 1, 1), (279, 1, 2 * channels), (338, extra, 180 if extra > 2 else 0)]
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    head += b"".join(struct.pack("<HHII", tag, 3, count, value) for tag, count, value in tags) + bytes(4)
    head = head.ljust(150, b"\0") + struct.pack(f"<{channels}H", *[8] * channels)
    with open(path, "wb") as file:
        file.write(head.ljust(200, b"\0") + bytes(range(2 * channels)))


changed = False
for channels, photometric, expected in (
    (4, 2, [[0, 1, 2], [4, 5, 6]]),
    (5, 2, [[0, 1, 2], [5, 6, 7]]),
    (6, 2, [[0, 1, 2], [6, 7, 8]]),
    (5, 1, None),
):
    write("bands.tif", channels, photometric)
    try:
        with Image.open("bands.tif") as image:
            read, mode = np.array(image)[0].tolist(), image.mode
    except UnidentifiedImageError:
        read, mode = None, "not opened"
    print(f"{channels} channels, photometric {photometric}: {mode}, read {read}")
    changed |= read != expected
raise SystemExit(changed)
PYTHON
