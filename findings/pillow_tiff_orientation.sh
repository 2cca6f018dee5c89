#!/usr/bin/env bash
# Pillow 11.0.0 to 13.0.0 (https://pypi.org/project/pillow/13.0.0) mixes up the pixels of a gray TIFF file that is not
# compressed and whose orientation is a quarter turn: the size is swapped before the pixels are read, so that rows are cut
# at the wrong length, and the result is turned once more. Pillow 10.4.0 reads it rightly, and all of them the same file
# with compression. The file is of two rows and three columns with the orientation 6; upright it is [[3,0],[4,1],[5,2]].
# Prints what each version reads, and fails where that has changed.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
cat >"$place/read.py" <<'PYTHON'
import sys

import numpy as np
import PIL
from PIL import Image

exif = Image.Exif()
exif[0x0112] = 6
read = []
for options in ({}, {"compression": "tiff_lzw"}):
    Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3)).save("turned.tif", exif=exif, **options)
    with Image.open("turned.tif") as image:
        image.load()
        read.append(np.array(image).tolist())
print(f"Pillow {PIL.__version__}: without compression {read[0]}, with it {read[1]}")
sys.exit(str(read).replace(" ", "") != sys.argv[1])
PYTHON
cd "$place"
python3 -m venv venv
right="[[3,0],[4,1],[5,2]]"
for pair in "10.4.0 $right" "11.0.0 [[4,2,0],[5,3,1]]" "13.0.0 [[4,2,0],[5,3,1]]"; do
    read -r version expected <<<"$pair"
    venv/bin/pip install --quiet --disable-pip-version-check "pillow==$version" numpy==2.2.6
    venv/bin/python read.py "[$expected,$right]"
done
