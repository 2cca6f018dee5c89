"""What a round of detection costs, over what it cost in another revision of this repository.

    python benchmarks/against.py --rev 384f25f

Both builds run side by side from git worktrees, in turns, each turn in a process of its own with one thread: a network
is examined in each of three validations of a fit that changes no weight (ten classes with 60 images each, 64 px, as in
`detection_cost.py`). Ratios are of CPU seconds (and, beside them, of wall time) of the first round, and of the later
ones; medians over the repeats, their spread the distance between the quartiles.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _report import median_and_spread, parser, report
from rich.progress import track

ROOT = Path(__file__).resolve().parent.parent
CASES = {  # is there a cue, are there masks
    "round_nothing": (False, True),
    "round_all": (True, True),
    "round_nothing_no_masks": (False, False),
    "round_all_no_masks": (True, False),
}


def rounds(cued: bool, masked: bool, weights: Path) -> list[dict[str, Any]]:
    """CPU and wall seconds of each of three rounds, and how many classes were found reliant; runs in either build."""
    import pytorch_lightning as pl
    import torch
    from _bare import BareClassifier
    from detection_cost import BATCH, CLASSES, PER_CLASS, learnt, squares
    from torch.utils.data import DataLoader

    from camtrain.callbacks import RelianceDetector
    from camtrain.networks import SmallResNet

    torch.set_num_threads(1)
    if weights.exists():
        module = BareClassifier(SmallResNet(CLASSES), torch.optim.SGD, lr=0.0)
        module.load_state_dict(torch.load(weights))
    else:
        module = learnt(cued, "cpu")
        torch.save(module.state_dict(), weights)
        return []
    seconds: list[dict[str, Any]] = []

    class Timed(RelianceDetector):
        def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            cpu, wall = time.process_time(), time.perf_counter()
            super().on_validation_epoch_end(trainer, pl_module)
            if not trainer.sanity_checking:
                found = [verdict.verdict for verdict in self.verdicts].count("reliant")
                spent = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
                seconds.append({**spent, "reliant": found})

    images = DataLoader(squares(PER_CLASS, cued, 1, masked), BATCH)
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=3,
            limit_train_batches=1,
            callbacks=[Timed(images_per_class=PER_CLASS, lend_from_training=False, regions=0, spend_alpha=False)],
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, images, images)
    return seconds


def in_build(build: Path, case: str, weights: Path) -> list[dict[str, Any]]:
    """The rounds of a case in one of the builds, with a copy of this file that imports that build's modules."""
    script = weights.with_name("against.py")
    shutil.copy(__file__, script)
    paths = [str(build), str(build / "benchmarks")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", str(script), "--case", case, str(weights)]
    done = subprocess.run(command, cwd=build, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{case} failed in {build}:\n{done.stderr[-2000:]}")
    answer: list[dict[str, Any]] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def compare(case: str, builds: tuple[Path, Path], repeats: int, folder: Path) -> dict[str, Any]:
    """One row: this build over the other."""
    weights = folder / f"{case}.pt"
    in_build(builds[1], case, weights)  # trains
    ratios: dict[str, list[float]] = {"cpu": [], "wall": [], "later_cpu": [], "later_wall": []}
    reliant = []
    for _ in track(range(repeats), case):
        mine, other = (in_build(build, case, weights) for build in builds)
        reliant = [mine[0]["reliant"], other[0]["reliant"]]
        for clock in ("cpu", "wall"):
            ratios[clock].append(mine[0][clock] / other[0][clock])
            ratios[f"later_{clock}"].append(sum(r[clock] for r in mine[1:]) / sum(r[clock] for r in other[1:]))
    spreads = {name: median_and_spread(values) for name, values in ratios.items()}
    row: dict[str, Any] = {"case": case, "reliant": reliant[0], "reliant, other": reliant[1], "repeats": repeats}
    for name, (median, spread) in spreads.items():
        row |= {name: median, f"{name}, spread": spread}
    return row


def main() -> None:
    """The table of all cases."""
    if "--case" in sys.argv:
        case, weights = sys.argv[-2:]
        print(json.dumps(rounds(*CASES[case], Path(weights))))
        return
    made = parser(__doc__ or "")
    made.add_argument("--rev", required=True, help="the revision to compare with")
    made.add_argument("--repeats", type=int, default=None, help="default: 5, quick 1")
    made.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES))
    options = made.parse_args()
    repeats = options.repeats or (1 if options.quick else 5)
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "other"
        subprocess.run(["git", "worktree", "add", "--detach", str(other), options.rev], cwd=ROOT, check=True)
        try:
            rows = [compare(case, (ROOT, other), repeats, Path(folder)) for case in options.only]
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(other)], cwd=ROOT, check=True)
    summary = {row["case"]: row["cpu"] for row in rows}
    later = [row["later_cpu"] for row in rows]
    summary["later_round"] = max(later)
    report(rows, summary, options, f"A round of detection, over {options.rev}")


if __name__ == "__main__":
    main()
