"""The public face: what each of the five import places exports, and that it is documented."""

import importlib
import inspect

import pytest

PLACES = ("camtrain", "camtrain.cam", "camtrain.callbacks", "camtrain.losses", "camtrain.metrics")

FIXED = {  # the names that DESIGN section 3 promises
    "camtrain": ("Explanation", "explain"),
    "camtrain.cam": (
        "capture",
        "class_index",
        "contribution_cam",
        "grad_cam",
        "grad_cam_plus_plus",
        "gradients_of",
        "hires_cam",
        "layer_cam",
        "log_probability",
        "margin",
        "predicted_class",
        "record_activations",
        "true_class",
        "xgrad_cam",
    ),
    "camtrain.callbacks": (
        "AttentionAlignment",
        "ExplanationMonitor",
        "FaithfulnessMonitor",
        "RelianceDetector",
        "RunSummary",
    ),
    "camtrain.losses": ("AlignmentLoss", "HINTLoss", "HeatmapDistillationLoss", "InputGradientLoss"),
    "camtrain.metrics": (
        "AverageDrop",
        "ConfidenceIncrease",
        "DeletionAUC",
        "HeatmapIoU",
        "InsertionAUC",
        "InsideEnergy",
        "OcclusionCorrelation",
        "PointingGame",
        "RelativeForegroundSensitivity",
        "WorstGroupAccuracy",
    ),
}


def exported(place):
    return importlib.import_module(place).__all__


def members():
    return [(place, name) for place in PLACES for name in exported(place)]


@pytest.mark.parametrize("place", PLACES)
def test_all__is_sorted_and_holds_no_name_twice(place):
    assert list(exported(place)) == sorted(set(exported(place)))


@pytest.mark.parametrize("place", PLACES)
def test_all__holds_the_fixed_names(place):
    assert set(FIXED[place]) <= set(exported(place))


@pytest.mark.parametrize("place", PLACES)
def test_all__is_what_a_star_import_gives(place):
    names = {}
    exec(f"from {place} import *", names)
    assert set(names) - {"__builtins__"} == set(exported(place))


@pytest.mark.parametrize("place", PLACES)
def test_all__names_everything_public_that_the_place_defines_or_collects(place):
    module = importlib.import_module(place)
    public = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and callable(value) and (value.__module__ or "").startswith("camtrain")
    }
    assert public <= set(exported(place))


@pytest.mark.parametrize(("place", "name"), members())
def test_public_names__are_documented(place, name):
    value = getattr(importlib.import_module(place), name)
    assert inspect.getdoc(value)


@pytest.mark.parametrize(("place", "name"), members())
def test_public_functions__have_an_example(place, name):
    value = getattr(importlib.import_module(place), name)
    assert not inspect.isfunction(value) or ">>> " in (value.__doc__ or "")
