"""What becomes of the papers' claims: differences of two methods on the same images, and who does best."""

from collections.abc import Mapping

from _faithfulness_rows import CONTROLS, LOWER, Sheet
from torch import Tensor

from camtrain.metrics import Interval, mean_interval
from camtrain.metrics.functional.randomization import CHANGED_BELOW

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
CONTESTS = {
    "Covers two objects best": "instance_coverage",
    "Tells two classes apart best": "class_discrimination",
    "Follows occlusion best": "occlusion_correlation",
    "Drops least": "average_drop",
}


def claims(sheet: Sheet) -> dict[str, str]:
    """What papers claim of two methods, by the interval of the difference on the same images; and the contests."""
    found = {}
    for said, better, worse, metric in CLAIMS:
        if metric in sheet.get(better, {}) and metric in sheet.get(worse, {}):
            found[said] = _verdict(_difference(sheet[better][metric], sheet[worse][metric]), lower=metric in LOWER)
    if "win_over_grad_cam" in sheet.get(PLUS, {}):
        won, lost = (float(sheet[PLUS][metric].nansum()) for metric in ("win_over_grad_cam", "grad_cam_wins"))
        found["Grad-CAM++ wins over Grad-CAM"] = f"{won:.0f} images against {lost:.0f}"
    for said, metric in CONTESTS.items():
        entered = {name: values[metric] for name, values in sheet.items() if metric in values}
        if len(entered) > 1:
            found[said] = contest(entered, lower=metric in LOWER)
    if any("random_weights" in values for values in sheet.values()):
        found["Maps that do not change with random weights"] = _unchanged(sheet)
    return found


def contest(entered: Mapping[str, Tensor], *, lower: bool = False) -> str:
    """The method with the best mean, and those whose difference from it on the same images is within the noise."""
    methods = {name: values for name, values in entered.items() if name not in CONTROLS}
    means = {name: float(values.nanmean()) for name, values in methods.items()}
    best = min(means, key=lambda name: means[name] if lower else -means[name])
    close = []
    for name, values in entered.items():
        apart = _difference(values, methods[best])
        if name != best and not (apart.low > 0 or apart.high < 0):
            close.append(name)
    return f"{best} ({means[best]:.3g})" + (f"; undecided against {', '.join(close)}" if close else "")


def _unchanged(sheet: Sheet) -> str:
    at_last = {name: float(values["random_weights"].nanmean()) for name, values in sheet.items()}
    return ", ".join(f"{name} ({value:.2f})" for name, value in at_last.items() if value >= CHANGED_BELOW) or "none"


def _difference(one: Tensor, other: Tensor) -> Interval:
    difference = one - other
    known = difference[~difference.isnan()].double()
    return mean_interval(float(known.sum()), float(known.square().sum()), len(known))


def _verdict(found: Interval, *, lower: bool) -> str:
    text = f"difference {found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]: "
    if found.low <= 0 <= found.high:
        return text + "undecided"
    return text + ("holds" if (found.mean < 0) == lower else "the opposite holds")
