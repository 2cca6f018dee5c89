"""What checking costs: epochs over a folder of photographs with masks, this build beside another of the repository.

    python benchmarks/reading.py --rev 384f25f --json benchmarks/results/reading.json

Photographs of 500 x 375 pixels in class folders, with a PNG mask each, are read by each build in turn, a process for
each round, in CPU seconds: once with `verify="decode"`, which opens every file, then for whole epochs as a training
reads them, with its transform. The ratio is that of the whole (verification once and two epochs), the median of rounds.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from _report import median_and_spread, parser, report
from PIL import Image, ImageFilter

ROOT = Path(__file__).resolve().parent.parent
CHILD = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
import torch
torch.set_num_threads(1)
torch.manual_seed(0)
from camtrain.data.folders import MaskedImageFolder
from camtrain.data.transforms import train_transform
root, epochs = sys.argv[1], int(sys.argv[2])
start = time.process_time()
dataset = MaskedImageFolder(root, "images", "masks", transform=train_transform(224))
verified = time.process_time() - start
times = []
for _ in range(epochs):
    start = time.process_time()
    inside = sum(float((dataset[index]["mask"] == 1).sum()) for index in range(len(dataset)))
    times.append(time.process_time() - start)
print(json.dumps({"verify": verified, "epoch": min(times), "whole": verified + sum(times), "inside": inside}))
"""


def photographs(folder: Path, count: int, seed: int) -> None:
    """Images with texture, and elliptical masks."""
    rng = np.random.default_rng(seed)
    rows, columns = np.ogrid[:375, :500]
    for number in range(count):
        name = f"class_{number % 10}"
        for kind in ("images", "masks"):
            (folder / kind / name).mkdir(parents=True, exist_ok=True)
        noise = Image.fromarray(rng.integers(0, 256, (94, 125, 3), dtype=np.uint8)).resize((500, 375))
        noise.filter(ImageFilter.SMOOTH).save(folder / "images" / name / f"{number}.jpg", quality=90)
        x, y, radius = rng.uniform(100, 400), rng.uniform(100, 275), rng.uniform(40, 140)
        mask = ((rows - y) ** 2 + 0.5 * (columns - x) ** 2 < radius**2).astype(np.uint8) * 255
        Image.fromarray(mask).save(folder / "masks" / name / f"{number}.png")


def measured(build: Path, folder: Path, epochs: int) -> dict[str, float]:
    """Seconds of one process of a build."""
    environment = {**os.environ, "PYTHONPATH": str(build), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CHILD, str(folder), str(epochs)]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=True)
    seconds: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return seconds


def main(options: argparse.Namespace) -> None:
    """Make the photographs, check the other build out, read in turn."""
    count, rounds = (60, 5) if options.quick else (options.images, 7)
    with tempfile.TemporaryDirectory() as place:
        other, folder = Path(place) / "other", Path(place) / "data"
        subprocess.run(["git", "worktree", "add", "--detach", str(other), options.rev], cwd=ROOT, check=True)
        try:
            photographs(folder, count, seed=0)
            builds = {"this": ROOT, options.rev: other}
            rows = [
                {"round": number, "build": name, **measured(build, folder, epochs=2)}
                for number in range(rounds)
                for name, build in (builds.items() if number % 2 else reversed(builds.items()))
            ]
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(other)], cwd=ROOT, check=True)
    summary = {"images": count, "rev": options.rev}
    for part in ("verify", "epoch", "whole"):
        mine, theirs = ([row[part] for row in rows if row["build"] == name] for name in builds)
        ratio, spread = median_and_spread([a / b for a, b in zip(mine, theirs, strict=True)])
        summary |= {f"{part}_ratio": ratio, f"{part}_spread": spread}
    assert len({row["inside"] > 0 for row in rows}) == 1
    report(rows, summary, options, "Seconds of verification and of an epoch")


if __name__ == "__main__":
    arguments = parser(__doc__)
    arguments.add_argument("--rev", default="384f25f", help="the build to compare with (default %(default)s)")
    arguments.add_argument("--images", type=int, default=2000)
    main(arguments.parse_args())
