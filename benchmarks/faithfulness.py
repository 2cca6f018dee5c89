"""Do heatmaps tell the truth: every method by every metric, on photographs and pretrained networks.

    python benchmarks/faithfulness.py --quick --data DIR

Faithfulness is asked on photographs of ImageNet, of the predicted class; grounding on outlined objects, where the
prediction is right, and on two photographs side by side (of the same kind: does each get evidence; of different kinds:
is it on the own one); misclassified photographs are explained for their true class; clips by a 3-D network in space and
time. No pretrained captioner is at hand: words and answers are those of the examples' small networks, trained on drawn
pictures. `random_map` and `center_map` are controls that do not look at the model: a metric that cannot tell a method
from them says nothing about it.

Means with 95 % intervals over images; average drop, shares of images and wins in percent. `win_over_grad_cam` is how
often a method's drop is smaller than Grad-CAM's, `grad_cam_wins` the reverse; the rest are ties. A claim is judged by
the interval of the difference on the same images. Speed is that of insertion and deletion at 50 steps beside the
fastest peer, interleaved, in CPU seconds on a CPU.

With --json what is finished is in the file at once, and is not run again while its settings are the same.

The published numbers printed below are from other networks (VGG-16 there) and other images (ImageNet's and PASCAL VOC's
validation sets): compare orders, not values.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import _faithfulness_video as moving
import _faithfulness_words as words
import torch
from _faithfulness_claims import claims
from _faithfulness_data import NETWORKS, imagenet, network, sysu
from _faithfulness_rows import (
    CONTROLS,
    METHODS,
    SLOW,
    Sheet,
    faithfulness,
    grounding,
    long_rows,
    misclassified,
    seconds_per_image,
    trust,
)
from _faithfulness_speed import speed
from _faithfulness_table import Rows, markdown, summarize, tables
from _report import environment, parser, report
from _runs import Ledger, Run

MEASURES: dict[str, Callable[..., Sheet]] = {
    "faithfulness": faithfulness,
    "grounding": grounding,
    "misclassified": misclassified,
    "trust": trust,
}
OF_PHOTOS = (*MEASURES, "cost", "speed")
OTHERS = {"video": "i3d", "captions": "captioner", "answers": "answerer"}
KINDS = (*OF_PHOTOS, *OTHERS)
MATTERS = {  # what a finished run depends on, beside its kind, network and methods
    "faithfulness": ("images", "steps", "window", "percentiles"),
    "grounding": ("objects",),
    "misclassified": ("wrong", "pool", "steps"),
    "trust": ("trust", "stages", "samples"),
    "cost": (),
    "speed": ("speed_images", "rounds"),
    "video": ("clips", "video_steps", "side"),
    "captions": ("pictures", "training_steps"),
    "answers": ("pictures", "training_steps"),
}
PUBLISHED = {
    "occlusion_correlation": "Selvaraju 2017: Grad-CAM .254, Guided Grad-CAM .261, guided backpropagation .168",
    "pointing_game": "Selvaraju 2017: Grad-CAM 70.6, c-MWP 60.3",
    "misclassified": "Chen 2024 (CUB-200, Grad-CAM++), highest confidence / insertion: ResNet-101 .265/.109, "
    "MobileNetV2 .346/.128, EfficientNetV2-M .266/.161",
}


def settings(options: argparse.Namespace) -> list[dict[str, Any]]:
    """What is to be run, in order."""
    pairs = [(kind, name) for name in options.networks for kind in OF_PHOTOS if kind in options.kinds]
    pairs += [(kind, name) for kind, name in OTHERS.items() if kind in options.kinds]
    return [setting(kind, name, options) for kind, name in pairs if kind != "speed" or options.rounds]


def setting(kind: str, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """All that the numbers of one kind and network depend on."""
    given = {key: getattr(options, key) for key in MATTERS[kind]}
    return {"kind": kind, "network": name, "methods": methods_of(kind, options), **given}


def methods_of(kind: str, options: argparse.Namespace) -> list[str]:
    if kind == "speed":
        return []
    chosen = {"video": options.video_methods, "captions": options.words_methods, "answers": options.words_methods}
    return [*chosen.get(kind, options.methods), *CONTROLS]


def measure(kind: str, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One kind on one network: rows, and what becomes of the papers' claims."""
    methods = methods_of(kind, options)
    if kind == "cost":
        return {"rows": costs(name, methods, options), "claims": {}}
    if kind == "speed":
        images = imagenet(options.data, options.speed_images, options.device).images
        model = network(name, options.data, options.device)
        return {"rows": [], "claims": {}, "speed": speed(model, images, 50, options.rounds, options.max_batch)}
    sheet = sheet_of(kind, name, methods, options)
    return {"rows": [{"kind": kind, **row} for row in long_rows(name, sheet)], "claims": claims(sheet)}


def sheet_of(kind: str, name: str, methods: Sequence[str], options: argparse.Namespace) -> Sheet:
    if kind == "video":
        videos = moving.clips(options.data, options.clips, options.side).to(options.device)
        return moving.video(moving.network(options.data, options.device), videos, methods, options)
    if kind in OTHERS:
        return (words.captioned if kind == "captions" else words.answered)(methods, options)
    counts = {"faithfulness": options.images, "misclassified": options.pool, "trust": options.trust}
    load = partial(sysu, count=options.objects) if kind == "grounding" else partial(imagenet, count=counts[kind])
    photos = load(options.data, device=options.device)
    return MEASURES[kind](network(name, options.data, options.device), photos, methods, options)


def costs(name: str, methods: Sequence[str], options: argparse.Namespace) -> Rows:
    images = imagenet(options.data, options.chunk, options.device).images
    spent = seconds_per_image(network(name, options.data, options.device), images, methods)
    shared = {"kind": "cost", "network": name, "metric": "milliseconds"}
    return [{**shared, "method": method, "mean": 1e3 * seconds} for method, seconds in spent.items()]


def describe(planned: Sequence[Mapping[str, Any]], device: str, runs: Sequence[Run]) -> dict[str, Any]:
    """Rows and summary of those of the planned runs that are finished."""
    found = [run for one in planned for run in runs if run["setting"] == one]
    rows = [row for run in found for row in run["rows"]]
    summary: dict[str, Any] = summarize(rows)
    for run in found:
        name = run["setting"]["network"]
        summary |= {f"claim.{name}.{claim}": said for claim, said in run["claims"].items()}
        summary |= {f"speed.{name}.{key}": value for key, value in run.get("speed", {}).items()}
    summary |= {f"published.{metric}": said for metric, said in PUBLISHED.items()}
    summary["units"] = "drops, increases, wins, pointing game, localization error in percent; the others as defined"
    return {"rows": rows, "summary": summary, "environment": environment(device)}


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    planned = settings(options)
    ledger = Ledger(options.json, lambda runs: describe(planned, options.device, runs))
    for one in planned if not options.finished else ():
        kind, name = one["kind"], one["network"]
        run = ledger.once(one, partial(measure, kind, name, options))
        print(f"{name}, {kind}: {run['seconds']:.0f} s", flush=True)
    ledger.save()  # rows and summary of these settings, also where nothing was left to run
    found = describe(planned, options.device, ledger.runs)
    shown = tables(found["rows"])
    if options.markdown:
        for title, rows in shown.items():
            print(f"\n{title}\n\n{markdown(rows)}")
        shown = {}
    kept = ("claim", "published", "speed", "units")
    brief = {name: value for name, value in found["summary"].items() if name.startswith(kept)}
    options.json = None  # the ledger has written it
    report(found["rows"], found["summary"], options, tables=shown, brief=brief)


def arguments() -> argparse.Namespace:
    made = parser(__doc__, data=True)
    made.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NAME")
    made.add_argument("--methods", nargs="+", default=list(METHODS), metavar="NAME", help="grad_cam among them")
    made.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS), metavar="KIND", help=", ".join(KINDS))
    made.add_argument("--images", type=int, default=100, help="photographs of ImageNet")
    made.add_argument("--objects", type=int, default=200, help="outlined objects")
    made.add_argument("--wrong", type=int, default=50, help="misclassified photographs")
    made.add_argument("--trust", type=int, default=32, help="photographs for randomization and noise")
    made.add_argument("--steps", type=int, default=50, help="of insertion and deletion")
    made.add_argument("--window", type=int, default=32, help="of occlusion, in pixels")
    made.add_argument("--percentiles", type=int, nargs="+", default=[20, 40, 60, 80], help="of ROAD")
    made.add_argument("--clips", type=int, default=15)
    made.add_argument("--video-steps", type=int, default=10, help="of insertion and deletion on clips")
    made.add_argument("--pictures", type=int, default=100, help="drawn pictures for words and answers")
    made.add_argument("--speed-images", type=int, default=100)
    made.add_argument("--rounds", type=int, default=3, help="of the comparison of speed; 0 leaves it out")
    made.add_argument("--max-batch", type=int, default=64, help="images in one forward pass")
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--finished", action="store_true", help="run nothing: print what --json holds of these settings")
    made.add_argument("--markdown", action="store_true", help="print the tables in Markdown")
    return scale(made.parse_args())


def scale(options: argparse.Namespace) -> argparse.Namespace:
    """What follows from the options, and what `--quick` makes smaller."""
    options.chunk, options.pool, options.stages, options.samples = 16, 500, 5, 10
    options.side, options.training_steps = 160, 500
    options.video_methods, options.words_methods = list(moving.METHODS), list(words.METHODS)
    if options.quick:
        options.networks, options.methods = options.networks[:1], [m for m in options.methods if m not in SLOW]
        options.images, options.objects, options.wrong, options.trust = 12, 40, 8, 8
        options.steps, options.window, options.percentiles = 10, 56, [50]
        options.clips, options.video_steps, options.side = 3, 4, 112
        options.pictures, options.training_steps = 24, 200
        options.speed_images, options.rounds = 2, min(options.rounds, 3)
        options.pool, options.stages, options.samples = 100, 3, 3
    return options


if __name__ == "__main__":
    main()
