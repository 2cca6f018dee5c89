"""Do heatmaps tell the truth: every method by every metric, on photographs and pretrained networks.

    python benchmarks/faithfulness.py --quick --data DIR

Faithfulness is asked on photographs of ImageNet, of the predicted class; grounding on outlined objects, where the
prediction is right, and on two photographs side by side (of the same kind: does each get evidence; of different kinds:
is it on the own one); misclassified photographs are explained for their true class. `random_map` and `center_map` are
controls that do not look at the model: a metric that cannot tell a method from them says nothing about it. Means with
95 % intervals over images; average drop, shares of images and wins in percent. `win_over_grad_cam` is how often a
method's drop is smaller than Grad-CAM's, `grad_cam_wins` the reverse; the rest are ties. Speed is that of insertion and
deletion beside the fastest peer, interleaved.

The published numbers printed below are from other networks (VGG-16 there) and other images (ImageNet's and PASCAL VOC's
validation sets): compare orders, not values.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import torch
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
from _report import parser, report
from torch import Tensor

from camtrain.metrics import mean_interval

KINDS = {"faithfulness": faithfulness, "grounding": grounding, "misclassified": misclassified, "trust": trust}
PUBLISHED = {
    "occlusion_correlation": "Selvaraju 2017: Grad-CAM .254, Guided Grad-CAM .261, guided backpropagation .168",
    "pointing_game": "Selvaraju 2017: Grad-CAM 70.6, c-MWP 60.3",
    "misclassified": "Chen 2024 (CUB-200, Grad-CAM++), highest confidence / insertion: ResNet-101 .265/.109, "
    "MobileNetV2 .346/.128, EfficientNetV2-M .266/.161",
}
PLUS, PLAIN, GUIDED, BACKPROP = "grad_cam_plus_plus", "grad_cam", "guided_grad_cam", "guided_backpropagation"
CLAIMS = (
    ("Grad-CAM++ drops less than Grad-CAM", PLUS, PLAIN, "average_drop"),
    ("Grad-CAM++ increases more often than Grad-CAM", PLUS, PLAIN, "increase"),
    ("Grad-CAM++ covers two objects better than Grad-CAM", PLUS, PLAIN, "instance_coverage"),
    ("Grad-CAM tells two classes apart better than Grad-CAM++", PLAIN, PLUS, "class_discrimination"),
    ("Guided Grad-CAM follows occlusion better than Grad-CAM", GUIDED, PLAIN, "occlusion_correlation"),
    ("Grad-CAM follows occlusion better than guided backpropagation", PLAIN, BACKPROP, "occlusion_correlation"),
    ("Guided backpropagation changes less than Grad-CAM with random weights", BACKPROP, PLAIN, "random_weights"),
)
Rows = list[dict[str, Any]]


def measure(name: str, options: argparse.Namespace) -> tuple[Rows, dict[str, str]]:
    """All metrics of one network, and what becomes of the papers' claims."""
    model = network(name, options.data, options.device)
    many, few = (imagenet(options.data, count, options.device) for count in (options.pool, options.images))
    objects = sysu(options.data, options.objects, options.device)
    methods = (*options.methods, *CONTROLS)
    given = {"faithfulness": few, "grounding": objects, "misclassified": many, "trust": few}
    rows: Rows = []
    said: dict[str, str] = {}
    for kind in options.kinds:
        sheet = KINDS[kind](model, given[kind], methods, options)
        rows += [{"kind": kind, **row} for row in long_rows(name, sheet)]
        said |= {f"claim.{name}.{claim}": verdict for claim, verdict in claims(sheet).items()}
    for method, seconds in seconds_per_image(model, few.images[: options.chunk], methods).items():
        cost = {"metric": "milliseconds", "mean": 1e3 * seconds}
        rows.append({"kind": "cost", "network": name, "method": method, **cost})
    return rows, said


def tables(rows: Rows) -> dict[str, Rows]:
    """For each network and kind, methods by metrics: the mean and half the interval."""
    shown: dict[str, Rows] = {}
    for kind, name in dict.fromkeys((row["kind"], row["network"]) for row in rows):
        own = [row for row in rows if (row["kind"], row["network"]) == (kind, name)]
        title = f"{name}: {kind}" + (f" ({own[0]['images']} images)" if "images" in own[0] else "")
        by_method: dict[str, dict[str, Any]] = {}
        for row in own:
            by_method.setdefault(row["method"], {"method": row["method"]})[row["metric"]] = _text(row)
        shown[title] = list(by_method.values())
    return shown


def _text(row: dict[str, Any]) -> str:
    if "low" not in row:
        return f"{row['mean']:.3g}"
    return f"{row['mean']:.3g} ±{(row['high'] - row['low']) / 2:.2g}"


def summarize(rows: Rows) -> dict[str, Any]:
    """The mean of each method and metric: under `<method>.<metric>` for the first network, with its name for all."""
    summary: dict[str, Any] = {}
    first = rows[0]["network"] if rows else ""
    for row in rows:
        key = row["metric"] if row["kind"] != "misclassified" else f"misclassified_{row['metric']}"
        if row["network"] == first:
            summary[f"{row['method']}.{key}"] = row["mean"]
        summary[f"{row['network']}.{row['method']}.{key}"] = row["mean"]
    return summary


def claims(sheet: Sheet) -> dict[str, str]:
    """What papers claim of two methods, by the interval of the difference on the same images."""
    found = {}
    for said, better, worse, metric in CLAIMS:
        if metric in sheet.get(better, {}) and metric in sheet.get(worse, {}):
            found[said] = _verdict(sheet[better][metric] - sheet[worse][metric], lower=metric == "average_drop")
    if "win_over_grad_cam" in sheet.get(PLUS, {}):
        won, lost = (float(sheet[PLUS][metric].nansum()) for metric in ("win_over_grad_cam", "grad_cam_wins"))
        found["Grad-CAM++ wins over Grad-CAM"] = f"{won:.0f} images against {lost:.0f}"
    return found


def _verdict(difference: Tensor, *, lower: bool) -> str:
    known = difference[~difference.isnan()].double()
    found = mean_interval(float(known.sum()), float(known.square().sum()), len(known))
    text = f"difference {found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]: "
    if found.low <= 0 <= found.high:
        return text + "undecided"
    return text + ("holds" if (found.mean < 0) == lower else "the opposite holds")


def main() -> None:
    made = parser(__doc__, data=True)
    made.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NAME")
    made.add_argument("--methods", nargs="+", default=list(METHODS), metavar="NAME", help="grad_cam among them")
    made.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS), metavar="KIND", help=", ".join(KINDS))
    made.add_argument("--images", type=int, default=100, help="photographs of ImageNet")
    made.add_argument("--objects", type=int, default=200, help="outlined objects")
    made.add_argument("--wrong", type=int, default=50, help="misclassified photographs")
    made.add_argument("--trust", type=int, default=32, help="photographs for randomization and noise")
    made.add_argument("--steps", type=int, default=50, help="of insertion and deletion")
    made.add_argument("--speed-images", type=int, default=100)
    made.add_argument("--rounds", type=int, default=3, help="of the comparison of speed; 0 leaves it out")
    made.add_argument("--max-batch", type=int, default=64, help="images in one forward pass")
    made.add_argument("--threads", type=int, default=1)
    options = made.parse_args()
    torch.set_num_threads(options.threads)
    scale(options)
    measured = [measure(name, options) for name in options.networks]
    rows = [row for found, _ in measured for row in found]
    summary = {**summarize(rows), **speeds(options.networks, options)}
    for _, said in measured:
        summary |= said
    summary |= {f"published.{metric}": said for metric, said in PUBLISHED.items()}
    summary["units"] = "drops, increases, wins, pointing game, localization error in percent; the others as defined"
    kept = ("claim", "published", "speed", "units")
    brief = {name: value for name, value in summary.items() if name.startswith(kept)}
    report(rows, summary, options, tables=tables(rows), brief=brief)


def scale(options: argparse.Namespace) -> None:
    """What follows from the options, and what `--quick` makes smaller."""
    options.chunk, options.pool, options.window, options.stages, options.samples = 16, 500, 32, 5, 10
    options.percentiles = (20, 40, 60, 80)
    if options.quick:
        options.networks, options.methods = options.networks[:1], [m for m in options.methods if m not in SLOW]
        options.images, options.objects, options.wrong = 12, 40, 8
        options.trust, options.steps, options.speed_images, options.rounds = 8, 10, 2, min(options.rounds, 2)
        options.pool, options.window, options.stages, options.samples = 100, 56, 3, 3
        options.percentiles = (50,)


def speeds(networks: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """Under `speed.<network>.<what>`; the comparison takes 50 steps whatever the others take."""
    found: dict[str, Any] = {}
    for name in networks if options.rounds else ():
        model = network(name, options.data, options.device)
        images = imagenet(options.data, options.speed_images, options.device).images
        values = speed(model, images, 50, options.rounds, options.max_batch)
        found |= {f"speed.{name}.{key}": value for key, value in values.items()}
    return found


if __name__ == "__main__":
    main()
